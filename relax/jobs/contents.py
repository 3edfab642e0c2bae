"""What an output folder holds: names, the mark of relax, what a run has told of itself. Nothing here needs MPI.

==============  =====================================================================================
run.json        version, host, process and start of the run; its files, where it has ended
job.toml        a copy of the job
history.jsonl   one JSON object per iteration, written as it ends
sensors.csv     observation points, data, noise; a data file for another job
fields.bp       truth, recovery and (last) state for ParaView (VTX), at full degree
fields.xdmf     the same at the degree of the mesh, with ``fields.h5``
figure.png      truth, recovery, sensors, convergence; of a control job density and control over time
control.npy     the last control, where it is on each rank
checkpoint      the last two steps, from which ``--resume`` goes on, on any number of ranks
summary.json    versions, ranks, timings, solves, errors
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
from pathlib import Path
from typing import Any

from relax.errors import BadInput
from relax.jobs.lock import LOCK

JOB, HISTORY, SENSORS, SUMMARY, FIGURE, CONTROL = (
    "job.toml", "history.jsonl", "sensors.csv", "summary.json", "figure.png", "control.npy"
)  # fmt: skip
STATES, STRIP, DRIVE = "states.bp", "strip.png", "control.csv"
RESULT, DESCENTS, SAMPLES = "result.json", "descents.csv", "samples.csv"
FIELDS = ("fields.bp", "fields.xdmf", "fields.h5")
RUN, UNFINISHED = "run.json", "unfinished"
CHECKPOINT = "checkpoint"
RESULTS = (
    RUN, JOB, HISTORY, SENSORS, SUMMARY, FIGURE, CONTROL, STATES, STRIP, DRIVE, RESULT, DESCENTS, SAMPLES,
    CHECKPOINT, *FIELDS,
)  # fmt: skip


def marked(folder: Path) -> dict[str, Any] | None:
    """What the mark of relax in a folder says; None where there is none. On one rank.

    Raises:
        BadInput: when it is damaged.
    """
    path = folder / RUN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or "relax" not in content:
            raise ValueError("it is not one of relax's")
        files = content.get("files", [])
        if not isinstance(files, list) or not all(_is_name(name) for name in files):
            raise ValueError("its list of files is none")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(
            f"{path}: is damaged ({error}), so it is not known which files are a run's; move away what you want to "
            "keep and remove the folder, or choose another with --output"
        ) from None
    return content


def files_of(folder: Path) -> list[str] | None:
    """The files of the finished run in a folder; None where there is none. On one rank."""
    return (marked(folder) or {}).get("files")


def _is_name(name: Any) -> bool:
    """Whether it can be that of a run's file."""
    return isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..", UNFINISHED, LOCK)


def summary_of(folder: Path) -> dict[str, Any]:
    """The summary of the finished run in a folder. On one rank.

    Raises:
        BadInput: when it cannot be read.
    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(summary, dict):
            raise ValueError("expected a table")
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: is damaged ({error}); run the job again, with --overwrite") from None
    return summary


def history_of(folder: Path) -> list[dict[str, Any]]:
    """The steps that a run has told so far, none where it takes none. On one rank.

    Raises:
        BadInput: for a line that is damaged. The last one may be in the writing.
    """
    path = folder / HISTORY
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    steps = []
    for i, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)
            if not isinstance(step["step"], int):
                raise ValueError("expected a number as its step")
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{path}: line {i} is damaged ({error!r}), got {line[:60]!r}") from None
        steps.append(step)
    return steps
