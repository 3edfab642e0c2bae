"""Constraints on numbers that controls, or states, give: low <= c(m) <= high, by an augmented Lagrangian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import ufl

from relax.base import parallel
from relax.base.checks import as_number, several
from relax.base.types import Array
from relax.engine.protocols import Map
from relax.errors import BadInput
from relax.invert.form_cost import FormCost

_WORDS = "(c, low, high) with c a UFL form in the controls or a map of one number, and numbers, None for no bound"
_MAX_ROUNDS = 20


class Constraint:
    """low <= c(m) <= high, as a part of J with a multiplier λ and a weight μ:

        ½ μ dist(c + λ/μ, [low, high])² − λ² / (2 μ)

    (Rockafellar, J. Optim. Theory Appl. 12 (1973) 555–562). Its slope is y ∇c, y = μ (c + λ/μ − its nearest in [low,
    high]), the next λ; where y = 0 it is flat.

    Args:
        G: the map whose controls are constrained. Collective to make.
        given: (c, low, high).
        what: opens messages.

    Attributes:
        form: c of a form; None for a map.
        map: c of a map; None for a form.
        multiplier: λ.
        weight: μ; 0 until ``begin``.
        scale: the size of the bounds; where they are 0, of c at the start.

    Raises:
        BadInput: on every rank, for anything else.
    """

    def __init__(self, G: Map, given: Any, what: str) -> None:
        with parallel.together(G.comm):
            if not isinstance(given, list | tuple) or len(given) != 3:
                raise BadInput(f"{what}: expected {_WORDS}, got {given!r:.80}")
            c, low, high = given
            self.low = -math.inf if low is None else as_number(low)
            self.high = math.inf if high is None else as_number(high)
            if not self.low <= self.high or self.low == math.inf or self.high == -math.inf:
                raise BadInput(f"{what}: expected low <= high, got {low!r:.80} and {high!r:.80}")
            is_map = not isinstance(c, type) and hasattr(c, "linearize")
            if not (isinstance(c, ufl.Form) and not c.arguments()) and not (is_map and c.size_out == 1):
                raise BadInput(f"{what}: expected {_WORDS}, got {c!r:.80}")
        mine = np.array([self.low, self.high])
        first = parallel.from_rank_0(G.comm, mine)
        # What is assembled on one rank is a likely one that differs.
        if parallel.any_rank(G.comm, not np.allclose(mine, first, rtol=1e-9, atol=0.0)):
            raise BadInput(
                f"{what}: expected the same low and high on every rank, got others; sum what ranks assemble over them"
            )
        self.low, self.high = map(float, first)
        self.map: Map | None = c if is_map else None
        self.form: FormCost | None = None if is_map else FormCost(c, G)
        self.multiplier, self.weight, self.scale = 0.0, 0.0, 1.0

    def slope(self, c: float) -> float:
        """y, the next multiplier."""
        if self.weight == 0.0:
            return 0.0
        shifted = c + self.multiplier / self.weight
        return self.weight * (shifted - min(max(shifted, self.low), self.high))

    def value(self, c: float) -> float:
        """What it adds to J."""
        if self.weight == 0.0:
            return 0.0
        return (self.slope(c) ** 2 - self.multiplier**2) / (2.0 * self.weight)

    def curvature(self, c: float) -> float:
        """μ where it is not flat."""
        return self.weight if self.slope(c) != 0.0 or self.low == self.high else 0.0

    def violation(self, c: float) -> float:
        """How far c is from where λ wants it: outside, or, held by a multiplier, inside."""
        if self.weight == 0.0:
            return max(self.low - c, c - self.high, 0.0)
        return abs(self.slope(c) - self.multiplier) / self.weight

    def begin(self, c: float, slope_along: float, curvature_along: float, cost: float) -> None:
        """Set a first μ: a hundred times what J bends as c changes, so that a round leaves a hundredth of a violation.

        It adds one large eigenvalue to the Hessian, which costs conjugate gradients one iteration.

        Args:
            c: at the start, and
            slope_along: ∇c · w there, of a direction w, and
            curvature_along: wᵀ H w of J.
            cost: J; it is compared with the violation where J does not bend.
        """
        # A start far away makes no violation small.
        bounds = [abs(x) for x in (self.low, self.high) if 0.0 < abs(x) < math.inf]
        self.scale = max(bounds, default=abs(c) or 1.0)
        if slope_along != 0.0 and curvature_along > 0.0:
            self.weight = 100.0 * curvature_along / slope_along**2
        else:
            self.weight = 100.0 * (abs(cost) or 1.0) / (self.violation(c) or self.scale) ** 2


def constraints_of(G: Map, given: Any) -> list[Constraint]:
    """The constraints that ``minimize`` is given. Collective.

    Raises:
        BadInput: on every rank.
    """
    listed = several(given, f"constraints {_WORDS}", "constraints")
    return [Constraint(G, one, f"constraints[{i}]") for i, one in enumerate(listed)]


def held_to(constraints: list[Constraint], run: Callable[[], Array | None], *, rtol: float) -> bool:
    """Run until the constraints hold, with better multipliers each time. Collective.

    Args:
        constraints: as ``begin`` has left them; their multipliers and weights are set here.
        run: minimises J with them as they are, from where it ended before; the values of c there, None to end.
        rtol: the constraints hold when they are violated by at most this share of their size.

    Returns:
        Whether they hold.
    """
    before = [math.inf] * len(constraints)
    for _ in range(_MAX_ROUNDS):
        values = run()
        if values is None:
            return False
        gaps = [one.violation(c) for one, c in zip(constraints, values, strict=True)]
        if all(gap <= rtol * one.scale for one, gap in zip(constraints, gaps, strict=True)):
            return True
        for one, c, gap, last in zip(constraints, values, gaps, before, strict=True):
            one.multiplier = one.slope(c)
            if gap > 0.25 * last:
                one.weight *= 10.0
        before = gaps
    return False
