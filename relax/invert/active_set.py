"""Newton's step within bounds: the least of the quadratic model in the box, by a primal–dual active set."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from relax.base.types import Array
from relax.invert.cg import SearchDirection, conjugate_gradients
from relax.invert.loop import Iterate

_MAX_SETS, _MAX_FAILURES, _MAX_HALVINGS = 20, 4, 10


def step_within_bounds(
    here: Iterate, hessian: Callable[[Array], Array], *, rtol: float, max_iterations: int
) -> SearchDirection | None:
    """p that minimises gᵀ p + ½ pᵀ H p with low <= m + p <= high, approximately. Collective.

    The entries that bounds hold are guessed, the others solved for, and the guess is changed to those that have left
    the box and those whose multiplier has the right sign (Hintermüller, Ito and Kunisch, SIAM J. Optim. 13 (2002)
    865–888): a semismooth Newton method, which needs as many guesses on any mesh. Each system is solved by conjugate
    gradients from the one before, preconditioned by the metric on the free entries. Where guesses raise the model again
    and again, as a constraint on all entries together can make them, projected steps that lower it take their place.

    Args:
        here: m, g, the box, and which entries are free to begin with.
        hessian: v -> H v, primal to dual, symmetric, the metric's share included.
        rtol: the step ends when the slope of the model on the free entries is below this share of g there.
        max_iterations: of conjugate gradients for each system.

    Returns:
        The step with the least model value, along which J falls; None where negative curvature leaves none.
    """
    objective, g, goal = here.point.objective, here.g, rtol * here.size
    box, dot = objective.box, objective.G.dot
    assert box is not None and here.free is not None
    low, high = box.low - here.point.m, box.high - here.point.m
    # 1 at the upper bound, -1 at the lower one, 0 inside.
    held = np.where(here.free, 0, np.where(g > 0.0, -1, 1))
    p, products, failures = np.zeros_like(g), 0, 0
    best, least, best_slope = p, 0.0, g
    for _ in range(_MAX_SETS):
        p = np.where(held == 0, np.clip(p, low, high), np.where(held > 0, high, low))
        slope, products = g + hessian(p), products + 1
        value = 0.5 * (dot(g, p) + dot(slope, p))
        if value < least:
            best, least, best_slope = p, value, slope
        elif value > least and (failures := failures + 1) > _MAX_FAILURES:
            # The guesses go in circles: down the model from the best one, held where it is at a bound.
            p, slope = best, best_slope
            held = _held(p, slope, low, high)
        free = held == 0
        b = np.where(free, -slope, 0.0)
        riesz_b = objective.riesz(b, free)
        size = math.sqrt(max(dot(b, riesz_b), 0.0))
        if size <= goal:
            break
        moved = conjugate_gradients(
            partial(_on, free, hessian), partial(objective.riesz, free=free), b, riesz_b, dot,
            rtol=max(rtol, 0.5 * goal / size), max_iterations=max_iterations, share=0.0,
        )  # fmt: skip
        products += moved.iterations + 1
        if moved.curved_down:
            break
        if failures > _MAX_FAILURES:
            t, at = 1.0, p
            for _ in range(_MAX_HALVINGS):
                p = np.clip(at + t * moved.p, low, high)
                slope, products, t = g + hessian(p), products + 1, 0.5 * t
                if 0.5 * (dot(g, p) + dot(slope, p)) < least:
                    break
            held = _held(p, slope, low, high)
            continue
        p, slope = p + moved.p, slope + hessian(moved.p)
        outside = np.sign(p - np.clip(p, low, high)).astype(int)
        held = np.where(free, outside, np.where(held * slope < 0.0, held, 0))
    return SearchDirection(best, iterations=products) if least < 0.0 and dot(g, best) < 0.0 else None


def _held(p: Array, slope: Array, low: Array, high: Array) -> npt.NDArray[np.int64]:
    """What is at a bound that the slope points out of."""
    return np.where((p <= low) & (slope > 0.0), -1, np.where((p >= high) & (slope < 0.0), 1, 0))


def _on(free: npt.NDArray[np.bool_], hessian: Callable[[Array], Array], v: Array) -> Array:
    return np.where(free, hessian(v), 0.0)
