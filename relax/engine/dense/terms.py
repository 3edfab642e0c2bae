"""What a step is made of, as arrays over the values of the state that are not clamped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relax.base.types import Array
from relax.engine.dense.affine import Affine, Indices


@dataclass(frozen=True, eq=False)
class Inflow:
    """D(c) w with w = m[index], in some steps: what fields, boundary values and their past bring in.

    Attributes:
        matrix: D, (n, k) in each step.
        index: (num_steps, k) where w lies in the control vector, in no step twice.
        steps: the steps in which it is there.
    """

    matrix: Affine
    index: Indices
    steps: range


@dataclass(frozen=True, eq=False)
class Given:
    """q(c) in some steps, (n,) in each."""

    vector: Affine
    steps: range


@dataclass(frozen=True, eq=False)
class Walls:
    """Clamped values L m[index] that controls give: L (num_clamped, k), index (num_steps, k)."""

    lift: Array
    index: Indices


@dataclass(frozen=True, eq=False)
class Terms:
    """A(c) u_n + B(c) u_{n-1} + Σ D(c) w + Σ q(c) = 0, for the n values of the state that are not clamped.

    c are numbers and w fields of the control vector m; each of A, B, D, q is affine in c.

    Attributes:
        A: ∂F/∂u, (n, n).
        B: ∂F/∂(previous), (n, n); None of a stationary problem.
        inflows, givens: the rest of F.
        scalars: (num_steps, num_scalars) where c lies in m.
        per_step: of each scalar whether it has a value in each step.
        free, clamped: local indices of the state's values.
        walls, wall_values: the clamped values that controls give, and those (num_clamped,) that are given.
        initial: u_0, all of it, (n_state,); zero where a control gives it, and of a stationary problem.
        initial_index: (n_state,) where u_0 lies in m; None where it is no control.
    """

    A: Affine
    B: Affine | None
    inflows: Sequence[Inflow]
    givens: Sequence[Given]
    scalars: Indices
    per_step: tuple[bool, ...]
    free: Indices
    clamped: Indices
    walls: Sequence[Walls]
    wall_values: Array
    initial: Array
    initial_index: Indices | None

    @property
    def num_steps(self) -> int:
        """1 of a stationary problem."""
        return len(self.scalars)

    def scalars_of(self, m: Array) -> Array:
        """c in each step, (num_steps, S, num_scalars), of controls (S, size_in); one step where all have the same."""
        steps = self.scalars if any(self.per_step) else self.scalars[:1]
        return np.ascontiguousarray(m[:, steps].transpose(1, 0, 2))

    def whole(self, n: int, values: Array, m: Array, *, change: bool = False) -> Array:
        """u_n with its clamped values: (..., n) of u_n and (..., size_in) to (..., n_state).

        Args:
            n: the number of the state; 0 is the initial one.
            values: those that are not clamped.
            m: controls, or directions.
            change: of du_n: without what is given.
        """
        state = np.empty((*values.shape[:-1], len(self.initial)))
        state[..., self.free] = values
        if n == 0:
            start = 0.0 if change else self.initial[self.clamped]
            state[..., self.clamped] = start if self.initial_index is None else m[..., self.initial_index[self.clamped]]
            return state
        state[..., self.clamped] = 0.0 if change else self.wall_values
        for wall in self.walls:
            state[..., self.clamped] += m[..., wall.index[n - 1]] @ wall.lift.T
        return state

    def start(self, m: Array, *, change: bool = False) -> Array:
        """u_0, or du_0, without its clamped values: (..., size_in) to (..., n)."""
        if self.initial_index is not None:
            return np.ascontiguousarray(m[..., self.initial_index[self.free]])
        start = np.zeros(len(self.free)) if change else self.initial[self.free]
        return np.broadcast_to(start, (*m.shape[:-1], len(self.free))).copy()

    def put(self, n: int, duals: Array, gradient: Array) -> None:
        """Add what arrives at the clamped values of u_n, or at all of u_0, to gradients.

        Args:
            n: the number of the state.
            duals: (S, K, n_state).
            gradient: (S, K, size_in).
        """
        if n > 0:
            for wall in self.walls:
                gradient[..., wall.index[n - 1]] += duals[..., self.clamped] @ wall.lift
        elif self.initial_index is not None:
            gradient[..., self.initial_index] += duals

    def put_scalars(self, parts: Array, gradient: Array) -> None:
        """Add derivatives in the scalars of each step, (num_steps, S, K, num_scalars), to (S, K, size_in)."""
        for j, differs in enumerate(self.per_step):
            if differs:
                gradient[..., self.scalars[:, j]] += np.moveaxis(parts[..., j], 0, -1)
            else:
                gradient[..., self.scalars[0, j]] += parts[..., j].sum(axis=0)
