"""The tables of a misfit job."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from relax.jobs.toml.base import Count, Counts, Points, Positive, Section, Times, as_list
from relax.jobs.toml.sections import MeasuredJob, MethodSection, SolverSection

Pair: TypeAlias = Annotated[list[float], Field(min_length=2, max_length=2)]


def _as_bounds(value: Any) -> Any:
    """The bounds of a single number may stand without the outer list."""
    return [value] if isinstance(value, list) and not any(isinstance(entry, list) for entry in value) else value


class MisfitSection(Section):
    """A ``box`` of one to three numbers, a lower and an upper bound for each, sampled in ``num`` cells per direction.

    ``beta`` and ``times`` are those of the relaxed misfit, on the unit box and of range 1; ``starts``: so many in each
    direction, or points. Each forward solve is done by ``ranks_per_solve`` ranks.
    """

    box: Annotated[list[Pair], Field(min_length=1, max_length=3), BeforeValidator(_as_bounds)]
    num: Annotated[Counts | None, BeforeValidator(as_list)] = None
    beta: Positive = 20.0
    times: Times | None = None
    starts: Count | Points = 5
    ranks_per_solve: Count = 1

    @model_validator(mode="after")
    def _fits(self) -> MisfitSection:
        dim = len(self.box)
        for i, (low, high) in enumerate(self.box):
            if not low < high:
                raise ValueError(
                    f"box: expected each lower bound below its upper one, got [{low:g}, {high:g}] (entry {i})"
                )
        if self.num is not None and (len(self.num) not in (1, dim) or min(self.num) < 2):
            raise ValueError(f"num: expected one number of cells of at least 2, or {dim} of them, got {self.num}")
        if isinstance(self.starts, list):
            for start in self.starts:
                inside = len(start) == dim and all(a <= m <= b for m, (a, b) in zip(start, self.box, strict=True))
                if not inside:
                    raise ValueError(f"starts: expected points of {dim} number(s) in the box, got {start}")
        return self


class LastMethodSection(MethodSection):
    """How the numbers are found from where the descents end."""

    useless: ClassVar = {"name": "a misfit job ends with 'gauss_newton'; remove this key"}

    name: Literal["gauss_newton"] = "gauss_newton"


class SampleSolverSection(SolverSection):
    """PETSc options of the forward solves, how trajectories are stored."""

    useless: ClassVar = {"layout": "a misfit job has no control to distribute; remove this key"}

    layout: Literal["replicated"] = "replicated"


class MisfitJob(MeasuredJob):
    """A job that recovers up to three numbers from [data], by relaxing their misfit over the box of [misfit]."""

    kind = "misfit"

    misfit: MisfitSection
    method: LastMethodSection = Field(default_factory=lambda: LastMethodSection.model_validate({}))
    solver: SampleSolverSection = Field(default_factory=SampleSolverSection)

    @model_validator(mode="after")
    def _truth_is_in_the_box(self) -> MisfitJob:
        truth, dim = self.data.truth, len(self.misfit.box)
        if truth is not None and not (isinstance(truth, list) and len(truth) == dim):
            raise ValueError(f"[data] truth: expected {dim} number(s), one for each of the box, got {truth!r}")
        return self
