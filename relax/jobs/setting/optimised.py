"""What jobs that optimise step by step are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.invert.priors import Prior
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


@dataclass(frozen=True)
class Optimised:
    """A control that is to be found, so that what is seen is like the data.

    Attributes:
        problem: the equation, with one control.
        G: control -> what is seen.
        prior: of the control.
        start: the control vector to start from.
        data: (G.size_out,) what is to be seen.
        noise: (G.size_out,) standard deviations, the unit of the misfit.
    """

    problem: Problem | Evolution
    G: ReducedMap
    prior: Prior
    start: Array
    data: Array
    noise: Array

    #: What the optimisation is called among the times of a run.
    phase: ClassVar[str]
    #: Of the misfit, in the plural.
    unit: ClassVar[str]
