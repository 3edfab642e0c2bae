"""What ``relax run --dry-run`` says: what would be solved, and what would become of the output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpi4py import MPI

from relax.invert.table import NEAR, NEAREST
from relax.jobs.folder import RunFolder
from relax.jobs.kinds import KINDS, part
from relax.jobs.progress import Progress
from relax.jobs.run import check_resumes
from relax.jobs.session import inputs_of
from relax.jobs.steps import earlier_run
from relax.jobs.toml import JobFile
from relax.jobs.toml.messages import article
from relax.jobs.toml.writing import literal

# Keys that name a file where their value is text, and those of which it is told that they are not given.
_FILES = ("file", "points")
_BY_DEFAULT = {"options": "options by default", "atol": f"atol by default (converged at {NEAR:g}, on to {NEAREST:g})"}


def preview(
    file: JobFile[Any], *, folder: Path | None, overwrite: bool, resume: bool, comm: MPI.Comm = MPI.COMM_WORLD
) -> None:
    """Say on rank 0 what ``run_job`` would do. Collective. Nothing is built or written, and no folder is held.

    Raises:
        BadInput: on every rank, for what is named and is not there, and where the folder would be refused, which comes
            last. What only a mesh tells is not seen.
    """
    job = file.job
    progress = Progress(comm)
    check_resumes(job.kind, resume)
    part(KINDS[job.kind].check)(file, comm)
    folder = Path(job.output.folder) if folder is None else folder
    progress.say(f"{article(job.kind)} job on {comm.size} rank(s), of which nothing is solved or written now")
    tables = job.model_dump()
    tables["output"] = {**tables.pop("output"), "folder": str(folder)}
    for name, table in tables.items():
        if table is not None:
            progress.say(f"{name:<9}  {', '.join(_entries(table, file.root))}")
    found = RunFolder(comm, folder, inputs_of(file), overwrite=overwrite, resume=resume).foresee()
    if resume:
        earlier_run(comm, folder, job)
    progress.say(f"{folder}: {found}")


def _entries(table: dict[str, Any], root: Path) -> list[str]:
    """The keys of a table, those with a default included. On rank 0."""
    entries = []
    for key, value in table.items():
        if value is None:
            entries += [_BY_DEFAULT[key]] if key in _BY_DEFAULT else []
            continue
        size = ""
        if key in _FILES and isinstance(value, str) and (path := root / value).is_file():
            size = f" ({path.stat().st_size / 1000:.1f} kB)"
        entries.append(f"{key} = {literal(value)}{size}")
    return entries
