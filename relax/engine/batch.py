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
        match which:
            case "vjp":
                return first_order_each(lambda point, rows: point.vjp_of_many(rows), points, *directions)
            case "jvp":
                return first_order_each(lambda point, rows: point.jvp_of_many(rows), points, *directions)
            case "hvp":
                return np.array([point.hvp(y, m) for point, y, m in zip(points, *directions, strict=True)])
            case "second_tangent":
                return second_tangent_each(points, *directions)

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


def first_order_each(
    product: Callable[[Linearization, Array], Array], points: Sequence[Linearization], rows: Array
) -> Array:
    """Each point's adjoint or tangent: (samples, directions, size_out) -> (samples, directions, size_in), or back.

    Collective. Points of an affine problem have one operator and one ∂F/∂m: where the observable is linear as well, the
    derivative is the same map at each of them, and all samples go through one block solve. More directions than there
    are controls, or observations, go through the matrix, made by tangents or by adjoints, whichever are fewer.

    Args:
        product: ``vjp_of_many`` or ``jvp_of_many`` of a point.
        points: a point for each sample.
        rows: seeds or directions.
    """
    if len(points) > 1 and points[0].is_everywhere_the_same:
        samples, directions = rows.shape[:2]
        return product(points[0], rows.reshape(samples * directions, rows.shape[2])).reshape(samples, directions, -1)
    return np.array([product(point, rows[i]) for i, point in enumerate(points)])


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
