"""A control job: drive the control."""

from __future__ import annotations

from relax.jobs import optimised
from relax.jobs.control.report import ControlReport
from relax.jobs.session import Outcome, Session


def run(session: Session) -> Outcome:
    """Optimise step by step. Collective."""
    return optimised.run(session, ControlReport)
