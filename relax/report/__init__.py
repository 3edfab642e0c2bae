"""What a run leaves in its folder, for each kind of job."""

from __future__ import annotations

from typing import TypeAlias

from relax.case import ControlCase, InverseCase
from relax.job import Job
from relax.report.common import opening, sizes
from relax.report.control import ControlReport
from relax.report.inverse import InverseReport
from relax.report.landscape import LandscapeReport
from relax.report.misfit import MisfitReport

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
