"""The steps of an optimisation on file: ``history.jsonl`` for people, a checkpoint of each to go on from."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checkpoint_files import Kept, number_of
from relax.base.ending import Stopped
from relax.base.fem import stored_fields
from relax.base.files import in_words, plain, remove, write_bytes, write_text
from relax.base.log import logger
from relax.base.types import Array
from relax.errors import BadInput
from relax.jobs.contents import CHECKPOINT, CONTROL, HISTORY, JOB, UNFINISHED
from relax.jobs.session import Session
from relax.jobs.toml import parse

#: Between two checkpoints of what is not a few long steps.
EVERY = "1min"


class JobCheckpoint(Checkpoint):
    """Of a job, in whose steps there is no chance; ``save`` raises ``Stopped`` on every rank when the run is to stop.

    Args:
        session: the run.
        part: of the run, where it has several; each has checkpoints of its own.
        every: how much time is between two; 0 for each step.
    """

    keeps_random_states: ClassVar[bool] = False

    def __init__(self, session: Session, part: str = "", every: str | float = 0) -> None:
        super().__init__(session.folder / CHECKPOINT / part, every=every, comm=session.comm)
        self._stopping = session.stopping

    def _why_to_end(self, now: bool) -> str:
        # With ``now`` the run is at its end, and its results are what is left to write.
        return "" if now else self._stopping.after_step()

    def _end(self, why: str, step: int) -> NoReturn:
        raise Stopped(f"{why}: the run ends after step {step}, which is kept; the same command with --resume goes on")


def checkpoint_of(session: Session, part: str = "", every: str | float = 0, *, fields: bool) -> JobCheckpoint | None:
    """A checkpoint for a run; None where it has ``fields`` to keep and no package for that. Collective to make."""
    if fields and not stored_fields.is_possible():
        logger.warning(
            "%s: keeps nothing to go on from: for its fields adios4dolfinx or io4dolfinx is needed", session.results
        )
        return None
    return JobCheckpoint(session, part, every)


def earlier_run(comm: MPI.Comm, folder: Path, job: Any) -> Path:
    """Where the run to go on with is, once it is known to be of the same job. Collective.

    Raises:
        BadInput: on every rank, naming the table that is another one.
    """
    return parallel.on_rank_0(comm, lambda: _earlier_run(folder, job))


def _earlier_run(folder: Path, job: Any) -> Path:
    run = folder / UNFINISHED if (folder / UNFINISHED).exists() else folder
    try:
        old = parse((run / JOB).read_text(encoding="utf-8"), str(run / JOB))
    except (OSError, UnicodeDecodeError, BadInput) as error:
        raise BadInput(
            f"--resume: the job of the earlier run cannot be read: {error}; --overwrite starts anew"
        ) from None
    for table in type(job).model_fields:
        one, two = getattr(old, table, None), getattr(job, table)
        if table == "output" and one is not None:
            one, two = (each.model_copy(update={"folder": ""}) for each in (one, two))
        if table not in job.changeable and one != two:
            raise BadInput(
                f"{folder}: --resume: [{table}] is not what it was in {run / JOB}; use --overwrite to start anew"
            )
    return run


class Record:
    """The steps of a run, on disk when ``add`` returns. Collective, as are its methods but ``close``: rank 0 writes.

    Args:
        comm: the ranks of the run.
        work: the folder to write in.
        before: the steps of an earlier process that this one goes on from.

    Raises:
        SolveFailed: on every rank, when the disk does not take a step.
    """

    def __init__(self, comm: MPI.Comm, work: Path, before: Sequence[dict[str, Any]] = ()) -> None:
        self._comm = comm
        self._work = work
        self._file: int | None = None
        with parallel.together(comm), in_words(work / HISTORY):
            if comm.rank == 0:
                write_text(work, HISTORY, "".join(map(_line, before)))
                self._file = os.open(work / HISTORY, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def add(self, entry: dict[str, Any]) -> None:
        """Append a step."""
        with parallel.together(self._comm), in_words(self._work / HISTORY):
            if self._file is not None:
                line = _line(entry).encode()
                # In one call, so that a line is there whole; a disk that takes a part of it is full.
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, "it took a part of a line")
                os.fsync(self._file)

    def close(self) -> None:
        """Close the file. Not collective."""
        if self._file is not None:
            os.close(self._file)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(plain(entry)) + "\n"


def put(work: Path, kept: Kept | None) -> None:
    """Have the checkpoint that a run goes on from in its folder, and none after it. On rank 0."""
    if kept is None:
        return
    there = work / CHECKPOINT
    if not there.exists():
        shutil.copytree(kept.folder, there / kept.folder.name)
        return
    for newer in [path for path in there.iterdir() if (number_of(path) or 0) > (number_of(kept.folder) or 0)]:
        remove(newer)


def save_control(work: Path, control: Array) -> None:
    """Write ``control.npy``. On one rank."""
    content = io.BytesIO()
    np.save(content, control)
    write_bytes(work, CONTROL, content.getvalue())
