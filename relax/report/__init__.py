"""What a run leaves in its folder, for each kind of job."""

from __future__ import annotations

from typing import TypeAlias

from relax.case import Case, InverseCase
from relax.job import Job
from relax.report.common import opening, sizes
from relax.report.control import ControlReport
from relax.report.inverse import InverseReport

__all__ = ["ControlReport", "InverseReport", "Report", "opening", "report_of", "sizes"]

Report: TypeAlias = InverseReport | ControlReport


def report_of(job: Job, found: Case) -> Report:
    """The report of a case. Local."""
    return InverseReport(job, found) if isinstance(found, InverseCase) else ControlReport(job, found)
