"""Which part of a control vector goes where in a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from relax.base.fem.blocks import BlockState
from relax.base.fem.forms import Control, is_same, number_now
from relax.base.la.factors import Key
from relax.base.log import warn
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import Look, Observable, Stack
from relax.observe.blocks import seen_of
from relax.problem.evolution import Evolution
from relax.problem.stages import Stage

# Lengths of steps that differ by less than this of themselves are one: a number may have been written out.
_SAME = 1e-6


def expanded(evolution: Evolution) -> tuple[Control, ...]:
    """The controls as they lie in the control vector: those with a value per step once for each step."""
    times = [evolution.num_steps if evolution.is_per_step(control) else 1 for control in evolution.controls]
    return tuple(control for control, n in zip(evolution.controls, times, strict=True) for _ in range(n))


def looks_of(observable: Observable, evolution: Evolution) -> list[Look]:
    """The looks of an observable at the steps of an evolution, with the weights of its present times. Local.

    Raises:
        BadProblem: where an integral over time cannot have its weights from the steps.
    """
    weights = evolution.clock.weights()
    given = observable.looks(evolution.num_steps)
    if len(evolution.components) > 1:
        # Each part of a stack can be of another state.
        given = [one for look in given for one in _parts_of(look)]
    if isinstance(evolution.state, BlockState):
        # Many steps are looked at by one observable: it stays one.
        of_whole = {look.observable: seen_of(look.observable, evolution.state) for look in given}
        given = [replace(look, observable=of_whole[look.observable]) for look in given]
    looks, told = [], set[float]()
    for look in given:
        dt = look.dt
        if not look.of_integral or (dt is not None and evolution.times is None):
            if dt is not None:
                told.add(number_now(dt))
            looks.append(look)
            continue
        if weights is None:
            raise BadProblem("TimeIntegral: the length of a step is not known; pass dt= to it, or to the evolution")
        if dt is not None and not evolution.clock.follows(dt):
            raise BadProblem("TimeIntegral: dt: expected nothing, as the times of the evolution say how long steps are")
        if any(evolution.dt is c for c in evolution.controls):
            raise BadProblem(
                f"TimeIntegral: the length of a step is the control {evolution.dt}; the weights would have to be "
                "differentiated. Expected TimeIntegral(observable, dt) with another dt, or another control"
            )
        looks.append(replace(look, weight=float(weights[look.step])))
    if weights is not None and not any(evolution.dt is c for c in evolution.controls):
        own = number_now(evolution.dt)
        for dt in told:
            if abs(dt - own) > _SAME * own:
                warn(f"TimeIntegral: dt: it integrates with dt = {dt:g}, and the steps have the length {own:g}")
    return looks


def _parts_of(look: Look) -> list[Look]:
    if not isinstance(look.observable, Stack):
        return [look]
    starts = look.start + np.cumsum([0, *(part.size for part in look.observable.parts)])
    parts = zip(look.observable.parts, starts, strict=False)
    return [one for part, start in parts for one in _parts_of(replace(look, observable=part, start=int(start)))]


@dataclass(frozen=True)
class Place:
    """Where a control of the step lies among the expanded controls."""

    first: int
    per_step: bool

    def at(self, n: int) -> int:
        """The part for the step from u_n to u_{n+1}."""
        return self.first + max(n, 0) if self.per_step else self.first


class Plan:
    """The way from expanded controls to the initial states and to the controls of each step. Local.

    Attributes:
        initials: for each state which expanded part it is at the start; None where that is given.
        of_controls: for each control of the evolution.
    """

    def __init__(self, evolution: Evolution) -> None:
        first: dict[int, int] = {}
        for position, control in enumerate(expanded(evolution)):
            first.setdefault(id(control), position)
        self.of_controls = [(c, Place(first[id(c)], evolution.is_per_step(c))) for c in evolution.controls]
        self.initials = [first.get(id(f)) for f in evolution.initial_states]

    @property
    def initial(self) -> int | None:
        """Of the first state."""
        return self.initials[0]

    def places(self, stage: Stage) -> list[Place]:
        """For each control of an equation but the states that it takes."""
        own = stage.problem.controls[len(stage.inputs) :]
        return [next(place for other, place in self.of_controls if is_same(c, other)) for c in own]


@dataclass(frozen=True, eq=False)
class StageRun:
    """What one control means to one equation of the steps.

    Attributes:
        parameters: a snapshot.
        operator_key: names ∂F/∂u where it depends on parameters alone.
        everything_key: names what else depends on parameters alone.
        key: names what is the same in all steps of the run.
        step_keys: name what belongs to one step of it; the last one what belongs to the start.
    """

    parameters: list[Array]
    operator_key: Key
    everything_key: Key
    key: Key
    step_keys: list[Key]


@dataclass(frozen=True, eq=False)
class Run:
    """One control, and names for what belongs to it. Local arrays with ghosts.

    Attributes:
        initial: the record that the first step begins with.
        grid: t_0, ..., t_N, where the length of a step is known.
        lengths: of the steps, (N,), where they are known.
        constants: what Constants that the steps set hold at each of them, by their id.
        parts: a part for each expanded control.
        stages: of each equation of a step, then of those at the start.
        is_base: it starts from zero whatever the controls say, and others are told by their difference from it.
    """

    initial: Array
    grid: Array | None
    lengths: Array | None
    constants: dict[int, list[bytes]]
    parts: list[Array]
    stages: list[StageRun]
    is_base: bool

    def length(self, n: int) -> float | None:
        """Of the step from u_n to u_{n+1}."""
        return None if self.lengths is None else float(self.lengths[n])
