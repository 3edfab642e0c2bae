"""The error of a functional, by step and by cell: the residual, weighted by an adjoint state of one order more.

Becker and Rannacher, "An optimal control approach to a posteriori error estimation in finite element methods", Acta
Numerica 10 (2001), 1-102.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from relax.base import parallel
from relax.base.checks import number_in, of_kind
from relax.base.fem import compat
from relax.base.fem.coefficients import interpolated
from relax.base.fem.forms import assembled, cell_dofs, compiled, nonzero, num_owned
from relax.base.fem.richer import clamped_in, interpolate, richer
from relax.base.la.factors import Key
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.observe.base import Observable, by_step
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem

# Halvings of the threshold of ``marked``.
_HALVINGS = 60


@dataclass(frozen=True)
class ErrorEstimate:
    """How far the mesh is to blame for a functional: J(u) - J(u_h), estimated.

    Attributes:
        total: the sum, with its sign: J(u_h) + total is the better value.
        steps: of an evolution, (N + 1,): what each step adds to it, the first number for u_0; None without steps.
        cells: what each cell adds to it, all steps together: a Function of degree 0.
    """

    total: float
    steps: Array | None
    cells: fem.Function

    def marked(self, fraction: float = 0.5) -> npt.NDArray[np.int32]:
        """The fewest cells whose contributions make this fraction of the sum of all moduli: local indices of own cells.

        Collective. Doerfler's marking, for ``dolfinx.mesh.refine``.

        Raises:
            BadInput: for a fraction that is not in (0, 1].
        """
        share = number_in(fraction, (lambda x: 0.0 < x <= 1.0, "a number in (0, 1]"), "marked: fraction")
        V = self.cells.function_space
        comm = V.mesh.comm
        sizes = np.abs(self.cells.x.array[: num_owned(V)])
        wanted = share * parallel.sum_over_ranks(comm, np.array([sizes.sum()]))[0]
        low, high = 0.0, parallel.largest(comm, float(sizes.max(initial=0.0)))
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            is_enough = parallel.sum_over_ranks(comm, np.array([sizes[sizes >= middle].sum()]))[0] >= wanted
            low, high = (middle, high) if is_enough else (low, middle)
        return np.flatnonzero(sizes >= low).astype(np.int32)


def dual_weighted_residual(lin: Linearization, cotangent: npt.ArrayLike) -> ErrorEstimate:
    """The error of J = cotangent · y that the mesh makes: J(u) - J(u_h) ≈ -F(u_h; z - i_h z), z the adjoint state.

    z is solved for in the space of one order more, along the states of the point: ∂F/∂u(u_h)ᵀ z = J'(u_h), step by step
    backwards for an evolution. What is neglected is of second order in the error. Compared are the same controls and
    the same time steps on an endlessly fine mesh; errors of the time scheme, of the domain's shape, and of boundary
    values are not seen. An initial state that is no Function counts with what its interpolation leaves out. Every
    F(u_h; φ_i) z_i is divided among the cells of the degree of freedom i of the richer space.

    Collective. One assembly and factorisation in the richer space for each operator of the point: for P1 about four
    times as many unknowns in two dimensions, eight in three.

    Args:
        lin: a point of a ``ReducedMap``. Its observable must be one that other spaces have, too: a ``Functional``,
            ``PointValues``, ``FieldValues``, and these in a ``Stack``, ``AtSteps`` and ``TimeIntegral``; one of one's
            own gives ``Observable.on``.
        cotangent: (size_out,), dJ/dy.

    Raises:
        BadInput: for an observable, elements or a map that this cannot be done for, with the reason.
        SolveFailed: when the adjoint problem cannot be solved.
    """
    of_kind(lin, Linearization, "a linearisation point, of linearize(m)", "dual_weighted_residual: lin")
    G = lin.map
    if not isinstance(G, ReducedMap):
        raise BadInput(
            f"dual_weighted_residual: lin: expected a point of a relax.ReducedMap, got one of a {type(G).__name__}"
        )
    points = lin.points()
    seed = parallel.checked_on_all(G.comm, cotangent, G.size_out, "dual_weighted_residual: cotangent")
    if isinstance(G.problem, Evolution) and G.problem.substitution is not None:
        raise BadInput(
            "dual_weighted_residual: its steps are solved for another unknown than the state; expected an evolution "
            "without a substitution, such as route='direct' of Hamilton-Jacobi"
        )
    return _Estimator(G.problem, G.observable).estimate(points, seed)


class _Estimator:
    """z in the richer space, and what the residual makes of it. Collective, as are all methods."""

    def __init__(self, problem: Problem | Evolution, observable: Observable) -> None:
        self._evolution = problem if isinstance(problem, Evolution) else None
        self._step = step = problem.step if isinstance(problem, Evolution) else problem
        self._num_steps = 1 if self._evolution is None else self._evolution.num_steps
        V = step.state.function_space
        self._low, self._space = fem.Function(V), richer(V)
        self._state, self._before, self._z, self._dual, self._lifted = (fem.Function(self._space) for _ in range(5))
        seen = observable.on(step.state, self._state)
        self._looks = by_step(seen.looks(self._num_steps))
        swapped = {step.residual.arguments()[0]: ufl.TestFunction(self._space), step.state: self._state}
        if self._evolution is not None:
            swapped[self._evolution.previous] = self._before
        F = ufl.replace(compat.one_subdomain_data(step.residual), swapped)
        self._F, self._J = fem.form(F), fem.form(ufl.derivative(F, self._state))
        C = nonzero(ufl.derivative(F, self._before))
        self._back = compiled(None if C is None else ufl.action(ufl.adjoint(C), self._z))
        given = [bc.dof_indices()[0] for bc in step.bcs]
        self._clamped = clamped_in(self._space, V, np.unique(np.concatenate([np.empty(0, dtype=np.int32), *given])))
        self._num_owned = num_owned(self._space)
        self._solver = LinearSolver(step.mesh.comm, f"relax_{step.name}_dual_", DIRECT, self_adjoint=False)
        self._matrix: PETSc.Mat | None = None

    def estimate(self, points: Generator[tuple[int, Key]], seed: Array) -> ErrorEstimate:
        """Backwards through the points."""
        steps, shares = np.zeros(self._num_steps + 1), np.zeros(self._num_owned)
        dual, factored = np.zeros(self._num_owned), None
        try:
            with closing(points):
                for n, key in points:
                    interpolate(self._step.state, self._state)
                    for look in self._looks.get(n, []):
                        dual += look.observable.adjoint(self._state, look.weight * seed[look.part])
                    if n == 0:
                        share = dual * self._initial_error()
                    else:
                        if self._evolution is not None:
                            interpolate(self._evolution.previous, self._before)
                        if key is not factored:
                            self._factor()
                            factored = key
                        share = self._residual_weighted(dual)
                        dual = np.zeros_like(dual)
                        if self._back is not None:
                            dual -= assembled(self._back, self._dual)
                    steps[n] = share.sum()
                    shares += share
        finally:
            if self._matrix is not None:
                self._matrix.destroy()
            self._solver.destroy()
        whole = parallel.sum_over_ranks(self._step.mesh.comm, steps)
        total = float(whole.sum())
        return ErrorEstimate(total, None if self._evolution is None else whole, self._of_cells(shares))

    def _factor(self) -> None:
        if self._matrix is not None:
            self._matrix.destroy()
        self._matrix = assemble_matrix(self._J)
        self._matrix.assemble()
        self._matrix.zeroRowsColumnsLocal(self._clamped, 1.0)
        self._solver.factor(self._matrix)

    def _residual_weighted(self, dual: Array) -> Array:
        """-F(u_h; φ_i) (z - i_h z)_i for each own degree of freedom i, z kept: (owned,)."""
        rhs, n = dual.copy(), self._num_owned
        rhs[self._clamped[self._clamped < n]] = 0.0
        self._z.x.array[:n] = self._solver.solve_many(rhs[None, :], adjoint=True)[0]
        self._z.x.scatter_forward()
        interpolate(self._z, self._low)
        interpolate(self._low, self._lifted)
        weight = (self._z.x.array - self._lifted.x.array)[:n]
        return np.asarray(-assembled(self._F, self._dual) * weight)

    def _initial_error(self) -> Array:
        """What the initial state of the mesh, in the registers, is short of the given one: (owned,)."""
        assert self._evolution is not None
        given = self._evolution.initial
        if isinstance(given, fem.Function):
            return np.zeros(self._num_owned)
        return np.asarray((interpolated(given, self._space).x.array - self._state.x.array)[: self._num_owned])

    def _of_cells(self, shares: Array) -> fem.Function:
        """What belongs to degrees of freedom, divided among their cells."""
        cells = fem.Function(fem.functionspace(self._step.mesh, ("DG", 0)), name="error")
        num_cells = num_owned(cells.function_space)
        dofs, x = cell_dofs(self._space, slice(num_cells)), self._dual.x
        x.array[:] = np.bincount(dofs.ravel(), minlength=len(x.array))
        x.scatter_reverse(la.InsertMode.add)
        x.array[: self._num_owned] = shares / x.array[: self._num_owned]
        x.scatter_forward()
        cells.x.array[cells.function_space.dofmap.list[:num_cells, 0]] = x.array[dofs].sum(axis=1)
        cells.x.scatter_forward()
        return cells
