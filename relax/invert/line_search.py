"""How far to go along a direction: until J has decreased enough."""

from __future__ import annotations

import math

from relax.base.log import logger
from relax.base.types import Array
from relax.errors import SolveFailed
from relax.invert.objective import Objective, Trial

_SUFFICIENT_DECREASE = 1e-4


def backtrack(
    objective: Objective, start: Trial, direction: Array, slope: float, *, length: float, max_halvings: int,
    gradient: Array | None = None,
) -> tuple[Trial | None, float]:  # fmt: skip
    """Halve the step until J decreases enough (Armijo 1966): J(m + t p) <= J(m) + 1e-4 t slope. Collective.

    A trial at which the forward solve fails, or J is not finite, is rejected like any other. With bounds the trial is
    projected onto them, and its decrease is measured by the gradient along the step that is left (Bertsekas, SIAM J.
    Control Optim. 20 (1982) 221–246).

    Args:
        objective: J.
        start: the point to go from.
        direction: p, primal.
        slope: the derivative of J along p, negative.
        length: the first t.
        max_halvings: give up after so many.
        gradient: at the start, with bounds.

    Returns:
        The new point and t, or None and 0.
    """
    # Near the minimum the decrease drowns in the rounding of J; there the step is taken on the word of the gradient.
    rounding = 1e-13 * abs(start.cost)
    t = length
    for _ in range(max_halvings + 1):
        m, expected = start.m + t * direction, t * slope
        if objective.box is not None and gradient is not None:
            m = objective.box.project(m)
            expected = objective.G.dot(gradient, m - start.m)
        try:
            trial = objective.at(m) if expected < 0.0 else None
        except SolveFailed as failure:
            logger.info("trial step of length %.3g rejected: %s", t, failure)
            trial = None
        if trial is not None:
            is_lower = trial.cost <= start.cost + _SUFFICIENT_DECREASE * expected + rounding
            if is_lower and math.isfinite(trial.cost):
                return trial, t
            trial.close()
        t /= 2.0
    return None, 0.0
