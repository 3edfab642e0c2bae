"""What the functions of this package take: points, functions of x. Local."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from relax.base.types import Array
from relax.errors import BadInput

#: A function of x: coordinates (d, n) -> values (n,).
Landscape: TypeAlias = Callable[[Array], Any]


def as_points(x: npt.ArrayLike, what: str = "x") -> Array:
    """Points as (n, d); an array with one axis, or a number, is points of a line.

    Raises:
        BadInput: for another shape, or coordinates that are not finite.
    """
    try:
        points = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise BadInput(f"{what}: expected points, an array of shape (n, d): {cause}") from cause
    points = points.reshape(-1, 1) if points.ndim < 2 else points
    if points.ndim != 2 or points.shape[1] == 0:
        raise BadInput(f"{what}: expected points, an array of shape (n, d), got shape {points.shape}")
    if not np.isfinite(points).all():
        raise BadInput(f"{what}: expected finite coordinates, got NaN or infinity")
    return points


def values_of(f: Landscape, points: Array, what: str = "f") -> Array:
    """f at points (n, d), as (n,).

    Raises:
        BadInput: when f gives another shape, or values that are not finite.
    """
    found = np.asarray(f(np.ascontiguousarray(points.T)), dtype=np.float64)
    n = len(points)
    if found.shape == (1, n):
        found = found[0]
    if found.shape not in ((), (n,)):
        raise BadInput(f"{what}: expected values of shape ({n},) for x of shape {points.T.shape}, got {found.shape}")
    if not np.isfinite(found).all():
        raise BadInput(f"{what}: expected finite values, got NaN or infinity; restrict the box of x")
    return np.broadcast_to(found, (n,))


def gradient_of(gradient: Callable[[Array], Any], points: Array, what: str) -> Array:
    """A gradient at points (n, d), as (n, d).

    Raises:
        BadInput: when it gives another shape.
    """
    found = np.asarray(gradient(points), dtype=np.float64)
    if found.shape != points.shape:
        raise BadInput(f"{what}: expected an array of the shape of its points, {points.shape}, got {found.shape}")
    return found
