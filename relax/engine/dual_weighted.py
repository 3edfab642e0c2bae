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
from ufl.algorithms import expand_derivatives

from relax.base import parallel
from relax.base.checks import number_in, of_kind
from relax.base.fem import compat
from relax.base.fem.blocks import BlockState
from relax.base.fem.coefficients import interpolated
from relax.base.fem.forms import assembled, cell_dofs, compiled, holds, nonzero, num_owned
from relax.base.fem.pointwise import laws_in
from relax.base.fem.quadrature import with_free_degrees
from relax.base.fem.richer import clamped_in, interpolate, richer
from relax.base.la.factors import Key
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.observe.base import Look, Observable
from relax.problem.evolution import Evolution
from relax.problem.point_source import PointSource
from relax.problem.problem import Problem

# Halvings of the threshold of ``marked``.
_HALVINGS = 60
# Of an initial state, beside its largest value: rounding.
_SAME = 1e-10


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
        V = self.cells.function_space
        comm = V.mesh.comm
        fraction = parallel.of_rank_0(comm, fraction)
        share = number_in(fraction, (lambda x: 0.0 < x <= 1.0, "a number in (0, 1]"), "marked: fraction")
        sizes = np.abs(self.cells.x.array[: num_owned(V)])
        wanted = share * parallel.sum_over_ranks(comm, np.array([sizes.sum()]))[0]
        low, high = 0.0, parallel.largest(comm, float(sizes.max(initial=0.0)))
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            is_enough = parallel.sum_over_ranks(comm, np.array([sizes[sizes >= middle].sum()]))[0] >= wanted
            low, high = (middle, high) if is_enough else (low, middle)
        return np.flatnonzero((sizes >= low) & (sizes > 0.0)).astype(np.int32)


