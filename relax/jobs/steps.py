"""The steps of an optimisation on file: ``history.jsonl`` for people, checkpoints to go on from."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from relax.base.log import logger
from relax.base.types import Array
from relax.errors import BadInput
from relax.jobs.folder import CHECKPOINTS, CONTROL, HISTORY, UNFINISHED, plain, write_bytes, write_text

# What numpy and its zip files raise for one that is cut, empty, overwritten, or a folder.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


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
    """The steps of a run, on disk when ``add`` returns. Writes on rank 0; no method is collective.

    Args:
        comm: the ranks of the run.
        work: the folder to write in.
        before: what an earlier run has kept and this one goes on from.
    """

    def __init__(self, comm: MPI.Comm, work: Path, before: Kept | None) -> None:
        self._work = work
        self._history = [] if before is None else list(before.history)
        self._file: int | None = None
        if comm.rank == 0:
            if before is not None:
                _keep(work, before.control, self._history)
            write_text(work, HISTORY, "".join(map(_line, self._history)))
            self._file = os.open(work / HISTORY, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def add(self, entry: dict[str, Any], control: Array | None) -> None:
        """Append a step; with its control, where all of that is on this rank, it can be gone on from."""
        if self._file is None:
            return
        self._history.append(plain(entry))
        line = _line(entry).encode()
        # In one call, so that a line is there whole; a disk that takes a part of it is full.
        if os.write(self._file, line) < len(line):
            raise OSError(f"{self._work / HISTORY}: the disk took a part of a line; is it full?")
        os.fsync(self._file)
        if control is not None:
            _keep(self._work, control, self._history)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(plain(entry)) + "\n"


def _keep(work: Path, control: Array, history: list[dict[str, Any]]) -> None:
    """Write a checkpoint, with a checksum (that of zip files); the one before stays."""
    content = io.BytesIO()
    np.savez(content, control=control, history=np.array(json.dumps(history)))
    last, before = (work / name for name in CHECKPOINTS)
    if last.exists():
        last.replace(before)
    write_bytes(work, last.name, content.getvalue())


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
