"""Derivative products at several samples, which share a block solve where they share an operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from relax.linearization import Linearization

Array = npt.NDArray[np.float64]


def vjp_each(points: Sequence[Linearization], dy: Array) -> Array:
    """Each point's adjoint: (samples, directions, size_out) -> (samples, directions, size_in). Collective.

    Points of an affine problem have one operator and one ∂F/∂m: where the observable is linear as well, the adjoint is
    the same map at each of them, and all samples go through one block solve.
    """
    if len(points) > 1 and points[0].is_everywhere_the_same:
        samples, directions = dy.shape[:2]
        return points[0].vjp(dy.reshape(samples * directions, dy.shape[2])).reshape(samples, directions, -1)
    return np.array([point.vjp(rows) for point, rows in zip(points, dy, strict=True)])


def jvp_each(points: Sequence[Linearization], dm: Array) -> Array:
    """Each point's tangent: (samples, directions, size_in) -> (samples, directions, size_out). Collective."""
    if len(points) > 1 and points[0].is_everywhere_the_same:
        samples, directions = dm.shape[:2]
        return points[0].jvp(dm.reshape(samples * directions, dm.shape[2])).reshape(samples, directions, -1)
    return np.array([point.jvp(rows) for point, rows in zip(points, dm, strict=True)])


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
