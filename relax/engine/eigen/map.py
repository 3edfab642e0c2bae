"""The map from what stands in two symmetric forms to their eigenvalues, and states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh

from relax.base import parallel
from relax.base.checks import at_least, of_kind
from relax.base.fem.expansion import held
from relax.base.fem.forms import Control
from relax.base.fem.layout import ControlLayout, as_rows, control_layout
from relax.base.la.options import Options, split
from relax.base.types import Array
from relax.engine.eigen.derivatives import EigenDerivatives
from relax.engine.eigen.given import checked_bounds, of_forms, schrodinger
from relax.engine.eigen.system import EigenSystem
from relax.engine.linearization import Linearization
from relax.engine.protocols import Map, itself, not_pickled, shared
from relax.engine.turn import turn
from relax.errors import BadInput


class EigenMap(Map):
    """G(m) = (λ_1, ..., λ_k), or also u_1, ..., u_k, where a(u_i, v; m) = λ_i b(u_i, v; m) for all v.

    Collective: to make, to call, and every method but ``dot`` under ``layout="replicated"``. Of the same protocol as
    ``ReducedMap``: ``SolutionLayer``, ``check_map``, ``control_values`` and the optimisers take it.

    ``EigenMap((a, b), k, controls=[...], bcs=[...])`` is that of two symmetric bilinear forms, such as stiffness and
    mass, in units of their own. Controls may stand in either. b is positive definite on the space without its clamped
    values; a need not be definite. States are normalised to b(u, u; m) = 1, so they move with a control in b, too.

    ``EigenMap(mesh, k)`` is that of Schrödinger's equation, -1/2 Lap psi + V psi = E psi, psi = 0 on the boundary
    (dimensionless). The control is the vector of the potential's degrees of freedom.

    States have the signs of ``pdes.schrodinger.eigenstates`` and are given by all their degrees of freedom, in the
    order of ``FieldValues``. A sign changes only where the moment that decides it passes through zero.

    An eigenvalue that is closer to its neighbour than 1e-6 of the mean of |λ| (of the kinetic energy for Schrödinger's
    equation) has no derivative of its own: what is asked of such a cluster raises ``BadInput``, but for ``vjp`` with
    equal weights, the derivative of the sum.

    Args:
        equation: a pair of UFL forms (a, b) in one trial and one test function; or a mesh.
        k: how many pairs.
        controls: of a pair of forms, what to differentiate with respect to: Functions and Constants in a or b.
        bcs: of a pair of forms, where states are zero.
        bounds: (low, high), the k eigenvalues between them, found by shift and invert from the middle: modes of the
            interior of the spectrum, without a null space such as that of curl curl. At a point where there are not
            exactly k, counted by inertia, or one lies at a bound, the solve fails with the count. The k lowest when not
            given.
        degree: of a mesh, polynomial degree of the states, 2 when not given.
        potential_space: of a mesh, scalar; ("Lagrange", 1) when not given.
        states: whether states are among the output.
        layout: "replicated" or "owned", of the control vector.
        options: PETSc options, below those of the command line: eps_ and st_ for the eigensolver (``-relax_eigen_``),
            lin_ for the bordered systems of derivatives (``-relax_eigen_lin_``).

    Attributes:
        size_in: the length of the control vector that this rank hands over.
        size_out: k, or k (1 + degrees of freedom of a state).
        num_states: k.
        problem: a(u, v) - λ b(u, v) = 0, with the first pair of the point at which the map last worked.
        potential: the control of a mesh's map; None for a pair of forms.
        counts: how many spectra have been computed, and right-hand sides of tangent and adjoint systems solved for:
            first derivatives of eigenvalues need none.

    Raises:
        BadInput: on every rank, for a k that the mesh has not, bounds that are none, or wrong options.
        BadProblem: for forms that do not fit together, values clamped to other than zero, a potential space on another
            mesh, or of vectors.
        SolveFailed: from any call that solves: a or b is not symmetric, b not positive definite, not all pairs are
            found, or not k between the bounds.
    """

    def __init__(
        self,
        equation: Mesh | Sequence[ufl.Form],
        k: int,
        *,
        controls: Sequence[Control] | None = None,
        bcs: Sequence[fem.DirichletBC] | None = None,
        bounds: tuple[float, float] | None = None,
        degree: int | None = None,
        potential_space: fem.FunctionSpace | None = None,
        states: bool = False,
        layout: str = "replicated",
        options: Options | None = None,
    ) -> None:
        own, lin = split({} if options is None else options)
        is_pair = isinstance(equation, list | tuple | ufl.Form)
        if not is_pair:
            of_kind(equation, Mesh, "a mesh of DOLFINx, or a pair (a, b) of UFL forms", "mesh")
        _refuse_of_the_other(is_pair, controls=controls, bcs=bcs, degree=degree, potential_space=potential_space)
        degree = at_least(2 if degree is None else degree, 1, "degree")
        between = checked_bounds(bounds)
        self.potential: fem.Function | None = None
        if is_pair:
            given = of_forms(equation, () if controls is None else controls, () if bcs is None else bcs, own)
        else:
            given, self.potential = schrodinger(equation, degree, potential_space, own)
        self.problem = given.problem
        self.comm = self.problem.mesh.comm
        if parallel.any_rank(self.comm, not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1):
            raise BadInput(f"k: expected a number of states of at least 1, got {k!r}")
        self.num_states = int(k)
        self.layout: ControlLayout = control_layout(layout, self.comm, self.problem.controls)
        self.counts = {"forward": 0, "tangent": 0, "adjoint": 0}
        self._system = EigenSystem(given, self.layout, self.num_states, between, states, self.counts, lin)
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
        """The control vector of what the controls hold now: where the map last worked, or what they were given."""
        return self.layout.of_values([held(control) for control in self.problem.controls])

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free factors and matrices. Collective. The map and its linearisation points are of no use afterwards."""
        self._system.close()


def _refuse_of_the_other(is_pair: bool, **given: object) -> None:
    """Refuse arguments that belong to a mesh beside a pair of forms, or the reverse. Local.

    Raises:
        BadInput: naming them.
    """
    of_pair = ("controls", "bcs")
    wrong = [name for name, value in given.items() if value is not None and (name in of_pair) != is_pair]
    if wrong:
        raise BadInput(
            f"{', '.join(wrong)}: "
            + (
                "of a mesh alone; a pair of forms has its own space and coefficients"
                if is_pair
                else "of a pair of forms alone; Schrödinger's equation on a mesh has its potential, and psi = 0"
            )
        )
