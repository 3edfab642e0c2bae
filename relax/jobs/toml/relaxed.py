"""The tables of jobs that relax: a landscape, or the misfit of a few numbers."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from relax.jobs.toml.base import Count, Counts, Numbers, Positive, Section, Seed, Text, as_list

Times: TypeAlias = Annotated[list[Positive], Field(min_length=1), BeforeValidator(as_list)]
Pair: TypeAlias = Annotated[list[float], Field(min_length=2, max_length=2)]


def _as_bounds(value: Any) -> Any:
    """The bounds of a single number may stand without the outer list."""
    return [value] if isinstance(value, list) and not any(isinstance(entry, list) for entry in value) else value


class LandscapeSection(Section):
    """``function`` of x: a named one, or ``module:function`` of your own."""

    function: Text


class DescentSection(Section):
    """Descents that follow the minima of the relaxed landscape as t goes to 0.

    From so many random ``starts`` with ``seed``, or from those given, so many ``steps`` at each of ``times`` (24 from
    [pde] t down to a hundredth of it). A descent has succeeded when it ends within ``tolerance`` of the least value of
    f, in units of max f - min f.
    """

    starts: Count | Annotated[list[Numbers], Field(min_length=1)] = 25
    seed: Seed = 0
    times: Times | None = None
    steps: Count = 8
    tolerance: Positive = 1e-2


class MisfitSection(Section):
    """A ``box`` of one to three numbers, a lower and an upper bound for each, sampled in ``num`` cells per direction.

    ``beta`` and ``times`` are those of the relaxed misfit, on the unit box and of range 1; ``starts``: so many in each
    direction, or points. Each forward solve is done by ``ranks_per_solve`` ranks.
    """

    box: Annotated[list[Pair], Field(min_length=1, max_length=3), BeforeValidator(_as_bounds)]
    num: Annotated[Counts | None, BeforeValidator(as_list)] = None
    beta: Positive = 20.0
    times: Times | None = None
    starts: Count | Annotated[list[Numbers], Field(min_length=1)] = 5
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
