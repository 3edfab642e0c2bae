"""The kinds of jobs in one table: a new kind is a folder, and an entry here.

The parts of a kind are loaded when they are used: a run loads those of its own kind alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from relax.base import lazy


@dataclass(frozen=True)
class Kind:
    """Where the parts of a kind of job are: ``module:name``, a module with a dot before it being one of ``relax.jobs``.

    Attributes:
        table: of the job file, the one that makes a job of this kind.
        model: of the job file, a ``relax.jobs.toml.Job`` whose ``kind`` is the name in ``KINDS``.
        build: (file, comm) -> setting: everything that the tables describe, ready to be solved. Collective.
        run: (session) -> ``Outcome``: build, solve, write. Collective.
        check: (file, comm): see that there is what a job names, with nothing built. Collective.
        resumes: whether a run can go on from what an earlier one left.
    """

    table: str
    model: str
    build: str
    run: str
    check: str = ".setting.equation:check_named"
    resumes: bool = False


KINDS = {
    "inverse": Kind(
        "data", ".inverse.job:InverseJob", ".inverse.setting:build", ".inverse.run:run",
        check=".inverse.setting:check_named", resumes=True,
    ),
    "control": Kind("target", ".control.job:ControlJob", ".control.setting:build", ".control.run:run", resumes=True),
    "landscape": Kind(
        "landscape", ".landscape.job:LandscapeJob", ".landscape.setting:build", ".landscape.run:run",
        check=".landscape.setting:check_named", resumes=True,
    ),
    "misfit": Kind(
        "misfit", ".misfit.job:MisfitJob", ".misfit.setting:build", ".misfit.run:run",
        check=".misfit.setting:check_named", resumes=True,
    ),
}  # fmt: skip


def part(name: str) -> Any:
    """What is called ``module:name`` in a ``Kind``; its module is loaded now."""
    return lazy.part(name, "relax.jobs")


def tables_of(name: str) -> Collection[str]:
    """The tables that a kind of job knows."""
    return list(part(KINDS[name].model).model_fields)


def tables() -> list[str]:
    """The tables that some kind of job knows."""
    return list(dict.fromkeys(table for name in KINDS for table in tables_of(name)))


def named_by(given: Collection[str]) -> list[str]:
    """The kinds that these tables make a job of: one, if there is no mistake.

    A table that another one of these kinds has a use for, as [data] for a [misfit], does not count.
    """
    named = [name for name, kind in KINDS.items() if kind.table in given]
    own = [name for name in named if not any(KINDS[name].table in tables_of(other) for other in named if other != name)]
    return own or named
