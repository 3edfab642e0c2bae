"""Limited-memory BFGS with the prior covariance as its first metric: first derivatives only."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from relax.base.checkpoint import Checkpoint
from relax.base.checks import at_least
from relax.base.fem.layout import ControlLayout
from relax.base.types import Array
from relax.engine.protocols import Map
from relax.invert.cg import SearchDirection
from relax.invert.loop import Iterate, iterate
from relax.invert.objective import Callback, Objective
from relax.invert.priors.base import Prior
from relax.invert.result import Result


def lbfgs(
    G: Map,
    data: Array,
    m0: Array | None = None,
    *,
    noise: float | Array,
    prior: Prior,
    memory: int = 20,
    rtol: float = 1e-8,
    atol: float | None = None,
    max_steps: int = 500,
    max_halvings: int = 20,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Minimise what ``gauss_newton`` minimises, by limited-memory BFGS: one forward and one adjoint solve per step.

    Collective. The two-loop recursion (Nocedal, Math. Comp. 35 (1980) 773–782) starts from the prior covariance, not
    from a multiple of the identity, so its steps do not depend on the mesh. Steps are halved until the cost decreases
    enough; a pair without positive curvature is not stored. Where tangents are available ``gauss_newton`` needs far
    fewer solves.

    Args:
        G: as of ``gauss_newton``.
        data: (size_out,); rank 0's copy counts.
        m0: where to start, a control vector; by default the prior's mean.
        noise: standard deviation of the data's noise: a number, or one per observation.
        prior: N(mean, C) on the controls of G, in the layout of G.
        memory: how many pairs are kept.
        rtol: as of ``gauss_newton``; |g|² = gᵀ C g.
        atol: as of ``gauss_newton``.
        max_steps: at most so many steps.
        max_halvings: give up a direction after so many. A trial whose forward solve fails counts as one.
        callback: as of ``gauss_newton``.
        checkpoint: as of ``gauss_newton``; with the pairs.

    Returns:
        A ``Result``, whether or not it converged.

    Raises:
        BadInput: on every rank, for arguments that do not fit.
        SolveFailed: when a solve fails elsewhere than at a trial step.
    """
    return iterate(
        Objective(G, data, noise, prior), LimitedBFGS(memory), m0,
        rtol=rtol, atol=atol, max_steps=max_steps, max_halvings=max_halvings, callback=callback,
        checkpoint=checkpoint,
    )  # fmt: skip


@dataclass(frozen=True)
class _Pair:
    """A step s, the change y of the gradient over it, sᵀy, and sᵀy / yᵀCy, the size of the inverse Hessian beside C."""

    s: Array
    y: Array
    sy: float
    scale: float


class LimitedBFGS:
    """−H g with H the approximation of the inverse Hessian that the last steps give."""

    def __init__(self, memory: int) -> None:
        self._pairs: deque[_Pair] = deque(maxlen=at_least(memory, 0, "memory"))
        #: sᵀKs / sᵀy of the steps, where the metric K is no prior of J: how flat J is beside K.
        self._flat: deque[float] = deque(maxlen=memory)

    def direction(self, here: Iterate, *, start_size: float, goal: float) -> SearchDirection:
        objective, dot = here.point.objective, here.point.objective.G.dot
        pairs = list(self._pairs) if here.free is None else _freed(here, self._pairs)
        q = here.freed(here.g)
        if here.free is None:
            q = q.copy()
        coefficients = []
        for pair in reversed(pairs):
            a = dot(pair.s, q) / pair.sy
            q -= a * pair.y
            coefficients.append(a)
        p = objective.riesz(q, here.free)
        if pairs:
            p *= pairs[-1].scale
        for pair, a in zip(pairs, reversed(coefficients), strict=True):
            p += (a - dot(pair.y, p) / pair.sy) * pair.s
        # The last pair may have seen what is steep alone, as the weight of a constraint is; another one what is flat.
        reach = max(self._flat, default=math.inf) * here.size
        return SearchDirection(-p, length=1.0 if pairs else _first_length(here), reach=reach)

    def told(self, step: Array, before: Iterate, after: Iterate) -> None:
        dot = after.point.objective.G.dot
        y = after.g - before.g
        sy = dot(step, y)
        if sy > 1e-12 * abs(dot(before.g, step)):
            self._pairs.append(_Pair(step, y, sy, sy / dot(y, after.Cg - before.Cg)))
            if after.point.objective.metric_share == 0.0:
                self._flat.append(dot(step, after.point.objective.prior.precision(step)) / sy)

    def state_dict(self, layout: ControlLayout) -> dict[str, Any]:
        return {"pairs": [[layout.as_kept(p.s), layout.as_kept(p.y), p.sy, p.scale] for p in self._pairs]}

    def load_state_dict(self, state: dict[str, Any], layout: ControlLayout) -> None:
        for *vectors, sy, scale in state["pairs"]:
            s, y = (layout.restored(kept, "a pair of the checkpoint") for kept in vectors)
            self._pairs.append(_Pair(s, y, sy, scale))


def _first_length(here: Iterate) -> float:
    """How far down the gradient the first step goes."""
    objective, size = here.point.objective, here.size
    if objective.metric_share > 0.0:
        # The prior does not know how strongly the data bind: the first step is at most one standard deviation long.
        return 1.0 / max(1.0, size)
    # A parabola down to zero has its minimum there.
    return 2.0 * abs(here.point.cost) / size**2 if here.point.cost else 1.0


def _freed(here: Iterate, pairs: Iterable[_Pair]) -> list[_Pair]:
    """Pairs on the free entries, of those that have positive curvature there; only the last needs its scale."""
    objective, dot = here.point.objective, here.point.objective.G.dot
    left = []
    for pair in pairs:
        s, y = here.freed(pair.s), here.freed(pair.y)
        if (sy := dot(s, y)) > 1e-12 * abs(pair.sy):
            left.append(_Pair(s, y, sy, 1.0))
    if left:
        last = left[-1]
        left[-1] = replace(last, scale=last.sy / dot(last.y, objective.riesz(last.y, here.free)))
    return left
