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

_MAX_SETS = 20


def step_within_bounds(
    here: Iterate, hessian: Callable[[Array], Array], *, rtol: float, max_iterations: int
) -> SearchDirection | None:
    """p that minimises gᵀ p + ½ pᵀ H p with low <= m + p <= high, approximately. Collective.

    The entries that bounds hold are guessed, the others solved for, and the guess is changed to those that have left
    the box and those whose multiplier has the right sign (Hintermüller, Ito and Kunisch, SIAM J. Optim. 13 (2002)
    865–888): a semismooth Newton method, which needs as many guesses on any mesh. Each system is solved by conjugate
    gradients from the one before, preconditioned by the metric on the free entries.

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
    p, best, least, products = np.zeros_like(g), None, 0.0, 0
    for _ in range(_MAX_SETS):
        free = held == 0
        p = np.where(free, np.clip(p, low, high), np.where(held > 0, high, low))
        slope, products = g + hessian(p), products + 1
        value = 0.5 * (dot(g, p) + dot(slope, p))
        if value < least and dot(g, p) < 0.0:
            best, least = p, value
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
        p, slope = p + moved.p, slope + hessian(moved.p)
        outside = np.sign(p - np.clip(p, low, high)).astype(int)
        held = np.where(free, outside, np.where(held * slope < 0.0, held, 0))
    return None if best is None else SearchDirection(best, iterations=products)


def _on(free: npt.NDArray[np.bool_], hessian: Callable[[Array], Array], v: Array) -> Array:
    return np.where(free, hessian(v), 0.0)
