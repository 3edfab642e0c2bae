"""The map from a potential to the lowest energies, and states, of its Hamiltonian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la
from dolfinx.mesh import Mesh
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.forms import compiled, nonzero, num_owned
from relax.base.fem.layout import ControlLayout, SpaceLayout, as_rows, control_layout
from relax.base.la.eigen import products
from relax.base.la.factors import Key
from relax.base.la.options import DIRECT_SYMMETRIC, Options, known, merged
from relax.base.types import Array
from relax.engine.eigen.bordered import BorderedSolver
from relax.engine.eigen.derivatives import EigenDerivatives, EigenPoint
from relax.engine.linearization import Linearization
from relax.errors import BadInput, BadProblem
from relax.pdes.schrodinger.eigenstates import StationaryProblem

# Bytes on each rank for the bordered factors of points that are still in use, as of a reduced map.
_FACTOR_MEMORY = 2e9


@dataclass(frozen=True, eq=False)
class EigenProblem:
    """What an ``EigenMap`` solves: H(V) psi = E psi, with its registers.

    Attributes:
        name: of the problem.
        state: psi_1 at the point at which the map last worked.
        controls: the potential V there, alone.
        bcs: psi = 0 on the boundary.
    """

    name: str
    state: fem.Function
    controls: Sequence[fem.Function]
    bcs: Sequence[fem.DirichletBC]

    @property
    def mesh(self) -> Mesh:
        """The mesh of the state."""
        return self.state.function_space.mesh


class EigenMap:
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
        self.comm = mesh.comm
        if parallel.any_rank(self.comm, not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1):
            raise BadInput(f"k: expected a number of states of at least 1, got {k!r}")
        Q = fem.functionspace(mesh, ("Lagrange", 1)) if potential_space is None else potential_space
        if Q.mesh is not mesh or tuple(Q.value_shape) != ():
            raise BadProblem("potential_space: expected a space of scalars on the same mesh")
        self.num_states, self.has_states = int(k), states
        lin = {key.removeprefix("lin_"): v for key, v in (options or {}).items() if key.startswith("lin_")}
        own = {key: v for key, v in (options or {}).items() if not key.startswith("lin_")}
        lin_options = merged(DIRECT_SYMMETRIC, known(lin))
        self.potential = fem.Function(Q, name="potential")
        self.layout: ControlLayout = control_layout(layout, self.comm, [self.potential])
        V = fem.functionspace(mesh, ("Lagrange", degree))
        self.state_layout = SpaceLayout(V)
        self.stationary = StationaryProblem(V, self.potential, own)
        state = fem.Function(V, name="psi_1")
        self.problem = EigenProblem("schrodinger_eigenstates", state, (self.potential,), (self.stationary.bc,))
        self.size_in = self.layout.size
        self.size_out = self.num_states * (1 + (self.state_layout.size if states else 0))
        self.counts = {"forward": 0, "tangent": 0, "adjoint": 0}
        self.bordered = BorderedSolver(self.stationary.mass, lin_options, _FACTOR_MEMORY)
        self._forms = _DerivativeForms(self.stationary, self.potential)
        self._assembled_for: Key | None = None
        self._closed = False

    # -- values --------------------------------------------------------------------------------------------------------

    def dot(self, a: Array, b: Array) -> float:
        """The inner product of two control vectors over all ranks. Collective under ``layout="owned"``."""
        return self.layout.dot(a, b)

    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m), shape (..., size_in) -> (..., size_out). Leading axes are samples.

        Raises:
            SolveFailed: when not all states are found.
        """
        controls = self._checked(m)
        values = [self.value(self._solve(row)) for row in as_rows(controls)]
        return np.array(values).reshape(*controls.shape[:-1], self.size_out)

    def linearize(self, m: npt.ArrayLike) -> Linearization:
        """Solve at one control, shape (size_in,), and return the linearisation point, which owns its spectrum."""
        control = self._checked(m)
        if control.ndim != 1:
            raise BadInput(
                f"linearize: expected one control of shape ({self.size_in},), got {control.shape}; "
                "linearise at each sample by itself, or use linearize_each"
            )
        return self._linearization(self._solve(control))

    def linearize_each(self, m: npt.ArrayLike) -> list[Linearization]:
        """Linearisation points of several controls (k, size_in)."""
        return self.linearize_rows(as_rows(self._checked(m)))

    def linearize_rows(self, rows: Array) -> list[Linearization]:
        """``linearize_each`` of rows that ``layout.checked`` has seen: they are not looked at again."""
        self.refuse_closed()
        return [self._linearization(self._solve(row)) for row in rows]

    def _linearization(self, point: EigenPoint) -> Linearization:
        # A linearisation asks of its map no more than layout, sizes, and dot.
        return Linearization(self, EigenDerivatives(self, point), self.value(point))

    def present_control(self) -> Array:
        """The control vector of the potential that the map last worked at."""
        return self.layout.join([self.potential.x.array[: num_owned(self.potential.function_space)]])

    def value(self, point: EigenPoint) -> Array:
        """The output at a point: (size_out,)."""
        if not self.has_states:
            return point.energies.copy()
        return np.concatenate([point.energies, self.state_layout.gather(point.vectors).ravel()])

    def _checked(self, m: npt.ArrayLike) -> Array:
        self.refuse_closed()
        return self.layout.checked(m, "control")

    def refuse_closed(self) -> None:
        """Raise when the map has been closed. Local: ``close`` is collective, so ranks agree."""
        if self._closed:
            raise BadInput("this map has been closed; make a new one")

    def _solve(self, control: Array) -> EigenPoint:
        k = self.num_states
        parts = self.layout.split(control)
        self.potential.x.array[:] = parts[0]
        self._assembled_for = None
        spectrum = self.stationary.solve(k)
        self.counts["forward"] += 1
        clusters = tuple(c for c in spectrum.clusters if c.start < k)
        point = EigenPoint(parts, spectrum.energies[:k], spectrum.vectors[:k], clusters, spectrum.offset)
        self._assembled_for = point.key
        self._install_state(point)
        return point

    # -- at a point ----------------------------------------------------------------------------------------------------

    def install(self, point: EigenPoint) -> None:
        """The registers hold this point."""
        self.refuse_closed()
        self.potential.x.array[:] = point.controls[0]
        self._install_state(point)

    def _install_state(self, point: EigenPoint) -> None:
        state = self.problem.state
        state.x.array[: self.stationary.num_owned] = point.vectors[0]
        state.x.scatter_forward()

    def solve_bordered(self, point: EigenPoint, i: int, b: Array, b_border: Array) -> tuple[Array, Array]:
        """J_i x = b at an installed point: (p, free), (p,) -> (p, free), (p,)."""
        factor = self.bordered.find(point.state_keys[i])
        if factor is None:
            if self._assembled_for is not point.key:
                self.stationary.assemble(point.offset)
                self._assembled_for = point.key
            mass_psi = self.mass_times(point.vectors[i : i + 1, self.stationary.free])[0]
            energy = float(point.energies[i]) - point.offset
            factor = self.bordered.factor(point.state_keys[i], self.stationary.hamiltonian, energy, mass_psi)
        return self.bordered.solve(factor, b, b_border)

    def mass_times(self, vectors: Array) -> Array:
        """M x on the free degrees of freedom, for each row of (p, free)."""
        return products(self.stationary.mass, vectors)

    def potential_times(self, change: Array, psi: Array) -> Array:
        """The dual (dV psi, v): dV by its local part, psi (free,); the result (free,)."""
        return self._forms.potential_times(change, psi)

    def density_dual(self, p: Array, q: Array) -> Array:
        """The dual (p q, phi) for the potential's basis phi: p and q (free,); the result (owned,)."""
        return self._forms.density_dual(p, q)

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free factors and matrices. Collective. The map and its linearisation points are of no use afterwards."""
        if not self._closed:
            self._closed = True
            self.bordered.destroy()
            self.stationary.close()
            PETSc.garbage_cleanup(self.comm)

    def __enter__(self) -> EigenMap:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class _DerivativeForms:
    """(dV psi, v) and (phi, p q), derived from the form that is solved with, and so of its quadrature. Collective."""

    def __init__(self, stationary: StationaryProblem, potential: fem.Function) -> None:
        V, Q = stationary.space, potential.function_space
        self._free = stationary.free
        self._p, self._q, self._change = fem.Function(V), fem.Function(V), fem.Function(Q)
        self._dual, self._control_dual = fem.Function(V), fem.Function(Q)
        test, trial = stationary.form.arguments()
        action = ufl.replace(stationary.form, {trial: self._p})
        energy = ufl.replace(action, {test: self._q})
        self._action = compiled(nonzero(ufl.derivative(action, potential, self._change)))
        self._density = compiled(nonzero(ufl.derivative(energy, potential, ufl.TestFunction(Q))))
        self._owned = num_owned(Q)

    def _install(self, register: fem.Function, psi: Array) -> None:
        register.x.array[:] = 0.0
        register.x.array[self._free] = psi
        register.x.scatter_forward()

    def potential_times(self, change: Array, psi: Array) -> Array:
        self._change.x.array[:] = change
        self._install(self._p, psi)
        return self._assembled(self._dual, self._action)[self._free]

    def density_dual(self, p: Array, q: Array) -> Array:
        self._install(self._p, p)
        self._install(self._q, q)
        return self._assembled(self._control_dual, self._density)[: self._owned].copy()

    def _assembled(self, register: fem.Function, form: Any) -> Array:
        register.x.array[:] = 0.0
        fem.assemble_vector(register.x.array, form)
        register.x.scatter_reverse(la.InsertMode.add)
        return register.x.array
