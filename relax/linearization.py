"""A reduced map at one control: its value, and every derivative product, from one state and one factor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from relax import parallel
from relax.errors import BadInput
from relax.factors import Factor
from relax.layout import as_rows
from relax.point import Point
from relax.sensitivity import solve_adjoints

if TYPE_CHECKING:
    from relax.reduced import ReducedMap

Array = npt.NDArray[np.float64]

# Directions that go through one block solve; more are taken in turns, so that memory stays a few states.
BLOCK = 64


class Linearization:
    """G at one control m. It owns its state: what is evaluated elsewhere, in whatever order, does not change it.

    Collective, as is every method. Factors are kept while memory lasts (``Newton.factor_memory``) and made again when
    they are asked for after that; ``close`` gives the factor free at once.

    With u the state, A = ∂F/∂u, B the observable:

    - tangent: A du = -∂F/∂m dm, dy = B'(u) du;
    - adjoint: Aᵀ λ = B'(u)ᵀ dy, dm = -(∂F/∂m)ᵀ λ;
    - second-order adjoint: the derivative of the adjoint equation along (dm, du).

    Attributes:
        value: G(m), (size_out,).
    """

    def __init__(self, G: ReducedMap, point: Point, value: Array) -> None:
        self.value = value
        self._G = G
        self._point: Point | None = point
        # Adjoints by seed: the latest of vjp, and the one that Hessian actions go on using.
        self._last_adjoint: tuple[Array, Array] | None = None
        self._hessian_adjoint: tuple[Array, Array] | None = None

    # -- products ------------------------------------------------------------------------------------------------------

    def jvp(self, dm: npt.ArrayLike) -> Array:
        """The tangent G'(m) dm: (..., size_in) -> (..., size_out). Leading axes are directions, for one factor."""
        G = self._G
        directions = G.layout.checked(dm, "direction")
        rows = as_rows(directions)
        result = np.empty((len(rows), G.size_out))
        with self._installed() as (point, factor):
            for start in range(0, len(rows), BLOCK):
                parts = [G.layout.split(row) for row in rows[start : start + BLOCK]]
                changes = G.sensitivity.state_tangents(point.key, parts, factor)
                for i in range(len(changes)):
                    self._install_state_tangent(changes[i])
                    result[start + i] = G.observable.tangent(G.residual.state, G.residual.tangent_state)
            G.counts["tangent"] += len(rows)
        return result.reshape(*directions.shape[:-1], G.size_out)

    def vjp(self, dy: npt.ArrayLike) -> Array:
        """The adjoint G'(m)ᵀ dy: (..., size_out) -> (..., size_in). Leading axes are directions; one factor serves all.

        The result is a derivative (a dual vector): ``G.dot(vjp(dy), dm) == dy @ jvp(dm)``.
        """
        G = self._G
        seeds = self._checked_seed(dy)
        rows = as_rows(seeds)
        blocks = []
        with self._installed() as (point, factor):
            for start in range(0, len(rows), BLOCK):
                duals = np.array([G.observable.adjoint(G.residual.state, row) for row in rows[start : start + BLOCK]])
                adjoints = self._adjoints(rows[start : start + BLOCK], duals, factor)
                blocks.append(G.layout.join(G.sensitivity.gradients(point, adjoints, duals)))
        return np.concatenate(blocks or [np.empty((0, G.size_in))]).reshape(*seeds.shape[:-1], G.size_in)

    def hvp(self, dy: npt.ArrayLike, dm: npt.ArrayLike) -> Array:
        """The Hessian action d/dε vjp(dy) at m + ε dm: (..., size_out), (..., size_in) -> (..., size_in).

        The leading axes of ``dy`` and ``dm`` are broadcast against each other.
        """
        G = self._G
        seeds = self._checked_seed(dy)
        directions = G.layout.checked(dm, "direction")
        try:
            lead = np.broadcast_shapes(seeds.shape[:-1], directions.shape[:-1])
        except ValueError as error:
            raise BadInput(f"hvp: leading axes of {seeds.shape} and {directions.shape} do not fit together") from error
        given = as_rows(directions)
        which = np.broadcast_to(np.arange(len(given)).reshape(directions.shape[:-1]), lead).ravel()
        seed_rows = as_rows(np.broadcast_to(seeds, (*lead, G.size_out)))
        result = np.empty((len(which), G.size_in))
        with self._installed() as (point, factor):
            for start in range(0, len(which), BLOCK):
                # One tangent a direction, in one block solve, however many seeds share it.
                distinct, number = np.unique(which[start : start + BLOCK], return_inverse=True)
                parts = [G.layout.split(given[i]) for i in distinct]
                tangents = G.sensitivity.state_tangents(point.key, parts, factor)
                G.counts["tangent"] += len(parts)
                for i, k in enumerate(number, start=start):
                    result[i] = self._hessian_action(factor, seed_rows[i], parts[k], tangents[k])
        return result.reshape(*lead, G.size_in)

    def matrix(self) -> Array:
        """The Jacobian G'(m), (size_out, size_in): by adjoints or by tangents, whichever are fewer.

        Under ``layout="owned"`` each rank gets the columns of the control values that it owns.
        """
        G = self._G
        if G.layout.kind == "owned" or G.size_out <= G.size_in:
            return self.vjp(np.eye(G.size_out))
        return np.ascontiguousarray(self.jvp(np.eye(G.size_in)).T)

    def dot(self, a: Array, b: Array) -> float:
        """The map's inner product of two control vectors."""
        return self._G.dot(a, b)

    @property
    def is_everywhere_the_same(self) -> bool:
        """Whether the derivative is the same at every control: an affine problem seen linearly. Local."""
        return self._G.residual.is_affine and self._G.observable.is_linear

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the factor and the state free. The value stays; products are errors from here on. Collective."""
        self._point = None
        self._last_adjoint = self._hessian_adjoint = None

    def __enter__(self) -> Linearization:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # -- the work ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _installed(self) -> Iterator[tuple[Point, Factor]]:
        """Registers hold this point within the block; parameters are the user's again after it."""
        point, G = self._point, self._G
        if point is None:
            raise BadInput("this linearisation point has been closed; linearise again for more derivatives")
        residual = G.residual
        users = residual.parameter_values()
        residual.install(point.controls)
        residual.install_parameters(point.parameters)
        residual.state.x.array[:] = point.state
        try:
            with G.factor_here(point.key, derivatives=True) as factor:
                yield point, factor
        finally:
            residual.install_parameters(users)

    def _checked_seed(self, dy: npt.ArrayLike) -> Array:
        G = self._G
        return parallel.from_rank_0(G.comm, parallel.checked(G.comm, dy, G.size_out, "observation"))

    def _install_state_tangent(self, du: Array) -> None:
        register = self._G.residual.tangent_state.x
        register.array[: self._G.residual.num_owned] = du
        register.scatter_forward()

    def _adjoints(self, seeds: Array, duals: Array, factor: Factor) -> Array:
        """λ for each seed; the latest single one is remembered, for Hessian actions with the same seed."""
        clamped = duals.copy()
        clamped[:, self._G.residual.boundary.owned] = 0.0
        adjoints = solve_adjoints(factor, clamped)
        self._G.counts["adjoint"] += len(seeds)
        if len(seeds) == 1:
            self._last_adjoint = (seeds[0].copy(), adjoints[0].copy())
        return adjoints

    def _adjoint_of(self, seed: Array, factor: Factor) -> Array:
        # Seeds are rank 0's on every rank, so that all ranks agree whether this one is known.
        for known in (self._hessian_adjoint, self._last_adjoint):
            if known is not None and np.array_equal(known[0], seed):
                self._hessian_adjoint = known
                return known[1]
        dual = self._G.observable.adjoint(self._G.residual.state, seed)
        self._hessian_adjoint = (seed.copy(), self._adjoints(seed[None, :], dual[None, :], factor)[0])
        return self._hessian_adjoint[1]

    def _hessian_action(self, factor: Factor, seed: Array, direction: list[Array], du: Array) -> Array:
        G, residual = self._G, self._G.residual
        lam = self._adjoint_of(seed, factor)
        residual.install_tangent(direction)
        self._install_state_tangent(du)
        residual.adjoint.x.array[: residual.num_owned] = lam
        residual.adjoint.x.scatter_forward()
        curved = G.observable.second(residual.state, seed, residual.tangent_state)
        rhs = curved - residual.second_state_source()
        rhs[residual.boundary.owned] = 0.0
        residual.second_adjoint.x.array[: residual.num_owned] = solve_adjoints(factor, rhs[None, :])[0]
        residual.second_adjoint.x.scatter_forward()
        G.counts["adjoint"] += 1
        boundary = residual.second_adjoint_action() - curved if residual.boundary.has_controls else None
        return -G.layout.join(residual.second_gradient(boundary))
