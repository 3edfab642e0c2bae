"""Bounds on control values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.checks import array_like, as_number
from relax.base.types import Array
from relax.engine.controls import control_values
from relax.engine.protocols import Map
from relax.errors import BadInput

# A value is at its bound that is this near to it, of the width of its box (of one without width: of the bound's size).
_AT = 1e-10


class Box:
    """low <= m <= high, entry by entry.

    Args:
        G: the map whose control vectors they bound. Collective to make.
        bounds: (low, high), as ``minimize`` takes them.

    Attributes:
        low, high: control vectors; infinite where there is no bound.

    Raises:
        BadInput: on every rank, for bounds of a wrong shape, NaN, or low > high.
    """

    def __init__(self, G: Map, bounds: Any) -> None:
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            raise BadInput(f"bounds: expected a pair (low, high), None for no bound, got {bounds!r:.80}")
        self._comm = G.comm
        self.low = _side(G, bounds[0], -math.inf, "low")
        self.high = _side(G, bounds[1], math.inf, "high")
        # Bounds that are functions meet only up to rounding.
        sizes = [np.abs(side[np.isfinite(side)]).max(initial=0.0) for side in (self.low, self.high)]
        meet = (self.low > self.high) & (self.low - self.high <= _AT * parallel.largest(G.comm, max(sizes)))
        self.high = np.where(meet, self.low, self.high)
        with parallel.together(G.comm):
            if wrong := int(np.count_nonzero(self.low > self.high)):
                i = int(np.argmax(self.low - self.high))
                raise BadInput(
                    f"bounds: expected low <= high, got low above high in {wrong} of {len(self.low)} entries, such as "
                    f"{self.low[i]:.6g} > {self.high[i]:.6g}"
                )
        width = self.high - self.low
        ends = [np.where(np.isfinite(side), np.abs(side), 0.0) for side in (self.low, self.high)]
        self._near = _AT * np.where(np.isfinite(width), width, np.maximum(*ends))

    def project(self, m: Array) -> Array:
        """The nearest control within; what is at a bound up to rounding is put there. Local."""
        m = np.where(m <= self.low + self._near, self.low, m)
        return np.where(m >= self.high - self._near, self.high, m)

    def free(self, m: Array, g: Array) -> npt.NDArray[np.bool_]:
        """Which entries may move where the gradient is g: not those at a bound that −g points out of. Local."""
        return ~(((m <= self.low + self._near) & (g > 0.0)) | ((m >= self.high - self._near) & (g < 0.0)))


def _side(G: Map, given: Any, without: float, name: str) -> Array:
    """One of the bounds as a control vector. Collective."""
    size, what = G.layout.size, f"bounds: {name}"
    if isinstance(given, np.ndarray) and given.ndim == 1:
        return _vector(G, given, without, what)
    problem: Any = getattr(G, "problem", None)
    with parallel.together(G.comm):
        numbers = _numbers(given, problem, without, what)
    if len(numbers) == 1 and not math.isnan(numbers[0]):
        return np.full(size, parallel.of_rank_0(G.comm, numbers[0]))
    each = given if isinstance(given, list | tuple) else [given]
    infinite = [math.isinf(number) for number in numbers]
    side = control_values(G, *(0.0 if inf else one for one, inf in zip(each, infinite, strict=True)))
    side[control_values(G, *map(float, infinite)) > 0.5] = without
    return side


def _numbers(given: Any, problem: Any, without: float, what: str) -> list[float]:
    """The number that bounds all, or each of the controls; NaN for what is more than a number. Local."""
    is_list = isinstance(given, list | tuple)
    each = list(given) if is_list else [given]
    numbers = [without if one is None else as_number(one) for one in each]
    is_for_all = not is_list and not math.isnan(numbers[0])
    num_controls = 0 if problem is None else len(problem.controls)
    no_number = any(isinstance(one, float) and math.isnan(one) for one in each)
    if not is_for_all and (no_number or len(each) != num_controls):
        words = "a number, or a control vector as an array of NumPy"
        if num_controls == 1:
            words = f"{words}, a Function, an expression or a function of x"
        elif num_controls > 1:
            words = f"{words}, or for each of {num_controls} controls, in a list, a number, a Function or None"
        raise BadInput(f"{what}: expected {words}, got {given!r:.80}")
    if any(number == -without for number in numbers):
        raise BadInput(f"{what}: expected a bound, or {without} for none, got {given!r:.80}")
    return numbers


def _vector(G: Map, given: Array, without: float, what: str) -> Array:
    bounded = np.asarray(array_like(given, what), dtype=np.float64)
    is_infinite = bounded == without
    side = G.layout.checked(np.where(is_infinite, 0.0, bounded), what).copy()
    side[is_infinite] = without
    return side
