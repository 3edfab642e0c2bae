"""The tables of a landscape job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from relax.jobs.toml.base import Count, Points, Positive, Section, Seed, Text, Times
from relax.jobs.toml.sections import Job, Options


class LandscapeSection(Section):
    """``function`` of x: a named one, or ``module:function`` of your own."""

    function: Text


class DescentSection(Section):
    """Descents that follow the minima of the relaxed landscape as t goes to 0.

    From so many random ``starts`` with ``seed``, or from those given, so many ``steps`` at each of ``times`` (24 from
    [pde] t down to a hundredth of it). A descent has succeeded when it ends within ``tolerance`` of the least value of
    f, in units of max f - min f.
    """

    starts: Count | Points = 25
    seed: Seed = 0
    times: Times | None = None
    steps: Count = 8
    tolerance: Positive = 1e-2


class StepsSolverSection(Section):
    """PETSc options of the steps."""

    useless: ClassVar = {
        "layout": "a landscape job has no control to distribute; remove this key",
        "storage": "a landscape job looks at each state as it comes; remove this key",
    }

    options: Options = None


class LandscapeJob(Job):
    """A job that relaxes a function of x, and follows its minima where there is a [descent]."""

    kind = "landscape"

    landscape: LandscapeSection
    descent: DescentSection | None = None
    solver: StepsSolverSection = Field(default_factory=StepsSolverSection)
