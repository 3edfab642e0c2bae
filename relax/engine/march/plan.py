"""Which part of a control vector goes where in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from relax.base.fem.forms import Control
from relax.base.la.factors import Key
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import Look, Observable
from relax.problem.evolution import Evolution


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
    looks = []
    for look in observable.looks(evolution.num_steps):
        dt = look.dt
        if not look.of_integral or (dt is not None and evolution.times is None):
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
    return looks


@dataclass(frozen=True)
class Place:
    """Where a control of the step lies among the expanded controls."""

    first: int
    per_step: bool

    def at(self, n: int) -> int:
        """The part for the step from u_n to u_{n+1}."""
        return self.first + n if self.per_step else self.first


class Plan:
    """The way from expanded controls to the initial state and to the controls of each step. Local.

    Attributes:
        initial: which expanded part is the initial state; None where it is given.
        places: for each control of the step problem but ``previous``.
        of_controls: for each control of the evolution.
    """

    def __init__(self, evolution: Evolution) -> None:
        first: dict[int, int] = {}
        for position, control in enumerate(expanded(evolution)):
            first.setdefault(id(control), position)
        self.of_controls = [(c, Place(first[id(c)], evolution.is_per_step(c))) for c in evolution.controls]
        self.initial: int | None = first.get(id(evolution.initial_state))
        self.places = [
            Place(first[id(c)], evolution.is_per_step(c))
            for c in evolution.step.controls
            if c is not evolution.previous
        ]

    def of_step(self, parts: Sequence[Array], n: int) -> list[Array]:
        """The parts of the step problem's controls but ``previous``, for the step from u_n to u_{n+1}."""
        return [parts[place.at(n)] for place in self.places]


@dataclass(frozen=True, eq=False)
class Run:
    """One control, and names for what belongs to it. Local arrays with ghosts.

    Attributes:
        initial: u_0.
        grid: t_0, ..., t_N, where the length of a step is known.
        constants: what Constants that the steps set hold at each of them, by their id.
        parts: a part for each expanded control.
        parameters: a snapshot.
        operator_key: names ∂F/∂u where it depends on parameters alone.
        everything_key: names what else depends on parameters alone.
        key: names what is the same in all steps of this run.
        step_keys: name what belongs to one step of it.
        is_base: it starts from zero whatever the controls say, and others are told by their difference from it.
    """

    initial: Array
    grid: Array | None
    constants: dict[int, list[bytes]]
    parts: list[Array]
    parameters: list[Array]
    operator_key: Key
    everything_key: Key
    key: Key
    step_keys: list[Key]
    is_base: bool
