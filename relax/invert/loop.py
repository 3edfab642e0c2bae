"""The loop of every optimiser: a direction from its method, a step along it, until the gradient is small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checks import AT_LEAST_0, FRACTION, at_least, number_in, of_kind
from relax.base.fem.layout import ControlLayout
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert import table
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

    def state_dict(self, layout: ControlLayout) -> dict[str, Any]:
        """What it has learnt, as a checkpoint keeps it."""

    def load_state_dict(self, state: dict[str, Any], layout: ControlLayout) -> None:
        """Know that again."""


class _Run:
    """A run as a checkpoint keeps it: the control, the history, and what the method has learnt. Collective."""

    def __init__(self, objective: Objective, method: Method, recorder: Recorder) -> None:
        self._objective = objective
        self._method = method
        self._recorder = recorder
        #: The control that it is at; None before the start.
        self.m: Array | None = None
        #: The step that is on disk.
        self.kept = -1

    def state_dict(self) -> dict[str, Any]:
        layout = self._objective.G.layout
        assert self.m is not None
        return {
            "control": layout.as_kept(self.m),
            # Each rank has a clock of its own; rank 0's history is on file.
            "history": parallel.of_rank_0(self._objective.comm, self._recorder.history),
            "method": type(self._method).__name__,
            "learnt": self._method.state_dict(layout),
            "data": self._objective.data,
            "noise": self._objective.noise,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        layout = self._objective.G.layout
        for what, mine in (("data", self._objective.data), ("noise", self._objective.noise)):
            # The sensors of another number of ranks differ by rounding.
            if not np.allclose(state[what], mine, rtol=1e-6, atol=1e-6 * np.abs(mine).max(initial=0.0)):
                raise BadInput(f"{what}: are not those of the run that the checkpoint is of; give each its own folder")
        self.m = layout.restored(state["control"], "the control of the checkpoint")
        self._recorder.go_on(checked_history(state["history"]))
        # Of another method there is nothing to know.
        if state["method"] == type(self._method).__name__:
            self._method.load_state_dict(state["learnt"], layout)


def checked_history(history: Any) -> list[dict[str, Any]]:
    """The history of a checkpoint.

    Raises:
        BadInput: when it is none.
    """
    steps = [entry.get("step") if isinstance(entry, dict) else entry for entry in history]
    if not steps or steps != list(range(len(steps))):
        raise BadInput(f"the history of the checkpoint: expected the steps from 0 on, got {str(steps)[:80]}")
    return list(history)


def iterate(
    objective: Objective,
    method: Method,
    m0: Array | None,
    *,
    rtol: float,
    atol: float | None,
    max_steps: int,
    max_halvings: int,
    callback: Callback | None,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Lower the objective, step by step. Collective. The arguments are those of ``gauss_newton``."""
    number_in(rtol, FRACTION, "rtol")
    if atol is not None:
        number_in(atol, AT_LEAST_0, "atol")
    at_least(max_steps, 0, "max_steps")
    # On an exception linearisations are left to the next collective clean-up rather than closed here: it may be one
    # that a single rank raised, in the callback, and closing is collective.
    recorder = Recorder(objective, callback)
    run = _Run(objective, method, recorder)
    if checkpoint is not None:
        of_kind(checkpoint, Checkpoint, "a relax.Checkpoint", "checkpoint")
        checkpoint.add(optimiser=run)
        checkpoint.restore()
    dot = objective.G.dot

    def keep(*, now: bool) -> None:
        step = len(recorder.history) - 1
        if checkpoint is not None and run.kept < step and checkpoint.save(step, now=now):
            run.kept = step

    def note(here: Iterate, length: float, cg_iterations: int) -> bool:
        """One more entry of the history; True when the run is to stop."""
        run.m = here.point.m
        stop = recorder.add(here.point, here.size, length, cg_iterations)
        keep(now=stop)
        return stop

    def end(here: Iterate, status: Status) -> Result:
        keep(now=True)
        return recorder.result(here.point, status)

    here = Iterate.at(objective.start(m0 if run.m is None else run.m))
    stop = run.m is None and note(here, 0.0, 0)
    start_size = float(recorder.history[0]["gradient_norm"])
    near = atol or table.NEAR
    goal = table.goal(start_size, rtol, atol)
    while True:
        if here.size <= goal:
            return end(here, Status.converged if here.size <= near else Status.relative)
        if stop:
            return end(here, Status.stopped_by_callback)
        if len(recorder.history) > max_steps:
            return end(here, Status.max_steps)

        way = method.direction(here, start_size=start_size, goal=goal)
        slope = dot(here.g, way.p)
        new, t = backtrack(objective, here.point, way.p, slope, length=way.length, max_halvings=max_halvings)
        if new is None:
            recorder.cg += way.iterations
            return end(here, Status.line_search_failed)
        here.point.close()
        before, here = here, Iterate.at(new)
        step = t * way.p
        method.told(step, before, here)
        stop = note(here, t, way.iterations)
        if way.precision_p is None:
            moved, unit = math.sqrt(dot(step, step)), math.sqrt(dot(new.m, new.m))
        else:
            # In prior standard deviations, as is what has been moved.
            moved = t * math.sqrt(max(dot(way.p, way.precision_p), 0.0))
            unit = 1.0 + math.sqrt(2.0 * new.prior_cost)
        if here.size > goal and moved <= _SMALL_STEP * unit:
            return end(here, Status.small_step)
