"""The output folder of a run: who may write there, and the files that end up in it.

==============  =====================================================================================
job.toml        a copy of the job
history.jsonl   one JSON object per iteration, written as it ends
sensors.csv     observation points, data, noise; a data file for another job
fields.bp       truth, recovery and (last) state for ParaView (VTX), at full degree
fields.xdmf     the same at the degree of the mesh, with ``fields.h5``
figure.png      truth, recovery, sensors, convergence; of a control job density and control over time
control.npy     the last control, from which ``--resume`` starts
summary.json    versions, ranks, timings, solves, errors; written last: where it is, the run has ended
==============  =====================================================================================

Of an equation in time there are more:

==============  =====================================================================================
states.bp       a time series of the state for ParaView (VTX), at full degree; of a wave function its
                density as well
strip.png       frames of the state side by side, all of one size, with one scale; ``summary.json`` has
                their size, number, steps and times
control.csv     of a control job, for each step: its number, the time at its end, the control in it,
                the populations after it
==============  =====================================================================================

Jobs that relax have a summary and a figure, and

==============  =====================================================================================
result.json     of a landscape: the range, the integral of exp(-beta u) and the local minima over time; of
                a misfit: the numbers found, how many starts are solved
descents.csv    for each start: where it is, where it leads
samples.csv     of a misfit: the lattice over its box, the misfit, the relaxed one
states.bp       of a landscape, with ``strip.png``, as above
==============  =====================================================================================
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.types import Array
from relax.errors import BadInput

JOB, HISTORY, SENSORS, SUMMARY, FIGURE, CONTROL = (
    "job.toml", "history.jsonl", "sensors.csv", "summary.json", "figure.png", "control.npy"
)  # fmt: skip
STATES, STRIP, DRIVE = "states.bp", "strip.png", "control.csv"
RESULT, DESCENTS, SAMPLES = "result.json", "descents.csv", "samples.csv"
FIELDS = ("fields.bp", "fields.xdmf", "fields.h5")
_SPARE_BYTES = 16 * 2**20


def inspect(comm: MPI.Comm, folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """See that a run may use the folder, or may replace or resume an earlier run in it; nothing is changed yet.

    Collective. Rank 0 looks, all ranks learn the verdict: a parallel write that fails on one rank alone never returns.

    Raises:
        BadInput: when the folder holds an earlier run and neither is asked for, holds something else, or cannot be
            written.
    """
    parallel.on_rank_0(comm, lambda: _inspect(folder, overwrite, resume))


def _inspect(folder: Path, overwrite: bool, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: expected a folder for the results, and this is a file; choose another with --output")
    if folder.exists() and any(folder.iterdir()) and not (folder / JOB).exists():
        raise BadInput(
            f"{folder}: holds files and no {JOB} of a run, so it is not a folder of relax; choose another with --output"
        )
    if not (overwrite or resume):
        if (folder / SUMMARY).exists():
            goes_on = ", --resume goes on from its last step" if (folder / CONTROL).exists() else ""
            raise BadInput(
                f"{folder}: holds a finished run; --overwrite replaces it, --output writes to another folder{goes_on}"
            )
        if (folder / CONTROL).exists():
            raise BadInput(
                f"{folder}: holds an unfinished run; --resume goes on from its last step, --overwrite starts anew"
            )
    if resume and not (folder / CONTROL).exists():
        raise BadInput(f"{folder}: nothing to resume: there is no {CONTROL} of an earlier run")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        # Permissions alone do not tell: root may write anywhere, but not in what is no disk, such as /proc.
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise BadInput(
            f"{folder}: cannot write in {nearest} ({error.strerror}); choose another folder with --output"
        ) from None
    check_space(nearest, 0)


def clear(comm: MPI.Comm, folder: Path, *, resume: bool = False) -> None:
    """Make the folder and clear it of an earlier run's files, but for what ``resume`` goes on from.

    Collective. For the moment when the job is known to be good: a mistake in it must not cost the earlier results.

    Raises:
        BadInput: when the folder cannot be written.
    """
    parallel.on_rank_0(comm, lambda: _clear(folder, resume))


def _clear(folder: Path, resume: bool) -> None:
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"relax")
        probe.unlink()
    except OSError as error:
        raise BadInput(
            f"{folder}: cannot write there ({error.strerror}); choose another folder with --output"
        ) from None
    kept = {HISTORY, CONTROL, JOB} if resume else {JOB}
    # The mark of a finished run goes first, so that a run killed from here on does not pass for the old one.
    for name in (SUMMARY, HISTORY, SENSORS, FIGURE, CONTROL, STATES, STRIP, DRIVE, RESULT, DESCENTS, SAMPLES, *FIELDS):
        path = folder / name
        if name in kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """See that the disk has room for ``needed`` bytes. On one rank.

    Raises:
        BadInput: with what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise BadInput(
            f"{folder}: the disk is full: {(needed + _SPARE_BYTES) / 2**20:.0f} MB are needed, {free / 2**20:.0f} MB "
            "are free; make room or choose another folder with --output"
        )


class HistoryFile:
    """``history.jsonl``: one object per iteration, on disk when ``write`` returns. Writes on rank 0, reads anywhere."""

    def __init__(self, comm: MPI.Comm, folder: Path) -> None:
        self._file = (folder / HISTORY).open("a", encoding="utf-8") if comm.rank == 0 else None

    def write(self, step: dict[str, Any]) -> None:
        """Append one iteration. Not collective."""
        if self._file is not None:
            self._file.write(json.dumps(_plain(step)) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file. Not collective."""
        if self._file is not None:
            self._file.close()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The iterations on file; a last line that a kill cut short is left out."""
    steps = []
    path = folder / HISTORY
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            steps.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return steps


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a file so that it is there whole or not at all. On one rank."""
    temporary = folder / f".{name}.part"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / name)


def write_json(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all. On one rank."""
    write_text(folder, name, json.dumps(_plain(content), indent=2) + "\n")


def save_control(folder: Path, control: Array) -> None:
    """Keep a control vector for ``--resume``, replacing the one before in one step. On one rank."""
    temporary = folder / f".{CONTROL}.part"
    with temporary.open("wb") as file:
        np.save(file, control)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / CONTROL)


def load_control(folder: Path, size: int) -> Array:
    """The control that an earlier run kept. On one rank.

    Raises:
        BadInput: when the file is damaged or of another length.
    """
    try:
        control = np.load(folder / CONTROL, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / CONTROL}: cannot be read ({error}); run again with --overwrite") from None
    if control.shape != (size,) or not np.isfinite(control).all():
        raise BadInput(
            f"{folder / CONTROL}: expected {size} finite numbers, got shape {control.shape}; run again with --overwrite"
        )
    return control


def _plain(value: Any) -> Any:
    """Without NumPy's types, and with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
