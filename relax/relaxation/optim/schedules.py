"""Scoping: settings that change from step to step, and the papers' settings in this package's words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from relax.errors import BadInput


@dataclass(frozen=True)
class Constant:
    """The same value at every step."""

    value: float

    def __call__(self, step: int) -> float:
        """The value after ``step`` steps."""
        return self.value


@dataclass(frozen=True)
class Exponential:
    """start (1 + rate)^k after k steps, held between ``least`` and ``most``.

    The scoping of Entropy-SGD (Chaudhari et al. 2017) is ``t_from_spring(Exponential(1e-4, 1e-3))``: the spring 1/t
    grows, the smoothing shrinks. That of Parle is ``t_from_spring(Exponential(0.01, rate, most=1.0))`` with
    ``rho=Exponential(1.0, rate, most=10.0)`` and a rate of one half over the number of batches in an epoch.
    """

    start: float
    rate: float
    least: float = 0.0
    most: float = math.inf

    def __call__(self, step: int) -> float:
        """The value after ``step`` steps."""
        try:
            value = self.start * (1.0 + self.rate) ** step
        except OverflowError:
            value = math.inf
        return min(max(value, self.least), self.most)


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``stop`` in ``steps`` equal steps, then ``stop``."""

    start: float
    stop: float
    steps: int

    def __call__(self, step: int) -> float:
        """The value after ``step`` steps."""
        part = min(step / self.steps, 1.0) if self.steps > 0 else 1.0
        return (1.0 - part) * self.start + part * self.stop


@dataclass(frozen=True)
class Reciprocal:
    """One over another schedule."""

    of: Schedule

    def __call__(self, step: int) -> float:
        """The value after ``step`` steps."""
        return _reciprocal(self.of(step))


Schedule: TypeAlias = Constant | Exponential | Linear | Reciprocal
#: A number, one of the schedules here, or any function of the number of steps taken.
Scheduled: TypeAlias = float | Callable[[int], float]

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Constant, Exponential, Linear, Reciprocal)}
_OF_THE_USER = "a function"


def t_from_spring(spring: float | Schedule) -> float | Reciprocal:
    """The time t of a spring of stiffness 1/t, the number that Entropy-SGD and Parle call gamma.

    Deep Relaxation gives the same letter to t itself. A schedule of the spring gives one of t.
    """
    return _reciprocal(float(spring)) if isinstance(spring, int | float) else Reciprocal(spring)


def beta_from_eps(eps: float, *, convention: Literal["code", "paper"] = "code") -> float:
    """The beta whose step noise sqrt(2 eta/beta) is that of the thermal noise ``eps`` of Entropy-SGD.

    The public code adds sqrt(2 eta) eps to a step, so that it samples exp(-beta H) with beta = 1/eps^2. The line of
    the paper's algorithm adds sqrt(eta) eps: beta = 2/eps^2.

    Args:
        eps: thermal noise, dimensionless, 0 for none (beta = inf).
        convention: "code" or "paper".
    """
    if convention not in ("code", "paper"):
        raise BadInput(f"beta_from_eps: expected convention 'code' or 'paper', got {convention!r}")
    if not (eps >= 0.0 and math.isfinite(eps)):
        raise BadInput(f"beta_from_eps: expected a finite eps >= 0, got {eps}")
    return (1.0 if convention == "code" else 2.0) * _reciprocal(eps**2)


def value_at(setting: Scheduled, step: int) -> float:
    """A setting after ``step`` steps."""
    return float(setting(step)) if callable(setting) else float(setting)


def encoded(value: Any) -> Any:
    """What ``torch.load`` reads with its defaults: a schedule as a dict of numbers; anything else as it is."""
    if isinstance(value, tuple(_KINDS.values())):
        fields = {field.name: encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"schedule": type(value).__name__, **fields}
    return {"schedule": _OF_THE_USER} if callable(value) else value


def decoded(value: Any, present: Any) -> Any:
    """The reverse. A function of the user's cannot be saved: the ``present`` one stays."""
    if not (isinstance(value, dict) and "schedule" in value):
        return value
    fields = dict(value)
    name = fields.pop("schedule")
    if name == _OF_THE_USER:
        return present
    return _KINDS[name](**{key: decoded(field, None) for key, field in fields.items()})


def _reciprocal(value: float) -> float:
    return 1.0 / value if value else math.inf
