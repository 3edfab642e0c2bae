"""Newton's method down an energy, to a place where it is least."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from relax.base.types import Array
from relax.errors import SolveFailed

Parts: TypeAlias = list[Array]

_MOST = 100
# A step that is nothing beside what it steps from; one that rounding may be all of, if it does not shrink any more.
_NOTHING, _ROUNDING = 1e-11, 1e-7
# What of the promised decrease is enough; where energies differ by less than this of their size, slopes tell.
_ARMIJO, _BLURRED, _SHORTEST = 1e-4, 1e-6, 1e-10

#: What bends downwards, and the remedy.
DOWNWARDS = (
    "Aeqprop: the energy has no least value near here: it bends downwards. For parameters in which it is linear take "
    "logarithms (exp(θ) in E), or a smaller rate, less nudging, or bounds"
)


class NewtonStep(NamedTuple):
    """Where Newton's method goes: x - parts; whether the curvature is positive without being made so."""

    parts: Parts
    is_convex: bool


class Energetic(Protocol):
    """A function of several parts, distributed as its maker knows."""

    def value(self, x: Parts) -> float: ...

    def slope(self, x: Parts) -> Parts: ...

    def step(self, x: Parts, slope: Parts) -> NewtonStep:
        """A step whose product with the slope is not negative."""

    def moved(self, x: Parts, step: Parts, length: float) -> Parts:
        """x - length * step, within bounds."""

    def dot(self, a: Parts, b: Parts) -> float: ...

    def sizes(self, x: Parts) -> Array:
        """A norm of each part."""

    def largest(self, ratios: Array) -> float:
        """Over all parts that there are anywhere."""


def least(f: Energetic, x: Parts, scales: Array, *, begins_convex: bool = False) -> tuple[Parts, float, int]:
    """The place where f is least near x, the value there and the number of steps. Collective.

    Args:
        f: the function.
        x: where to begin.
        scales: a size of each part against which a step is small, besides those that it has on the way.
        begins_convex: refuse a place to begin where the first step meets a direction that bends downwards.

    Raises:
        SolveFailed: with what to try.
    """
    value = f.value(x)
    if not np.isfinite(value):
        raise SolveFailed(f"Aeqprop: the energy is {value}; look for inputs, states and parameters that are not finite")
    last, has_bent = np.inf, False
    for iteration in range(_MOST):
        slope = f.slope(x)
        try:
            step = f.step(x, slope)
        except SolveFailed as error:
            raise SolveFailed(DOWNWARDS) if has_bent else error from error
        end = f.moved(x, step.parts, 1.0)
        norms = f.sizes(_less(x, end))
        scales = np.max([scales, norms, f.sizes(x)], axis=0)
        ratio = f.largest(norms / np.maximum(scales, 1e-300))
        has_bent |= not step.is_convex
        if has_bent and begins_convex and iteration == 0:
            raise SolveFailed(DOWNWARDS)
        if ratio <= _NOTHING or 0.5 * last <= ratio <= _ROUNDING:
            if not step.is_convex:
                raise SolveFailed(
                    "Aeqprop: at rest where the energy is not least: a maximum, a saddle, or flat ground. Begin with "
                    "another state; hold it somewhere; for parameters try a smaller rate, or less nudging"
                )
            return end, f.value(end), iteration
        x, value, length = _search(f, x, step.parts, slope, value, has_bent)
        last = ratio if length == 1.0 and step.is_convex else np.inf
    raise SolveFailed(
        DOWNWARDS
        if has_bent
        else f"Aeqprop: not at rest after {_MOST} steps of Newton's method; try less nudging, or a smaller rate"
    )


def _search(
    f: Energetic, x: Parts, step: Parts, slope: Parts, value: float, has_bent: bool
) -> tuple[Parts, float, float]:
    """Where f is enough less along a step, the value there, and the length of the way."""
    length = 1.0
    while length >= _SHORTEST:
        there = f.moved(x, step, length)
        way = _less(x, there)
        tried, promised = f.value(there), f.dot(slope, way)
        if np.isfinite(tried) and promised >= 0.0:
            if tried <= value - _ARMIJO * promised:
                return there, tried, length
            # Rounding of the sum is larger than what is left to gain; slopes tell still (Hager and Zhang 2005).
            if abs(tried - value) <= _BLURRED * abs(value) and (
                f.dot(f.slope(there), way) >= (2.0 * _ARMIJO - 1.0) * promised
            ):
                return there, tried, length
        length *= 0.5
    raise SolveFailed(
        DOWNWARDS if has_bent else "Aeqprop: Newton's method found no smaller energy along its step; try less nudging"
    )


def _less(x: Parts, there: Parts) -> Parts:
    return [a - b for a, b in zip(x, there, strict=True)]
