"""What a run leaves in its folder, for each kind of job."""

from __future__ import annotations

from typing import TypeAlias

from relax.jobs.control.report import ControlReport
from relax.jobs.inverse.report import InverseReport
from relax.jobs.kinds import ControlCase, InverseCase
from relax.jobs.landscape.report import LandscapeReport
from relax.jobs.misfit.report import MisfitReport
from relax.jobs.report import opening, sizes
from relax.jobs.toml import Job

__all__ = [
    "ControlReport",
    "InverseReport",
    "LandscapeReport",
    "MisfitReport",
    "Report",
    "opening",
    "report_of",
    "sizes",
]

Report: TypeAlias = InverseReport | ControlReport


def report_of(job: Job, found: InverseCase | ControlCase) -> Report:
    """The report of a case that is optimised step by step. Local."""
    return InverseReport(job, found) if isinstance(found, InverseCase) else ControlReport(job, found)
