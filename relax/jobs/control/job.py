"""The tables of a control job."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from relax.jobs.toml.base import Count, Positive, Section, Seed
from relax.jobs.toml.sections import Job, MethodSection, PriorSection, SolverSection


class TargetSection(Section):
    """Where the wave function is to be after the last step: in one eigenstate, or spread over the lowest ones.

    ``state`` is the number of an eigenstate, 1 the ground state; ``populations`` one number for each of the lowest.
    They are eigenstates of the static ``potential``, by default that of [pde]. The misfit is in units of ``tolerance``.
    """

    state: Count | None = None
    populations: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] | None = None
    potential: float | None = None
    tolerance: Positive = 0.01

    @model_validator(mode="after")
    def _one_target(self) -> TargetSection:
        if (self.state is None) == (self.populations is None):
            got = "none" if self.state is None else "two"
            raise ValueError(f"expected one target, either `state` or `populations`, got {got}")
        total = 1.0 if self.populations is None else math.fsum(self.populations)
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"populations: expected numbers that add up to 1, got {total:g} in all")
        return self


class StartSection(Section):
    """The first guess of a control in time: where it is zero a population is stationary, and nothing would move.

    ``shape`` over the whole time: "random" numbers with ``seed``, "constant", or "sine" with so many ``periods``; of
    this ``amplitude`` (for random numbers, their standard deviation), by default a tenth of [prior] std.
    """

    amplitude: Positive | None = None
    shape: Literal["random", "constant", "sine"] = "random"
    periods: Positive = 1.0
    seed: Seed = 0


class StepsPriorSection(PriorSection):
    """Of a number per step: their values are independent, which makes 1/2 sum (E_n - mean)^2 / std^2 their price."""

    useless: ClassVar = {"length": "the numbers of a control in time are independent; remove this key"}


class ControlJob(Job):
    """A job that drives a number per step so that the last state is that of [target]."""

    kind = "control"
    changeable = ("start", "method", "solver", "output")
    useless: ClassVar = {"observe": "a job with a [target] looks at the last state alone; remove this table"}

    target: TargetSection
    start: StartSection = Field(default_factory=StartSection)
    prior: StepsPriorSection
    method: MethodSection = Field(default_factory=lambda: MethodSection.model_validate({}))
    solver: SolverSection = Field(default_factory=SolverSection)
