"""Running a job: build, solve, write."""

from __future__ import annotations

from pathlib import Path

from mpi4py import MPI

from relax.errors import BadInput
from relax.jobs import optimised, relaxed
from relax.jobs.session import Outcome, Session
from relax.jobs.toml import JobFile

__all__ = ["Outcome", "run_job"]


def run_job(
    file: JobFile,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show: bool = True,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> Outcome:
    """Run the job of a file, of whatever kind, and write its output folder.

    Collective.

    Args:
        file: the job, as ``relax.job.read`` gives it; the same on every rank.
        folder: the output folder; by default that of the job.
        overwrite: replace an earlier run.
        resume: start from the last control that an earlier run of this job left in the folder. For inverse problems of
            a field and for control jobs.
        show: print progress on rank 0.
        comm: the ranks of the run.

    Raises:
        RelaxError: on every rank. A method that does not converge is no error: see ``Outcome.converged``.
    """
    session = Session(file, folder if folder is not None else Path(file.job.output.folder), comm, show=show)
    kind = file.job.kind
    try:
        if kind in ("inverse", "control"):
            return optimised.run(session, overwrite=overwrite, resume=resume)
        if resume:
            raise BadInput(
                f"--resume: a {kind} job keeps nothing to go on from, its one result comes at its end; run it again, "
                "with --overwrite where the folder holds a finished run"
            )
        return (relaxed.landscape if kind == "landscape" else relaxed.misfit)(session, overwrite=overwrite)
    finally:
        session.progress.close()
