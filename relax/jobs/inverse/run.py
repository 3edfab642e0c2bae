"""An inverse job: recover the field."""

from __future__ import annotations

from relax.jobs import optimised
from relax.jobs.inverse.report import InverseReport
from relax.jobs.session import Outcome, Session


def run(session: Session) -> Outcome:
    """Optimise step by step. Collective."""
    return optimised.run(session, InverseReport)
