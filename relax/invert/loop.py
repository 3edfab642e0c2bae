"""The loop of every optimiser: a direction from its method, a step along it, until the gradient is small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from relax.base.checks import AT_LEAST_0, FRACTION, at_least, number_in
from relax.base.types import Array
from relax.invert.cg import SearchDirection
from relax.invert.objective import Callback, Objective, Recorder, Trial, backtrack
from relax.invert.result import Result, Status

_SMALL_STEP = 1e-12


@dataclass(frozen=True)
class Iterate:
    """A control that a run has come to, and the gradient there.

    Attributes:
        point: the control, J and what it is made of.
        g: the gradient dJ, dual.
        Cg: C g, primal: −C g is the direction of steepest descent in the metric of the prior.
        size: √(gᵀ C g): the gradient in prior standard deviations, whatever the mesh.
    """

    point: Trial
    g: Array
    Cg: Array
    size: float

    @classmethod
    def at(cls, point: Trial) -> Iterate:
        """The iterate at a point, by one adjoint solve. Collective."""
        g = point.gradient()
        Cg = point.objective.prior.covariance(g)
        return cls(point, g, Cg, math.sqrt(max(point.objective.G.dot(g, Cg), 0.0)))


class Method(Protocol):
    """The part of an optimiser that is its own; one object for each run. All methods are collective."""

    def direction(self, here: Iterate, *, start_size: float, goal: float) -> SearchDirection:
        """A direction along which J falls.

        Args:
            here: where the run is.
            start_size: the size of the gradient at its start.
            goal: the size that ends it.
        """

    def told(self, step: Array, before: Iterate, after: Iterate) -> None:
        """Learn from a step that has been taken."""


def iterate(
    objective: Objective,
    method: Method,
    m0: Array | None,
    *,
    rtol: float,
    atol: float,
    max_steps: int,
    max_halvings: int,
    callback: Callback | None,
) -> Result:
    """Lower the objective, step by step. Collective. The arguments are those of ``gauss_newton``."""
    number_in(rtol, FRACTION, "rtol")
    number_in(atol, AT_LEAST_0, "atol")
    at_least(max_steps, 0, "max_steps")
    # On an exception linearisations are left to the next collective clean-up rather than closed here: it may be one
    # that a single rank raised, in the callback, and closing is collective.
    recorder = Recorder(objective, callback)
    dot = objective.G.dot
    here = Iterate.at(objective.start(m0))
    start_size = here.size
    goal = max(rtol * start_size, atol)
    stop = recorder.add(here.point, here.size, 0.0, 0)
    while True:
        if here.size <= goal:
            return recorder.result(here.point, Status.converged)
        if stop:
            return recorder.result(here.point, Status.stopped_by_callback)
        if len(recorder.history) > max_steps:
            return recorder.result(here.point, Status.max_steps)

        way = method.direction(here, start_size=start_size, goal=goal)
        slope = dot(here.g, way.p)
        new, t = backtrack(objective, here.point, way.p, slope, length=way.length, max_halvings=max_halvings)
        if new is None:
            recorder.cg += way.iterations
            return recorder.result(here.point, Status.line_search_failed)
        here.point.close()
        before, here = here, Iterate.at(new)
        step = t * way.p
        method.told(step, before, here)
        stop = recorder.add(here.point, here.size, t, way.iterations)
        if way.precision_p is None:
            moved, unit = math.sqrt(dot(step, step)), math.sqrt(dot(new.m, new.m))
        else:
            # In prior standard deviations, as is what has been moved.
            moved = t * math.sqrt(max(dot(way.p, way.precision_p), 0.0))
            unit = 1.0 + math.sqrt(2.0 * new.prior_cost)
        if here.size > goal and moved <= _SMALL_STEP * unit:
            return recorder.result(here.point, Status.small_step)
