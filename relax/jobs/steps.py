"""The steps of an optimisation on file: ``history.jsonl`` for people, a checkpoint of each to go on from."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checkpoint_files import Kept, in_words, number_of
from relax.base.files import plain, remove, write_bytes, write_text
from relax.base.types import Array
from relax.jobs.folder import CHECKPOINT, CONTROL, HISTORY


class StepCheckpoint(Checkpoint):
    """One after each step of a job, in whose steps there is no chance."""

    keeps_random_states: ClassVar[bool] = False

    def __init__(self, work: Path, comm: MPI.Comm) -> None:
        super().__init__(work / CHECKPOINT, every=0, comm=comm)


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
        with parallel.together(comm), in_words(work, "step"):
            if comm.rank == 0:
                write_text(work, HISTORY, "".join(map(_line, before)))
                self._file = os.open(work / HISTORY, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def add(self, entry: dict[str, Any]) -> None:
        """Append a step."""
        with parallel.together(self._comm), in_words(self._work, "step"):
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
