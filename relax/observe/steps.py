"""Observations of an evolution: at steps, and integrated over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from dolfinx import fem

from relax.base.checks import of_kind
from relax.base.fem.forms import Control, number_now
from relax.base.types import Array
from relax.errors import BadInput, BadProblem
from relax.observe.base import Look, Observable


class _InTime(Observable):
    """What has no meaning for a single state."""

    needs_steps = True

    def __init__(self, observable: Observable) -> None:
        of_kind(observable, Observable, "a relax.Observable", f"{type(self).__name__}: observable")
        if observable.needs_steps:
            raise BadInput(f"{type(self).__name__}: expected an observable of one state, got one of several steps")
        self.observable = observable
        self.is_linear = observable.is_linear

    def value(self, u: fem.Function) -> Array:
        raise BadProblem(_NO_STEPS)

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        raise BadProblem(_NO_STEPS)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        raise BadProblem(_NO_STEPS)

    @property
    def parameters(self) -> list[fem.Function | fem.Constant]:
        return self.observable.parameters

    def check_state(self, state: fem.Function) -> None:
        self.observable.check_state(state)

    def check_controls(self, controls: Sequence[Control]) -> None:
        self.observable.check_controls(controls)


_NO_STEPS = "this observable looks at the steps of an Evolution; a single state has none"


class AtSteps(_InTime):
    """y = (B(u_n) for n in steps), one after the other.

    Args:
        observable: B, an observable of one state.
        steps: step numbers: 0 is the initial state, N the last one, -1 the last one too; ``range(N + 1)`` the whole
            trajectory. In the order in which they are wanted.

    Raises:
        BadInput: for no step, or something that is no whole number. A step that the evolution does not have raises
            ``BadProblem`` when the map is made.
    """

    def __init__(self, observable: Observable, steps: int | Sequence[int]) -> None:
        super().__init__(observable)
        given = list(steps) if isinstance(steps, Iterable) else [steps]
        if not given or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in given):
            raise BadInput(f"AtSteps: expected a step number or a sequence of them, got {steps!r}")
        self.steps = tuple(int(n) for n in given)
        self.size = observable.size * len(self.steps)

    def looks(self, num_steps: int, start: int = 0) -> list[Look]:
        wrong = [n for n in self.steps if not -num_steps - 1 <= n <= num_steps]
        if wrong:
            raise BadProblem(f"AtSteps: expected steps from 0 to {num_steps}, got {wrong[0]}")
        return [
            Look(n if n >= 0 else num_steps + 1 + n, self.observable, start + i * self.observable.size, 1.0)
            for i, n in enumerate(self.steps)
        ]


class TimeIntegral(_InTime):
    """y = ∫ B(u) dt over all steps, by the trapezoidal rule: dt (½ B(u_0) + B(u_1) + ... + ½ B(u_N)).

    Args:
        observable: B, an observable of one state.
        dt: the length of a step: a number, or a Constant, as it is when the map is made; left out, the lengths of the
            evolution's own steps, at that moment, which with ``times`` can be of any lengths. Where it is a control, or
            one number beside ``times``, the map raises ``BadProblem``; where steps have another length, it warns.

    Raises:
        BadInput: for a length that is not above 0.
    """

    def __init__(self, observable: Observable, dt: float | fem.Constant | None = None) -> None:
        super().__init__(observable)
        self.dt = dt
        if dt is not None and not 0.0 < number_now(dt) < np.inf:
            raise BadInput(f"TimeIntegral: expected a finite step length above 0, got {dt!r}")
        self.size = observable.size

    @property
    def parameters(self) -> list[fem.Function | fem.Constant]:
        return [*super().parameters, *([self.dt] if isinstance(self.dt, fem.Constant) else [])]

    def check_controls(self, controls: Sequence[Control]) -> None:
        if any(self.dt is c for c in controls):
            raise BadProblem(
                f"TimeIntegral: its dt is the control {self.dt}; the dt of a TimeIntegral can be no control: expected "
                "a number, or another Constant"
            )
        super().check_controls(controls)

    def weights(self, num_steps: int) -> list[float]:
        """The weight of each step; 1 where the map is to say."""
        if self.dt is None:
            return [1.0] * (num_steps + 1)
        length, ends = number_now(self.dt), (0, num_steps)
        return [length * (0.5 if n in ends else 1.0) for n in range(num_steps + 1)]

    def looks(self, num_steps: int, start: int = 0) -> list[Look]:
        return [
            Look(n, self.observable, start, weight, True, self.dt) for n, weight in enumerate(self.weights(num_steps))
        ]
