"""A landscape job: solve for the relaxed landscape, follow its minima."""

from __future__ import annotations

from relax.jobs.landscape.report import LandscapeReport
from relax.jobs.landscape.setting import LandscapeSetting
from relax.jobs.report import opening, sizes
from relax.jobs.session import Outcome, Session
from relax.jobs.steps import EVERY, checkpoint_of, earlier_run


def run(session: Session) -> Outcome:
    """Run through the trajectory, descend. Collective."""
    if session.resume:
        earlier_run(session.comm, session.results, session.job)
    setting: LandscapeSetting = session.build()
    session.progress.say(opening(session.job.pde.name, sizes(setting.problem), session.comm))
    report = LandscapeReport(session.job, setting)
    with session.phase("solve"):
        trajectory = report.solve(session.folder, checkpoint_of(session, "trajectory", EVERY, fields=True))
    with session.phase("descend"):
        descent = report.descend(checkpoint_of(session, "descents", EVERY, fields=True))
    with session.phase("write"):
        summary = report.write(session.folder, trajectory, descent)
    setting.G.close()
    return session.finish(summary, report.closing(summary), keep=False)
