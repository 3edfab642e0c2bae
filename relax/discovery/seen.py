"""Samples scattered over space and time, as an observable of an evolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import LinearObservable, Look
from relax.observe.points import PointValues

# A cubic through so many states around a sample.
_STATES = 4


class ScatteredValues(LinearObservable):
    """y_i = u(x_i, t_i), between steps by the cubic through the four states around t_i. Collective to make.

    Args:
        V: the state's space, or a part of it.
        points: (num, gdim).
        steps: (num,) the times, counted in steps from the start, each from 0 to the number of steps.
        num_steps: of the evolution.
    """

    needs_steps = True

    def __init__(self, V: fem.FunctionSpace, points: npt.ArrayLike, steps: Array, num_steps: int) -> None:
        self._values = PointValues(V, points)
        components = self._values.size // len(steps)
        self.size = self._values.size
        self._num_steps = num_steps
        self._weights = np.repeat(_weights(steps, num_steps), components, axis=1)

    def looks(self, num_steps: int, start: int = 0) -> list[Look]:
        if num_steps != self._num_steps:
            raise BadProblem(f"ScatteredValues: expected an evolution of {self._num_steps} steps, got {num_steps}")
        return [
            Look(n, _Weighted(self._values, self._weights[n]), start, 1.0)
            for n in range(num_steps + 1)
            if self._weights[n].any()
        ]

    def value(self, u: fem.Function) -> Array:
        raise BadProblem("ScatteredValues looks at the steps of an Evolution; a single state has none")

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        raise BadProblem("ScatteredValues looks at the steps of an Evolution; a single state has none")

    def check_state(self, state: fem.Function) -> None:
        self._values.check_state(state)


class _Weighted(LinearObservable):
    """y_i = w_i u(x_i)."""

    def __init__(self, values: PointValues, weights: Array) -> None:
        self._values = values
        self._weights = weights
        self.size = values.size

    def value(self, u: fem.Function) -> Array:
        return self._weights * self._values.value(u)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        return self._values.adjoint(u, self._weights * dy)


def _weights(steps: Array, num_steps: int) -> Array:
    """(num_steps + 1, num): of each state in each sample, by Lagrange's formula."""
    count = min(_STATES, num_steps + 1)
    first = np.clip(np.floor(steps).astype(int) - (count - 2) // 2, 0, num_steps + 1 - count)
    weights = np.zeros((num_steps + 1, len(steps)))
    for i in range(count):
        others = [j for j in range(count) if j != i]
        part = np.prod([(steps - first - j) / (i - j) for j in others], axis=0)
        weights[first + i, np.arange(len(steps))] = part
    return weights
