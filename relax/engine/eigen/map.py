"""The map from a potential to the lowest energies, and states, of its Hamiltonian."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from dolfinx.mesh import Mesh

from relax.base import parallel
from relax.base.checks import at_least, of_kind
from relax.base.fem.forms import num_owned
from relax.base.fem.layout import ControlLayout, as_rows, control_layout
from relax.base.la.options import Options
from relax.base.types import Array
from relax.engine.eigen.derivatives import EigenDerivatives
from relax.engine.eigen.system import EigenSystem
from relax.engine.linearization import Linearization
from relax.engine.protocols import Map, itself, not_pickled, shared
from relax.engine.turn import turn
from relax.errors import BadInput, BadProblem


class EigenMap(Map):
    """G(V) = (E_1, ..., E_k), or also psi_1, ..., psi_k, where -1/2 Lap psi + V psi = E psi, psi = 0 on the boundary.

    Collective: to make, to call, and every method but ``dot`` under ``layout="replicated"``. Dimensionless. Of the same
    protocol as ``ReducedMap``: ``SolutionLayer``, ``check_map``, ``control_values`` and the optimisers take it.

    The control is the vector of the potential's degrees of freedom. States are normalised, of the signs of
    ``pdes.schrodinger.eigenstates``, and given by all their degrees of freedom, in the order of ``FieldValues``.

    An energy that is closer to its neighbour than 1e-6 of the mean kinetic energy has no derivative of its own: what is
    asked of such a cluster raises ``BadInput``, but for ``vjp`` with equal weights, the derivative of the sum.

    Args:
        mesh: the mesh.
        k: how many states.
        degree: polynomial degree of the states.
        potential_space: scalar; ("Lagrange", 1) when not given.
        states: whether states are among the output.
        layout: "replicated" or "owned", of the control vector.
        options: PETSc options, below those of the command line: eps_ and st_ for the eigensolver (``-relax_eigen_``),
            lin_ for the bordered systems of derivatives (``-relax_eigen_lin_``).

    Attributes:
        size_in: the length of the control vector that this rank hands over.
        size_out: k, or k (1 + degrees of freedom of a state).
        num_states: k.
        counts: how many spectra have been computed, and right-hand sides of tangent and adjoint systems solved for:
            first derivatives of energies need none.

    Raises:
        BadInput: on every rank, for a k that the mesh has not, or wrong options.
        BadProblem: for a potential space on another mesh, or of vectors.
    """

    def __init__(
        self,
        mesh: Mesh,
        k: int,
        *,
        degree: int = 2,
        potential_space: fem.FunctionSpace | None = None,
        states: bool = False,
        layout: str = "replicated",
        options: Options | None = None,
    ) -> None:
        of_kind(mesh, Mesh, "a mesh of DOLFINx", "mesh")
        at_least(degree, 1, "degree")
        self.comm = mesh.comm
        if parallel.any_rank(self.comm, not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1):
            raise BadInput(f"k: expected a number of states of at least 1, got {k!r}")
        Q = fem.functionspace(mesh, ("Lagrange", 1)) if potential_space is None else potential_space
        if Q.mesh is not mesh or tuple(Q.value_shape) != ():
            raise BadProblem("potential_space: expected a space of scalars on the same mesh")
        self.num_states = int(k)
        self.potential = fem.Function(Q, name="potential")
        self.layout: ControlLayout = control_layout(layout, self.comm, [self.potential])
        self.counts = {"forward": 0, "tangent": 0, "adjoint": 0}
        V = fem.functionspace(mesh, ("Lagrange", degree))
        self._system = EigenSystem(V, self.potential, self.layout, self.num_states, states, self.counts, options or {})
        self.problem = self._system.problem
        self.size_in = self.layout.size
        self.size_out = self._system.size_out

    __copy__ = itself
    __deepcopy__ = shared
    __reduce_ex__ = not_pickled

    # -- values --------------------------------------------------------------------------------------------------------

    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m), shape (..., size_in) -> (..., size_out). Leading axes are samples.

        Raises:
            SolveFailed: when not all states are found.
        """
        controls = self.layout.checked(m, "control")
        with turn(self.problem.state):
            values = [self._system.value(self._system.solve(row)) for row in as_rows(controls)]
        return np.array(values).reshape(*controls.shape[:-1], self.size_out)

    def linearize_rows(self, rows: Array) -> list[Linearization]:
        """``linearize_each`` of rows that ``layout.checked`` has seen: they are not looked at again."""
        with turn(self.problem.state):
            points = [self._system.solve(row) for row in rows]
            return [Linearization(self, EigenDerivatives(self._system, p), self._system.value(p)) for p in points]

    def present_control(self) -> Array:
        """The control vector of the potential that the map last worked at."""
        return self.layout.join([self.potential.x.array[: num_owned(self.potential.function_space)]])

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free factors and matrices. Collective. The map and its linearisation points are of no use afterwards."""
        self._system.close()
