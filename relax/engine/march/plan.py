"""Which part of a control vector goes where in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relax.base.fem.forms import Control
from relax.base.la.factors import Key
from relax.base.types import Array
from relax.problem.evolution import Evolution


def expanded(evolution: Evolution) -> tuple[Control, ...]:
    """The controls as they lie in the control vector: those with a value per step once for each step."""
    times = [evolution.num_steps if evolution.is_per_step(control) else 1 for control in evolution.controls]
    return tuple(control for control, n in zip(evolution.controls, times, strict=True) for _ in range(n))


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
        dt: the length of a step, where it is known.
        parts: a part for each expanded control.
        parameters: a snapshot.
        operator_key: names ∂F/∂u where it depends on parameters alone.
        everything_key: names what else depends on parameters alone.
        key: names what is the same in all steps of this run.
        step_keys: name what belongs to one step of it.
        is_base: it starts from zero whatever the controls say, and others are told by their difference from it.
    """

    initial: Array
    dt: float | None
    parts: list[Array]
    parameters: list[Array]
    operator_key: Key
    everything_key: Key
    key: Key
    step_keys: list[Key]
    is_base: bool
