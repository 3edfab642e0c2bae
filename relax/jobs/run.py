"""Running a job of whatever kind: build, solve, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpi4py import MPI

from relax.errors import BadInput
from relax.jobs.kinds import KINDS, part
from relax.jobs.session import Outcome, Session
from relax.jobs.toml import JobFile
from relax.jobs.toml.messages import article


def build(file: Any, comm: MPI.Comm = MPI.COMM_WORLD) -> Any:
    """Everything that a job describes, ready to be solved.

    Collective.

    Raises:
        BadInput: on every rank, naming the table and key that does not fit.
    """
    return part(KINDS[file.job.kind].build)(file, comm)


def check_resumes(kind: str, resume: bool) -> None:
    """Refuse to go on with a run of a kind that keeps nothing. Local."""
    if resume and not KINDS[kind].resumes:
        raise BadInput(
            f"--resume: {article(kind)} job keeps nothing to go on from, its one result comes at its end; run "
            "it again, with --overwrite where the folder holds a finished run"
        )


def run_job(
    file: JobFile[Any],
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    time_limit: float | None = None,
    show: bool = True,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> Outcome:
    """Run the job of a file, of whatever kind, and write its output folder.

    Collective.

    Args:
        file: the job, as ``relax.jobs.read`` gives it; the same on every rank.
        folder: the output folder; by default that of the job.
        overwrite: replace an earlier run, whose results stay until the new ones are there.
        resume: go on from the last step of an unfinished run of this job; of an inverse problem or a control job also
            from that of the finished one in the folder.
        time_limit: seconds after which the run is to have stopped; by default those that Slurm leaves it.
        show: print progress on rank 0.
        comm: the ranks of the run.

    Raises:
        Stopped: on every rank, when SIGUSR1 or the time has ended it; it is kept, and can be resumed.
        RelaxError: on every rank. A method that does not converge is no error: see ``Outcome.converged``.
    """
    check_resumes(file.job.kind, resume)
    folder = Path(file.job.output.folder) if folder is None else folder
    session = Session(file, folder, comm, build, overwrite=overwrite, resume=resume, show=show, time_limit=time_limit)
    try:
        session.inspect()
        outcome: Outcome = part(KINDS[file.job.kind].run)(session)
        return outcome
    finally:
        session.close()
