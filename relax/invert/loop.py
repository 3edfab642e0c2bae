"""The loop of every optimiser: a direction from its method, a step along it, until the gradient is small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checks import AT_LEAST_0, FRACTION, at_least, number_in, of_kind
from relax.base.fem.layout import ControlLayout
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert import table
from relax.invert.cg import SearchDirection
from relax.invert.line_search import backtrack
from relax.invert.objective import Callback, Objective, Recorder, Trial
from relax.invert.result import Result, Status

_SMALL_STEP = 1e-12
_ROUNDING = 1e-20


@dataclass(frozen=True)
class Iterate:
    """A control that a run has come to, and the gradient there.

    Attributes:
        point: the control, J and what it is made of.
        g: the gradient dJ, dual.
        Cg: C g, primal: −C g is the direction of steepest descent in the metric of the prior. With bounds of what is
            free: (C⁻¹_FF)⁻¹ g_F.
        size: √(gᵀ C g): the gradient in prior standard deviations, whatever the mesh. With bounds of what is free:
            how far it is from the conditions of Karush, Kuhn and Tucker.
        free: which entries bounds leave free, F; None without bounds.
    """

    point: Trial
    g: Array
    Cg: Array
    size: float
    free: npt.NDArray[np.bool_] | None = None

    @classmethod
    def at(cls, point: Trial) -> Iterate:
        """The iterate at a point, by one adjoint solve. Collective."""
        objective, g = point.objective, point.gradient()
        free = None if objective.box is None else objective.box.free(point.m, g)
        Cg = objective.riesz(g, free)
        return cls(point, g, Cg, math.sqrt(max(objective.G.dot(g, Cg), 0.0)), free)

    def freed(self, v: Array) -> Array:
        """The free entries of v, zero elsewhere. Local."""
        return v if self.free is None else np.where(self.free, v, 0.0)


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
        self._recorder.go_on(history := checked_history(state["history"]))
        self._objective.count_from(history[-1])
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
    history: list[dict[str, Any]] | None = None,
) -> Result:
    """Lower the objective, step by step. Collective. The arguments are those of ``gauss_newton``.

    With ``history``, of a run of the same objective that ended at m0, it goes on: sizes are relative to its first.
    """
    # Ranks that end at different steps wait for one another.
    rtol, atol, max_steps = parallel.of_rank_0(objective.comm, (rtol, atol, max_steps))
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
    if history:
        run.m = m0
        recorder.go_on(history)
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
    # Only standard deviations of a prior say what is small without looking at where the run began. Of a prior with the
    # weight w, J bends by w C⁻¹ at least, so that the minimum is within |g| / w of them.
    is_absolute = objective.metric_share > 0.0 or bool(atol)
    unit = objective.metric_share if objective.metric_share > 0.0 else 1.0
    near = atol or table.NEAR * unit
    goal = table.goal(start_size, rtol, atol, unit) if is_absolute else rtol * start_size
    while True:
        if here.size <= goal:
            is_near = here.size <= near if is_absolute else _is_near(method, here)
            return end(here, Status.converged if is_near else Status.relative)
        if stop:
            return end(here, Status.stopped_by_callback)
        if len(recorder.history) > max_steps:
            return end(here, Status.max_steps)

        way = method.direction(here, start_size=start_size, goal=goal)
        slope = dot(here.g, way.p)
        if not is_absolute and -slope * way.length <= _ROUNDING * abs(here.point.cost):
            # Nothing is left to gain, though the gradient has not fallen by rtol: the start was at the minimum.
            return end(here, Status.converged if _is_near(method, here) else Status.small_step)
        new, t = backtrack(
            objective, here.point, way.p, slope, length=way.length, max_halvings=max_halvings, gradient=here.g
        )
        if new is None:
            recorder.cg += way.iterations
            return end(here, Status.line_search_failed)
        here.point.close()
        before, here = here, Iterate.at(new)
        step = t * way.p if objective.box is None else here.point.m - before.point.m
        method.told(step, before, here)
        stop = note(here, t, way.iterations)
        if way.precision_p is None or objective.metric_share == 0.0:
            moved, size = math.sqrt(dot(step, step)), math.sqrt(dot(new.m, new.m))
        else:
            # In prior standard deviations, as is what has been moved.
            moved = t * math.sqrt(max(dot(way.p, way.precision_p), 0.0))
            size = 1.0 + math.sqrt(2.0 * max(new.prior_cost, 0.0))
        if here.size > goal and moved <= _SMALL_STEP * size:
            return end(here, Status.small_step)


def _is_near(method: Method, here: Iterate) -> bool:
    """Whether the next step would move the control by less than ``NEAR`` of its size, in the metric. Collective."""
    objective, m = here.point.objective, here.point.m
    if here.size == 0.0:
        return True
    way = method.direction(here, start_size=here.size, goal=here.size)
    moved, size = (objective.G.dot(v, objective.prior.precision(v)) for v in (way.p, m))
    return bool(max(moved, way.reach**2) <= table.NEAR**2 * size)
