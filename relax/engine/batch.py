"""Derivative products at several samples, which share a block solve where they share an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np

from relax.base import parallel
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.protocols import Map

Product = Literal["vjp", "jvp", "hvp", "second_tangent"]


class KnownSamples(Protocol):
    """Where a batch has been solved, and where its derivatives are found again by its controls. Collective.

    Its rows are control vectors that ``layout.checked`` has seen.
    """

    def solve(self, rows: Array) -> Array:
        """(samples, size_in) -> (samples, size_out)."""

    def product(self, which: Product, rows: Array, *directions: Array) -> Array:
        """A product at each sample, directions (samples, k, ·), at points that are known, or made now."""


class KnownPoints:
    """A linearisation point for each sample. Collective, as are its methods.

    Args:
        G: the map.
    """

    def __init__(self, G: Map) -> None:
        self._G = G
        self._known: list[tuple[Array, Linearization]] = []

    def solve(self, rows: Array) -> Array:
        """(samples, size_in) -> (samples, size_out)."""
        new = self._G.linearize_rows(rows)
        self._known += list(zip(rows.copy(), new, strict=True))
        return np.array([point.value for point in new]).reshape(len(rows), self._G.size_out)

    def product(self, which: Product, rows: Array, *directions: Array) -> Array:
        """A product at each sample: (samples, k, size_in) of adjoints and Hessian actions, size_out of tangents."""
        points = [self._find(rows[i], hint=i) for i in range(len(rows))]
        if not points:
            length = self._G.size_in if which in ("vjp", "hvp") else self._G.size_out
            return np.empty((0, directions[0].shape[1], length))
        return _EACH[which](points, *directions)

    def _find(self, row: Array, hint: int) -> Linearization:
        G = self._G
        if G.layout.kind == "replicated":
            # All ranks hold rank 0's control, so they find the same.
            near = self._known[hint : hint + 1] + self._known
            for control, point in near:
                if np.array_equal(control, row):
                    return point
        else:
            same = sum(1 << i for i, (control, _) in enumerate(self._known) if np.array_equal(control, row))
            agreed = parallel.all_ranks_mask(G.comm, same)
            for i, (_, point) in enumerate(self._known):
                if agreed >> i & 1:
                    return point
        self._known.append((row.copy(), G.linearize_rows(row[None, :])[0]))
        return self._known[-1][1]


def vjp_each(points: Sequence[Linearization], dy: Array) -> Array:
    """Each point's adjoint: (samples, directions, size_out) -> (samples, directions, size_in). Collective.

    Points of an affine problem have one operator and one ∂F/∂m: where the observable is linear as well, the adjoint is
    the same map at each of them, and all samples go through one block solve. More directions than there are controls,
    or observations, go through the matrix, made by tangents or by adjoints, whichever are fewer.
    """
    if len(points) > 1 and points[0].is_everywhere_the_same:
        samples, directions = dy.shape[:2]
        return points[0].vjp_of_many(dy.reshape(samples * directions, dy.shape[2])).reshape(samples, directions, -1)
    return np.array([point.vjp_of_many(dy[i]) for i, point in enumerate(points)])


def jvp_each(points: Sequence[Linearization], dm: Array) -> Array:
    """Each point's tangent: (samples, directions, size_in) -> (samples, directions, size_out). Collective."""
    if len(points) > 1 and points[0].is_everywhere_the_same:
        samples, directions = dm.shape[:2]
        return points[0].jvp_of_many(dm.reshape(samples * directions, dm.shape[2])).reshape(samples, directions, -1)
    return np.array([point.jvp_of_many(dm[i]) for i, point in enumerate(points)])


def hvp_each(points: Sequence[Linearization], dy: Array, dm: Array) -> Array:
    """Each point's Hessian action: (samples, directions, ·) twice -> (samples, directions, size_in). Collective."""
    return np.array([point.hvp(y, m) for point, y, m in zip(points, dy, dm, strict=True)])


def second_tangent_each(points: Sequence[Linearization], a: Array, b: Array) -> Array:
    """Each point's G''(m)[a, b]: (samples, directions, size_in) twice -> (samples, directions, size_out). Collective.

    A Hessian action for each observation.
    """
    samples, directions = a.shape[:2]
    result = np.empty((samples, directions, len(points[0].value)))
    for s, point in enumerate(points):
        for k in range(directions):
            actions = point.hvp(np.eye(result.shape[2]), b[s, k])
            result[s, k] = [point.dot(actions[i], np.ascontiguousarray(a[s, k])) for i in range(len(actions))]
    return result


_EACH: dict[Product, Callable[..., Array]] = {
    "vjp": vjp_each,
    "jvp": jvp_each,
    "hvp": hvp_each,
    "second_tangent": second_tangent_each,
}
