"""Jobs that relax: a landscape, or the misfit of a few numbers."""

from __future__ import annotations

from relax.jobs import kinds, report_kinds
from relax.jobs.session import Outcome, Session


def landscape(session: Session, *, overwrite: bool) -> Outcome:
    """Solve for the relaxed landscape, follow its minima. Collective."""
    found = session.build(overwrite=overwrite)
    assert isinstance(found, kinds.LandscapeCase)
    reporter = report_kinds.LandscapeReport(session.job, found)
    with session.phase("solve"):
        reporter.solve(session.folder)
    with session.phase("descend"):
        reporter.descend()
    with session.phase("write"):
        summary = reporter.write(session.folder)
    found.close()
    return session.finish(summary, reporter.closing(summary))


def misfit(session: Session, *, overwrite: bool) -> Outcome:
    """Relax the misfit, descend, run Gauss–Newton from there; and from the starts, to compare. Collective."""
    found = session.build(overwrite=overwrite)
    assert isinstance(found, kinds.MisfitCase)
    reporter = report_kinds.MisfitReport(session.job, found)
    with session.phase("relax"):
        reporter.solve()
    with session.phase("compare"):
        reporter.compare()
    with session.phase("write"):
        summary = reporter.write(session.folder)
    found.close()
    return session.finish(summary, f"{summary['status']}; {reporter.closing(summary)}")
