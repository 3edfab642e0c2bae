"""The exact inverse of an equation that is linear in its source: apply the operator to the state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dolfinx import fem
from petsc4py import PETSc

from relax.base.fem.layout import SpaceLayout
from relax.base.la.factors import Key
from relax.base.la.linear import LinearSolver
from relax.base.la.matrices import products, restricted
from relax.base.la.options import DIRECT
from relax.base.teams import Teams
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.observe import FieldValues, Observable
from relax.problem.problem import Problem
from relax.train.inverses.base import MapInverse, parameters_key

PREFIX = "relax_inverse_"


@dataclass(frozen=True)
class _Operators:
    """The operators that are assembled once: A and the solver for the free part of M. For the owner to destroy."""

    A: PETSc.Mat
    mass: PETSc.Mat
    solver: LinearSolver

    def destroy(self) -> None:
        self.mass.destroy()
        self.solver.destroy()
        self.A.destroy()


class poisson_inverse(MapInverse):  # noqa: N801 - used as a function
    """dx with A du = M dx: the change of the source whose solution is du, without a solve with A.

    Collective, to make and to call: :class:`relax.train.MapInverse`. For ``pdes.poisson.source`` and any other
    stationary problem F(u, m) = A u − M m − f, affine in state and source, all of whose state is observed. A product
    with the assembled operator and a solve with the mass matrix, factored once: M⁻¹ A is what the finite elements have
    for a difference stencil of the Laplacian. G(x + dx) = G(x) + dy up to rounding.

    Where the state is clamped its values say nothing, and of all sources with this du the one of least length in L² is
    taken: dx = 0 at clamped nodes. A residual at clamped nodes, which no source explains, is left out.

    The inverse is not regularised: errors of the data grow by the largest eigenvalue of M⁻¹ A, about 1/h². For noisy
    observations, or those of a part of the state, take ``gauss_newton_inverse`` with a prior.

    Args:
        G: a map with ``FieldValues`` of the whole state as observable and one control, a field in the state's space;
            replicated layout.
        teams: share the samples of a batch among teams of ranks.

    Raises:
        BadInput: on every rank, for a map that is not of this kind.
        SolveFailed: when M is singular: the source does not act everywhere.
    """

    def __init__(self, G: ReducedMap, *, teams: Teams | None = None) -> None:
        super().__init__(G, teams)
        _check(G)
        V = G.problem.state.function_space
        self._layout = SpaceLayout(V)
        residual = G.residual
        self._free = np.setdiff1d(np.arange(residual.num_owned, dtype=np.int32), residual.boundary.owned)
        self._free = self._free.astype(np.int32)
        self._operators: tuple[Key, _Operators] | None = None

    def _current(self) -> _Operators:
        """The operators for the present parameters of the problem. Collective."""
        key = parameters_key(self.G)
        if self._operators is None or self._operators[0] is not key:
            self.close()
            self._operators = (key, self._assembled())
        return self._operators[1]

    def _assembled(self) -> _Operators:
        residual = self.G.residual
        A, C = residual.create_matrix(), residual.create_sensitivity(0)
        assert C is not None  # as _check has seen
        residual.assemble_matrix(A)
        residual.assemble_sensitivity(0, C)
        mass = restricted(C, self._free)
        mass.scale(-1.0)
        C.destroy()
        solver = LinearSolver(self.G.comm, PREFIX, DIRECT, self_adjoint=False)
        solver.factor(mass)
        return _Operators(A, mass, solver)

    def _corrections(self, x: Array | None, residual: Array) -> Array:
        operators = self._current()
        changes = self._layout.spread(residual)[:, : self.G.residual.num_owned].copy()
        changes[:, self.G.residual.boundary.owned] = 0.0
        loads = products(operators.A, changes)[:, self._free]
        dx = np.zeros_like(changes)
        dx[:, self._free] = operators.solver.solve_many(np.ascontiguousarray(loads))
        return self._layout.gather(dx)

    def close(self) -> None:
        """Free the operators. Collective."""
        if self._operators is not None:
            self._operators[1].destroy()
            self._operators = None


def _check(G: ReducedMap) -> None:
    """Refuse a map whose inverse is another. Local, and the same on every rank."""
    problem = G.problem
    kind = "expected a map of a stationary problem that is affine in state and source"
    if not isinstance(problem, Problem) or not G.residual.is_affine:
        raise BadInput(
            f"poisson_inverse: {kind}, got {getattr(problem, 'name', type(problem).__name__)!r}; try "
            "gauss_newton_inverse"
        )
    V, controls = problem.state.function_space, problem.controls
    is_source = len(controls) == 1 and isinstance(controls[0], fem.Function) and controls[0].function_space == V
    if not is_source or G.residual.boundary.has_controls or not G.residual.has_sensitivity(0):
        raise BadInput(f"poisson_inverse: {kind} with one control, a source in the space of the state")
    if G.residual.tied:
        raise BadInput(f"poisson_inverse: {kind}, got a problem with an mpc; try gauss_newton_inverse")
    check_whole_state(G, G.observable, "poisson_inverse: expected FieldValues of the whole state")


def check_whole_state(G: ReducedMap, seen: Observable, expected: str) -> None:
    """Refuse what is seen of a state when it is other than all of its values. Local.

    Raises:
        BadInput: then.
    """
    V = G.problem.state.function_space
    size = V.dofmap.index_map.size_global * V.dofmap.index_map_bs
    if not isinstance(seen, FieldValues) or G.size_out != size:
        raise BadInput(
            f"{expected} ({size} values), got {type(G.observable).__name__} with {G.size_out}; for a part of it try "
            "gauss_newton_inverse with a prior"
        )
