"""The tables of an inverse problem."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from relax.jobs.toml.sections import MeasuredJob, MethodSection, PriorSection, SolverSection


class FieldPriorSection(PriorSection):
    """Of a field: the Whittle-Matern prior with this correlation ``length`` in mesh units."""

    # Not `Positive`: with a description pydantic 2.10 takes the default that another key of that type has.
    length: float = Field(gt=0, description="the correlation length of the field to recover")


class InverseJob(MeasuredJob):
    """A job that recovers a field from [data]."""

    kind = "inverse"
    changeable = ("start", "method", "solver", "output")
    useless: ClassVar = {"start": "an inverse problem starts from [prior] mean; this table is for a [target]"}

    prior: FieldPriorSection
    method: MethodSection = Field(default_factory=lambda: MethodSection.model_validate({}))
    solver: SolverSection = Field(default_factory=SolverSection)

    @model_validator(mode="after")
    def _truth_is_a_field(self) -> InverseJob:
        if isinstance(self.data.truth, list):
            raise ValueError(f"[data] truth: expected the name of a field, got {self.data.truth}")
        return self