def dual_weighted_residual(lin: Linearization, cotangent: npt.ArrayLike) -> ErrorEstimate:
    """The error of J = cotangent · y that the mesh makes: J(u) - J(u_h) ≈ -F(u_h; z - i_h z), z the adjoint state.

    z is solved for in the space of one order more: ∂F/∂u(w)ᵀ z = J'(w). For a stationary problem w lies half way from
    u_h to the solution in that space, which one step of Newton's method finds, and what is neglected is of third order
    in the error. For an evolution w = u_h, step by step backwards, and it is of second order: little for mean values or
    at points, as much as the estimate itself where gradients of u are squared. Compared are the same controls and the
    same time steps on an endlessly fine mesh; errors of the time scheme, of the domain's shape, and of boundary values
    are not seen. An initial state that is no Function counts with what its interpolation leaves out. Every F(u_h; φ_i)
    (z - i_h z)_i is divided among the cells of the degree of freedom i of the richer space.

    The residual has to be that of the equation in the richer space, too: one of finite volumes, whose fluxes are
    differences of the means of cells, is not.

    Collective. One assembly and factorisation in the richer space for each operator of the point, two for a stationary
    equation that is not linear: for P1 about four times as many unknowns in two dimensions, eight in three.

    Args:
        lin: a point of a ``ReducedMap``. Its observable must be one that other spaces have, too: a ``Functional``,
            ``PointValues``, ``FieldValues``, and these in a ``Stack``, ``AtSteps`` and ``TimeIntegral``; one of one's
            own gives ``Observable.on``.
        cotangent: (size_out,), dJ/dy.

    Raises:
        BadInput: for an observable, elements or a map that this cannot be done for, with the reason.
        BadProblem: for an evolution whose step is several equations, or holds several earlier states.
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
    step = G.problem.plain_step if isinstance(G.problem, Evolution) else G.problem
    if any(isinstance(c, PointSource) for c in step.residual.coefficients()):
        raise BadInput(
            "dual_weighted_residual: expected loads that richer spaces have, too, got a PointSource, which stands "
            "for that of its own space alone"
        )
    if laws := laws_in(step.residual):
        raise BadInput(f"dual_weighted_residual: expected coefficients that UFL knows, got a {laws[0]}")
    if isinstance(step.state, BlockState) and any(step.state.extended):
        raise BadInput(
            "dual_weighted_residual: expected states on one mesh, got one on a part of it, or a number for all of it"
        )
    if step.nullspace is not None:
        raise BadInput(
            "dual_weighted_residual: expected a problem without a nullspace; hold the state somewhere instead"
        )
    if step.mpc is not None:
        raise BadInput("dual_weighted_residual: expected a problem without an mpc, which a richer space has not")
    if seed.ndim != 1:
        raise BadInput(f"dual_weighted_residual: cotangent: expected one, ({G.size_out},), got shape {seed.shape}")
    return _Estimator(G.problem).estimate(points, seed)


class _Estimator:
    """z in the richer space, and what the residual makes of it. Collective, as are all methods."""

    def __init__(self, problem: Problem | Evolution) -> None:
        self._evolution = problem if isinstance(problem, Evolution) else None
        self._step = step = problem.plain_step if isinstance(problem, Evolution) else problem
        self._num_steps = 1 if self._evolution is None else self._evolution.num_steps
        V = step.state.function_space
        self._low, self._space = fem.Function(V), richer(V)
        self._state, self._before, self._z, self._dual, self._lifted = (fem.Function(self._space) for _ in range(5))
        self._seen: dict[Observable, Observable] = {}
        swapped = {step.residual.arguments()[0]: ufl.TestFunction(self._space), step.state: self._state}
        if self._evolution is not None:
            swapped[self._evolution.previous] = self._before
        F = ufl.replace(compat.one_subdomain_data(with_free_degrees(step.residual)), swapped)
        J = expand_derivatives(ufl.derivative(F, self._state))
        self._F, self._J, self._is_linear = compiled(F), compiled(J), not holds(J, self._state)
        C = nonzero(ufl.derivative(F, self._before))
        self._back = compiled(None if C is None else ufl.action(ufl.adjoint(C), self._z))
        given = [bc.dof_indices()[0] for bc in step.bcs]
        self._clamped = clamped_in(self._space, V, np.unique(np.concatenate([np.empty(0, dtype=np.int32), *given])))
        self._num_owned = num_owned(self._space)
        self._solver = LinearSolver(step.mesh.comm, f"relax_{step.name}_dual_", DIRECT, self_adjoint=False)
        self._matrix: PETSc.Mat | None = None

    def estimate(self, points: Generator[tuple[int, Key, list[Look]]], seed: Array) -> ErrorEstimate:
        """Backwards through the points."""
        steps, shares = np.zeros(self._num_steps + 1), np.zeros(self._num_owned)
        dual, factored = np.zeros(self._num_owned), None
        try:
            with closing(points):
                for n, key, looks in points:
                    interpolate(self._step.state, self._state)
                    if self._evolution is not None and n > 0:
                        interpolate(self._evolution.previous, self._before)
                    residual = assembled(self._F, self._dual).copy() if n > 0 else np.zeros_like(dual)
                    seen_linearly = all(look.observable.is_linear for look in looks)
                    if self._evolution is None and not (self._is_linear and seen_linearly):
                        self._go_half_way(residual)
                        factored = key if self._is_linear else None
                    for look in looks:
                        seen = self._seen.get(look.observable) or look.observable.on(self._step.state, self._state)
                        self._seen[look.observable] = seen
                        dual += seen.adjoint(self._state, look.weight * seed[look.part])
                    if n == 0:
                        share = dual * self._initial_error()
                    else:
                        if key is not factored:
                            self._factor()
                            factored = key
                        share = self._weighted(residual, dual)
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

    def _go_half_way(self, residual: Array) -> None:
        """Move the state towards the solution of the richer space, by half a step of Newton's method.

        Derivatives half way make differences right to third order.
        """
        self._factor()
        self._state.x.array[: self._num_owned] -= 0.5 * self._solved(residual, adjoint=False)
        self._state.x.scatter_forward()

    def _solved(self, rhs: Array, *, adjoint: bool) -> Array:
        """What solves with a right-hand side, and zero where the state is given: (owned,)."""
        free = rhs.copy()
        free[self._clamped[self._clamped < self._num_owned]] = 0.0
        return self._solver.solve_many(free[None, :], adjoint=adjoint)[0]

    def _weighted(self, residual: Array, dual: Array) -> Array:
        """-F(u_h; φ_i) (z - i_h z)_i for each own degree of freedom i, z kept: (owned,)."""
        n = self._num_owned
        self._z.x.array[:n] = self._solved(dual, adjoint=True)
        self._z.x.scatter_forward()
        interpolate(self._z, self._low)
        interpolate(self._low, self._lifted)
        weight = (self._z.x.array - self._lifted.x.array)[:n]
        return np.asarray(-residual * weight)

    def _initial_error(self) -> Array:
        """What the initial state of the mesh, in the registers, is short of the given one: (owned,)."""
        assert self._evolution is not None
        given, here = self._evolution.initial, self._step.state
        if isinstance(given, fem.Function):
            return np.zeros(self._num_owned)
        change = interpolated(given, here.function_space).x.array - here.x.array
        comm = self._step.mesh.comm
        size = parallel.largest(comm, float(np.abs(here.x.array).max(initial=0.0)))
        if parallel.largest(comm, float(np.abs(change).max(initial=0.0))) > _SAME * size:
            raise BadInput(
                "dual_weighted_residual: initial: gives other values now than when the evolution was made, which took "
                "them as they were; expected what stands in it to stay, or a Function as initial state"
            )
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
