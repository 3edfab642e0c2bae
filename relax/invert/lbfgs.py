"""Limited-memory BFGS with the prior covariance as its first metric: first derivatives only."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relax.base.types import Array
from relax.invert.objective import Callback, Objective, Recorder, backtrack, covariance_norm
from relax.invert.priors.base import Prior
from relax.invert.result import Result, Status

_SMALL_STEP = 1e-12


def lbfgs(
    G: Any,
    data: Array,
    m0: Array | None = None,
    *,
    noise: float | Array,
    prior: Prior,
    memory: int = 20,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    max_steps: int = 500,
    max_halvings: int = 20,
    callback: Callback | None = None,
) -> Result:
    """Minimise what ``gauss_newton`` minimises, by limited-memory BFGS: one forward and one adjoint solve per step.

    Collective. The two-loop recursion (Nocedal, Math. Comp. 35 (1980) 773–782) starts from the prior covariance, not
    from a multiple of the identity, so its steps do not depend on the mesh. Steps are halved until the cost decreases
    enough; a pair without positive curvature is not stored. Where tangents are available ``gauss_newton`` needs far
    fewer solves.

    Args:
        G: a ``ReducedMap``, in either layout.
        data: (size_out,); rank 0's copy counts.
        m0: where to start, a control vector; by default the prior's mean.
        noise: standard deviation of the data's noise: a number, or one per observation.
        prior: N(mean, C) on the controls of G, in the layout of G.
        memory: how many pairs are kept.
        rtol: converged when |g| <= rtol |g₀|, |g|² = gᵀ C g ...
        atol: ... or |g| <= atol.
        max_steps: at most so many steps.
        max_halvings: give up a direction after so many. A trial whose forward solve fails counts as one.
        callback: as of ``gauss_newton``.

    Returns:
        A ``Result``, whether or not it converged.

    Raises:
        BadInput: on every rank, for arguments that do not fit.
        SolveFailed: when a solve fails elsewhere than at a trial step.
    """
    objective = Objective(G, data, noise, prior)
    recorder = Recorder(objective, callback)
    pairs: deque[_Pair] = deque(maxlen=memory)

    point = objective.start(m0)
    g = point.gradient()
    Cg = prior.covariance(g)
    size = covariance_norm(G.dot, g, Cg)
    goal = max(rtol * size, atol)
    stop = recorder.add(point, size, 0.0, 0)
    while True:
        if size <= goal:
            return recorder.result(point, Status.converged)
        if stop:
            return recorder.result(point, Status.stopped_by_callback)
        if len(recorder.history) > max_steps:
            return recorder.result(point, Status.max_steps)

        p = _direction(g, pairs, prior, G.dot)
        # The prior does not know how strongly the data bind: the first step is at most one standard deviation long.
        length = 1.0 if pairs else 1.0 / max(1.0, size)
        new, t = backtrack(objective, point, p, G.dot(g, p), length=length, max_halvings=max_halvings)
        if new is None:
            return recorder.result(point, Status.line_search_failed)
        point.close()
        point = new
        slope = G.dot(g, p)
        old, old_Cg = g, Cg
        g = point.gradient()
        Cg = prior.covariance(g)
        s, y = t * p, g - old
        sy = G.dot(s, y)
        if sy > 1e-12 * abs(t * slope):
            pairs.append(_Pair(s, y, sy, sy / G.dot(y, Cg - old_Cg)))
        size = covariance_norm(G.dot, g, Cg)
        stop = recorder.add(point, size, t, 0)
        moved = math.sqrt(G.dot(s, s))
        if size > goal and moved <= _SMALL_STEP * math.sqrt(G.dot(point.m, point.m)):
            return recorder.result(point, Status.small_step)


@dataclass(frozen=True)
class _Pair:
    """A step s, the change y of the gradient over it, sᵀy, and sᵀy / yᵀCy, the size of the inverse Hessian beside C."""

    s: Array
    y: Array
    sy: float
    scale: float


def _direction(g: Array, pairs: deque[_Pair], prior: Prior, dot: Callable[[Array, Array], float]) -> Array:
    """−H g, H the BFGS approximation of the inverse Hessian. Collective."""
    q = g.copy()
    coefficients = []
    for pair in reversed(pairs):
        a = dot(pair.s, q) / pair.sy
        q -= a * pair.y
        coefficients.append(a)
    p = prior.covariance(q)
    if pairs:
        p *= pairs[-1].scale
    for pair, a in zip(pairs, reversed(coefficients), strict=True):
        p += (a - dot(pair.y, p) / pair.sy) * pair.s
    return -p
