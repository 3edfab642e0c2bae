"""A misfit job: relax the misfit, descend, run Gauss–Newton from there; and from the starts, to compare."""

from __future__ import annotations

from relax.jobs.misfit.report import MisfitReport
from relax.jobs.misfit.setting import MisfitSetting
from relax.jobs.report import opening, sizes
from relax.jobs.session import Outcome, Session
from relax.jobs.steps import EVERY, checkpoint_of, earlier_run


def run(session: Session) -> Outcome:
    """Find the numbers with and without relaxation. Collective."""
    if session.resume:
        earlier_run(session.comm, session.results, session.job)
    setting: MisfitSetting = session.build()
    session.progress.say(opening(session.job.pde.name, sizes(setting.problem, setting.G.size_out), session.comm))
    report = MisfitReport(session.job, setting)
    with session.phase("relax"):
        relaxed = report.solve(checkpoint_of(session, "relaxed", EVERY, fields=False))
    with session.phase("compare"):
        plain = report.compare(relaxed, checkpoint_of(session, "compared", EVERY, fields=False))
    with session.phase("write"):
        summary = report.write(session.folder, relaxed, plain)
    setting.close()
    return session.finish(summary, f"{summary['status']}; {report.closing(summary)}", keep=False)
