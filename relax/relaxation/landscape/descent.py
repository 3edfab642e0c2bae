"""Following minima of a relaxed landscape as t goes to 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from relax.base.fem.points import check_found
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.landscape.evaluation import Evaluation

# A step that leaves the mesh is halved this often before its point stays where it is.
_HALVINGS = 30


@dataclass(frozen=True)
class Descent:
    """Where a descent ended. Numpy arrays, or torch tensors where the starts were one; the same on every rank.

    Attributes:
        x: (n, d) the last points.
        values: (n,) f there.
        times: the schedule.
        path: (steps + 1, n, d) from the starts on, or None; with rate 1 each is the mean of the Gibbs measure around
            the one before.
    """

    x: Any
    values: Any
    times: Any
    path: Any = None

    def mapped(self, convert: Callable[[Array], Any]) -> Descent:
        """The same with each array converted."""
        arrays = (self.x, self.values, self.times, self.path)
        return Descent(*(None if array is None else convert(array) for array in arrays))


def descended(
    u: Evaluation, f: Callable[[Array], Array], x0: Array, times: Array, *, rate: float, steps: int, path: bool
) -> Descent:
    """The descent of :meth:`RelaxedLandscape.descend`, from points (n, d), with f at its ends. Collective."""
    last = u.last_time
    if len(times) == 0 or not np.isfinite(times).all() or (times < 0.0).any() or (times > last).any():
        raise BadInput(f"schedule: expected times between 0 and {last:g}, the last of the landscape, got {times}")
    check_found(x0, u.contains(x0), u.dim)
    x = x0.copy()
    visited = [x]
    for t in np.repeat(times, steps):
        if t > 0.0:
            x = _inside(u, x, np.clip(x - rate * t * u.evaluate("gradient", x, t), *u.box))
        visited.append(x)
        if not path:
            visited = visited[-1:]
    return Descent(x, f(x), times, np.array(visited) if path else None)


def _inside(u: Evaluation, before: Array, moved: Array) -> Array:
    """Moves that end outside the mesh, shortened. Collective."""
    for _ in range(_HALVINGS):
        is_inside = u.contains(moved)
        if is_inside.all():
            return moved
        moved = np.where(is_inside[:, None], moved, 0.5 * (before + moved))
    return np.where(u.contains(moved)[:, None], moved, before)
