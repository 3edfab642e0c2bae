"""The box of a few parameters: its lattice, points in it, and times that fit it. Dimensionless, without MPI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from relax.base.checks import at_least
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.functions import as_numbers, grid

# By default: cells of the box in each direction, in 1, 2 and 3 dimensions; how many times.
_NUM = (200, 24, 12)
_TIMES = 12
# sqrt(t / beta), how far a relaxed value looks, from half a cell to half the box.
_FARTHEST = 0.5


def default_times(beta: float, cells: Sequence[int]) -> Array:
    """Geometric times at which sqrt(t/beta) goes from half a cell to half of the unit box. Local."""
    return np.asarray(beta * np.geomspace(0.5 / max(cells), _FARTHEST, _TIMES) ** 2)


def lattice(shape: Sequence[int]) -> Array:
    """The nodes of a lattice over the unit box, both ends among them, the last coordinate fastest: (prod(shape), d)."""
    return grid([np.linspace(0.0, 1.0, n) for n in shape])


def to_unit(m: npt.ArrayLike, box: Array) -> Array:
    """Points (..., d) of a box (d, 2) as points of the unit box."""
    return np.asarray((np.asarray(m) - box[:, 0]) / (box[:, 1] - box[:, 0]))


def from_unit(z: npt.ArrayLike, box: Array) -> Array:
    """Points (..., d) of the unit box as points of a box (d, 2)."""
    return np.asarray(box[:, 0] + (box[:, 1] - box[:, 0]) * np.asarray(z))


def checked_box(box: npt.ArrayLike, dim: int) -> Array:
    """The box as (dim, 2).

    Raises:
        BadInput: unless it has finite bounds for each number.
    """
    bounds = as_numbers(box, f"box: expected lower and upper bounds, an array of shape ({dim}, 2)")
    if bounds.shape != (dim, 2):
        raise BadInput(
            f"box: expected a lower and an upper bound for each of {dim} number(s), got shape {bounds.shape}"
        )
    if not np.isfinite(bounds).all() or not (bounds[:, 0] < bounds[:, 1]).all():
        raise BadInput(f"box: expected finite bounds, each lower one below its upper one, got {bounds.tolist()}")
    return bounds


def checked_num(num: int | Sequence[int] | None, dim: int) -> tuple[int, ...]:
    """Cells of the box in each direction.

    Raises:
        BadInput: unless there are two or more in each.
    """
    given = [_NUM[dim - 1]] * dim if num is None else list(num) if isinstance(num, Sequence) else [num] * dim
    if len(given) != dim:
        raise BadInput(f"num: expected one number of cells, or {dim} of them, got {num!r}")
    return tuple(at_least(n, 2, "num") for n in given)


def checked_starts(starts: int | npt.ArrayLike, box: Array) -> Array:
    """Starts (k, d): so many in each direction, in the middle of equal parts of the box, or those given.

    Raises:
        BadInput: for points outside the box.
    """
    if isinstance(starts, int | np.integer):
        n = at_least(int(starts), 1, "starts")
        return from_unit(grid([(np.arange(n) + 0.5) / n] * len(box)), box)
    expected = f"starts: expected a number, or points of shape (k, {len(box)})"
    points = as_numbers(starts, expected)
    if points.ndim != 2 or points.shape[1] != len(box) or len(points) == 0:
        raise BadInput(f"{expected}, got shape {points.shape}")
    if not ((points >= box[:, 0]) & (points <= box[:, 1])).all():
        raise BadInput(f"starts: expected points in the box {box.tolist()}, got some outside")
    return points
