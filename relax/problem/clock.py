"""When the steps of an evolution end, and what is set anew at each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base.fem.forms import Control, number_now, values_of
from relax.base.types import Array
from relax.errors import BadProblem
from relax.problem.data import StepValues

# Lengths of steps that differ by less than this of the longest time are one length: times come from sums.
_SAME_LENGTH = 1e-13


class Clock:
    """t_0, ..., t_N, and the Functions and Constants that the steps set: the time, a length, data.

    Attributes:
        registers: those Functions and Constants.
        constants: the Constants among them but for the time: where they hold the same again, so does a matrix of them.

    Args:
        num_steps: N.
        time: holds t_n at step n.
        dt: the length of a step, or the Constant that holds it.
        start: t_0.
        times: (N + 1,) where steps have lengths of their own; then a step sets dt.
        data: what other Functions and Constants hold.
    """

    def __init__(
        self,
        num_steps: int,
        time: fem.Constant | None,
        dt: float | fem.Constant | None,
        start: float,
        times: Array | None,
        data: Iterable[StepValues],
    ) -> None:
        self._num_steps = num_steps
        self._times = times
        self._time = time
        self._dt = dt
        self._start = start
        self._length = dt if times is not None and isinstance(dt, fem.Constant) else None
        self._set: list[tuple[Control, Callable[[int, Array | None], Any]]] = [(d.terminal, d.at) for d in data]
        self._lengths = None if times is None else _without_rounding(times)
        if self._lengths is not None and self._length is not None:
            lengths = self._lengths
            self._set.append((self._length, lambda n, grid: lengths[max(n - 1, 0)]))
        set_here = [register for register, _ in self._set]
        self.constants = [c for c in set_here if isinstance(c, fem.Constant)]
        self.registers: list[Control] = set_here if time is None else [time, *set_here]

    def grid(self, last: int | None = None) -> Array | None:
        """t_0, ..., t_N as they are now: (N + 1,); None where the length of a step is not known. Local.

        Args:
            last: another number in place of N.

        Raises:
            BadProblem: where this is more than there are times.
        """
        N = self._num_steps if last is None else last
        if self._times is not None:
            if N > self._num_steps:
                raise BadProblem(f"times: expected one for step {N}, got {self._num_steps + 1} of them")
            return self._times[: N + 1]
        return None if self._dt is None else self._start + np.arange(N + 1) * number_now(self._dt)

    def lengths(self) -> Array | None:
        """t_n - t_{n-1} as they are now, without the rounding of a late start: (N,); None where not known. Local."""
        if self._lengths is not None:
            return self._lengths
        return None if self._dt is None else np.full(self._num_steps, number_now(self._dt))

    def weights(self) -> Array | None:
        """Of the trapezoidal rule over all steps, as they are now: (N + 1,); None where no length is known. Local."""
        lengths = self.lengths()
        return None if lengths is None else 0.5 * (np.append(lengths, 0.0) + np.append(0.0, lengths))

    def follows(self, dt: Any) -> bool:
        """Whether the steps set this Constant to their lengths."""
        return self._length is not None and dt is self._length

    def set(self, n: int, grid: Array | None) -> None:
        """Time, length and data are those of step n; of the first step at its start. Collective for data.

        Args:
            n: the number of the step.
            grid: the times of the run.
        """
        if self._time is not None and grid is not None:
            values_of(self._time)[...] = grid[n]
        for register, at in self._set:
            values_of(register)[...] = at(n, grid)

    def constants_of(self, grid: Array | None) -> dict[int, list[bytes]]:
        """What each of ``constants`` holds at the steps 0, ..., N, by its id. Collective."""
        steps = range(self._num_steps + 1)
        return {
            id(register): [np.asarray(at(n, grid), dtype=np.float64).tobytes() for n in steps]
            for register, at in self._set
            if isinstance(register, fem.Constant)
        }


class OfLengths(StepValues):
    """What a Constant holds at step n, where that follows from the lengths of the steps. Local.

    Args:
        terminal: the Constant.
        of_lengths: from the lengths, (N,), to one number for each step, (N,).
    """

    def __init__(self, terminal: fem.Constant, of_lengths: Callable[[Array], Array]) -> None:
        self.terminal = terminal
        self._of_lengths = of_lengths
        self._known: tuple[Array, Array] | None = None

    @property
    def needs_time(self) -> bool:
        return False

    @property
    def changes_within(self) -> bool:
        return False

    def fits(self, num_steps: int) -> bool:
        return True

    def at(self, n: int, grid: Array | None) -> Array:
        assert grid is not None, "who asks for lengths names them"
        if self._known is None or not np.array_equal(self._known[0], grid):
            self._known = grid.copy(), self._of_lengths(_without_rounding(grid))
        return self._known[1][max(n - 1, 0)]


def _without_rounding(times: Array) -> Array:
    """The lengths of steps, those that are the same but for rounding bitwise the same."""
    lengths = np.diff(times)
    order = np.argsort(lengths)
    jumps = np.diff(lengths[order]) > _SAME_LENGTH * np.abs(times).max()
    group = np.concatenate([[0], np.cumsum(jumps)])
    firsts = lengths[order][np.concatenate([[True], jumps])]
    same = np.empty_like(lengths)
    same[order] = firsts[group]
    return same


def checked_times(times: npt.ArrayLike) -> Array:
    """Times of steps as an array (N + 1,). Local.

    Raises:
        BadProblem: unless there are at least two, finite, and each is later than the one before.
    """
    try:
        array = np.array(times, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all() or np.any(np.diff(array) <= 0.0):
        raise BadProblem(
            f"times: expected the times of u_0, ..., u_N, at least two finite numbers, each later than the one before, "
            f"got {times!r:.80}"
        )
    return array
