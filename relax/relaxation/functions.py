"""What the functions of this package take: points, functions of x. Local."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from relax.base.checks import array_like
from relax.base.types import Array
from relax.errors import BadInput

#: A function of x: coordinates (d, n) -> values (n,).
Landscape: TypeAlias = Callable[[Array], Any]


def as_numbers(values: npt.ArrayLike, expected: str) -> Array:
    """Values as an array of float64.

    Raises:
        BadInput: that opens with what was ``expected``, when they are no numbers.
    """
    try:
        return np.asarray(array_like(values, expected.partition(":")[0]), dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise BadInput(f"{expected}: {cause}") from cause


def as_points(x: npt.ArrayLike, what: str = "x") -> Array:
    """Points as (n, d); an array with one axis, or a number, is points of a line.

    Raises:
        BadInput: for another shape, or coordinates that are not finite.
    """
    points = as_numbers(x, f"{what}: expected points, an array of shape (n, d)")
    points = points.reshape(-1, 1) if points.ndim < 2 else points
    if points.ndim != 2 or points.shape[1] == 0:
        raise BadInput(f"{what}: expected points, an array of shape (n, d), got shape {points.shape}")
    if not np.isfinite(points).all():
        raise BadInput(f"{what}: expected finite coordinates, got NaN or infinity")
    return points


def grid(axes: Sequence[npt.ArrayLike]) -> Array:
    """The points of the grid over these axes, the last coordinate fastest: (product of their lengths, d)."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def values_of(f: Landscape, points: Array, what: str = "f") -> Array:
    """f at points (n, d), as (n,).

    Raises:
        BadInput: when f gives another shape, or values that are not finite.
    """
    values = np.asarray(f(np.ascontiguousarray(points.T)), dtype=np.float64)
    n = len(points)
    if values.shape == (1, n):
        values = values[0]
    if values.shape not in ((), (n,)):
        raise BadInput(f"{what}: expected values of shape ({n},) for x of shape {points.T.shape}, got {values.shape}")
    if not np.isfinite(values).all():
        raise BadInput(f"{what}: expected finite values, got NaN or infinity; restrict the box of x")
    return np.broadcast_to(values, (n,))


def gradient_of(gradient: Callable[[Array], Any], points: Array, what: str) -> Array:
    """A gradient at points (n, d), as (n, d).

    Raises:
        BadInput: when it gives another shape.
    """
    slopes = np.asarray(gradient(points), dtype=np.float64)
    if slopes.shape != points.shape:
        raise BadInput(f"{what}: expected an array of the shape of its points, {points.shape}, got {slopes.shape}")
    return slopes
