"""The steps of an optimisation on file: ``history.jsonl`` for people, checkpoints to go on from."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.log import logger
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed
from relax.jobs.folder import CHECKPOINTS, CONTROL, HISTORY, UNFINISHED, plain, remove, write_bytes, write_text

# What numpy and its zip files raise for one that is cut, empty, overwritten, or a folder.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Kept:
    """What a run has kept of its steps.

    Attributes:
        control: after the last of them.
        history: an entry for each, from step 0.
    """

    control: Array
    history: list[dict[str, Any]]


class Record:
    """The steps of a run, on disk when ``add`` returns. Collective, as are its methods but ``close``: rank 0 writes.

    Args:
        comm: the ranks of the run.
        work: the folder to write in, where ``put`` has left what there is to go on from.
        before: the steps of an earlier run that this one goes on from.

    Raises:
        SolveFailed: on every rank, when the disk does not take a step.
    """

    def __init__(self, comm: MPI.Comm, work: Path, before: Sequence[dict[str, Any]] = ()) -> None:
        self._comm = comm
        self._work = work
        self._history = list(before)
        self._file: int | None = None
        with parallel.together(comm), _in_words(work):
            if comm.rank == 0:
                write_text(work, HISTORY, "".join(map(_line, self._history)))
                self._file = os.open(work / HISTORY, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def add(self, entry: dict[str, Any], control: Array | None) -> None:
        """Append a step; with its control, where all of that is on rank 0, it can be gone on from."""
        with parallel.together(self._comm), _in_words(self._work):
            if self._file is not None:
                self._add(self._file, entry, control)

    def _add(self, file: int, entry: dict[str, Any], control: Array | None) -> None:
        self._history.append(plain(entry))
        line = _line(entry).encode()
        # In one call, so that a line is there whole; a disk that takes a part of it is full.
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, "it took a part of a line")
        os.fsync(file)
        if control is not None:
            last, before = (self._work / name for name in CHECKPOINTS)
            if last.exists():
                last.replace(before)
            _write(last, Kept(control, self._history))

    def close(self) -> None:
        """Close the file. Not collective."""
        if self._file is not None:
            os.close(self._file)


@contextmanager
def _in_words(work: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SolveFailed(
            f"{work}: the disk does not take the step ({error.strerror or error}); make room, then --resume goes on "
            "from the step before"
        ) from error


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(plain(entry)) + "\n"


def put(work: Path, kept: Kept | None) -> None:
    """Write the checkpoint that a run goes on from; the one before stays, if it is a file. On rank 0."""
    if kept is None:
        return
    for name in CHECKPOINTS:
        if (work / name).is_dir():
            remove(work / name)
    _write(work / CHECKPOINTS[0], kept)


def _write(path: Path, kept: Kept) -> None:
    """A checkpoint, with a checksum (that of zip files)."""
    content = io.BytesIO()
    np.savez(content, control=kept.control, history=np.array(json.dumps(kept.history)))
    write_bytes(path.parent, path.name, content.getvalue())


def save_control(work: Path, control: Array) -> None:
    """Write ``control.npy``. On one rank."""
    content = io.BytesIO()
    np.save(content, control)
    write_bytes(work, CONTROL, content.getvalue())


def kept_in(folder: Path) -> Kept | None:
    """What the unfinished run of a folder has kept, or its finished one; None where the first has not ended a step.

    On one rank. Reads all of it, changes nothing.

    Raises:
        BadInput: when it is damaged, and there is no good checkpoint before it.
    """
    work = folder / UNFINISHED
    if not work.exists():
        return _of_finished(folder)
    damaged = []
    for name in CHECKPOINTS:
        if not os.path.lexists(work / name):
            continue
        try:
            with np.load(work / name, allow_pickle=False) as content:
                kept = Kept(content["control"], json.loads(str(content["history"])))
            _check_control(kept.control)
            _check_history(kept.history)
        except _DAMAGED as error:
            damaged.append(f"{work / name} is damaged ({error or type(error).__name__})")
            continue
        for words in damaged:
            logger.warning("%s; the one before it, of step %d, is used", words, len(kept.history) - 1)
        return kept
    if damaged:
        raise BadInput(f"--resume: {'; '.join(damaged)}; --overwrite starts anew")
    return None


def _of_finished(folder: Path) -> Kept:
    path = folder / CONTROL
    try:
        control = np.load(path, allow_pickle=False)
        _check_control(control)
        path = folder / HISTORY
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        _check_history(history)
    except _DAMAGED as error:
        raise BadInput(
            f"--resume: {path} is damaged ({error or type(error).__name__}); --overwrite starts anew"
        ) from None
    return Kept(control, history)


def _check_control(control: Any) -> None:
    if not (isinstance(control, np.ndarray) and control.ndim == 1 and control.dtype == np.float64):
        raise ValueError("expected a vector of numbers")
    if not np.isfinite(control).all():
        raise ValueError("expected finite numbers")


def _check_history(history: Any) -> None:
    steps = [entry.get("step") if isinstance(entry, dict) else entry for entry in history]
    if not steps or steps != list(range(len(steps))):
        raise ValueError(f"expected the steps from 0 on, got {str(steps)[:80]}")
    if not all(isinstance(entry.get("gradient_norm"), float) for entry in history):
        raise ValueError("expected the norm of the gradient at each step")
