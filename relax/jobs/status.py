"""What ``relax status`` says of a folder: how far the run in it is. It reads, takes no lock, and needs no MPI."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relax.errors import BadInput
from relax.invert.table import goal
from relax.jobs import lock
from relax.jobs.contents import (
    CHECKPOINT,
    JOB,
    RUN,
    UNFINISHED,
    files_of,
    history_of,
    marked,
    summary_of,
)
from relax.jobs.toml.files import method_in, tables_in

# The files of a run that ends come into place one by one: so many looks until two of them are the same.
_LOOKS = 5


@dataclass(frozen=True)
class _Seen:
    """A folder at one moment.

    Attributes:
        files: of the finished run in it; None where there is none.
        begun: the mark of the one in ``unfinished/``; None where there is none.
        holder: who writes there, as the lock says; None where nobody does.
    """

    files: list[str] | None
    begun: dict[str, Any] | None
    holder: dict[str, Any] | None

    @classmethod
    def of(cls, folder: Path) -> _Seen:
        return cls(files_of(folder), marked(folder / UNFINISHED), lock.holder(folder))


def status(folder: Path) -> str:
    """How far the run in a folder is: a line, then lines of a name and what there is to say of it. Local.

    Raises:
        BadInput: for what is no folder of a run, or cannot be read.
    """
    try:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "nothing (a new run makes its folder once its job has been built)"
            raise BadInput(f"{folder}: expected the output folder of a run, and there is {what}")
        for _ in range(_LOOKS):
            seen = _Seen.of(folder)
            lines = _lines(folder, seen)
            if _Seen.of(folder) == seen:
                break
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from None
    (_, going), *more = lines
    return "\n".join([f"{folder}: {going}", *(f"{name:<10}  {words}" for name, words in more)])


def _lines(folder: Path, seen: _Seen) -> list[tuple[str, str]]:
    held = [] if seen.holder is None else [("held by", _who(seen.holder))]
    if seen.begun is not None and "files" in seen.begun:
        words = "ended; its files are about to take their place" if held else (
            "ended before its files took their place, which the next `relax run` with this folder sees to"
        )  # fmt: skip
        return [("run", words), *held]
    if seen.begun is not None:
        going = "running" if held else "unfinished: no process works on it"
        before = [] if seen.files is None else [("before it", "the results of a finished run, whole until then")]
        return [("run", going), *held, *_so_far(folder / UNFINISHED, going=bool(held)), *before]
    if seen.files is not None:
        going = "finished" + (", and a run that is to follow it begins" if held else "")
        return [("run", going), *held, *_at_the_end(folder)]
    if held:
        return [("run", "running: it builds what its job describes"), *held]
    raise BadInput(f"{folder}: is no output folder of a run: there is no {RUN} of relax in it")


def _who(holder: dict[str, Any]) -> str:
    far = "" if lock.is_here(holder) else " (whether it lives cannot be told from this host)"
    return lock.in_words(holder) + (far if holder else "")


def _so_far(work: Path, *, going: bool) -> list[tuple[str, str]]:
    """Of an unfinished run."""
    history = history_of(work)
    kept = last_kept(work)
    goes_on = "" if going else ", from which --resume goes on"
    checkpoint = [] if kept is None else [("checkpoint", f"{kept}{goes_on}")]
    if not history:
        return [("step", "none yet, or its job takes none"), *checkpoint]
    tables = _tables(work)
    method, last = method_in(tables), history[-1]
    seconds = _number(last, "seconds")
    most = "" if method is None else f" of at most {method.max_steps}"
    lines = [("step", f"{last['step']}{most}"), *_reached(last, tables)]
    if not math.isnan(seconds):
        lines.append(("time", f"{duration(seconds)} in these steps"))
    if method is not None:
        end = goal(_number(history[0], "gradient_norm"), method.rtol, method.atol)
        left = seconds_left(history, end, method.max_steps)
        if left is not None:
            lines.append(("left", f"about {duration(left)} for |g| to fall to {end:.1e}, an estimate from its steps"))
    return [*lines, *checkpoint]


def _at_the_end(folder: Path) -> list[tuple[str, str]]:
    """Of a finished run."""
    summary = summary_of(folder)
    history = history_of(folder)
    lines = [("ended", str(summary.get("status", "converged" if summary.get("converged") else "not converged")))]
    if history:
        lines += [("step", str(history[-1]["step"])), *_reached(history[-1], _tables(folder))]
    times = summary.get("seconds")
    if isinstance(times, dict) and times:
        parts = ", ".join(f"{name} {duration(_number(times, name))}" for name in times)
        lines.append(("time", f"{duration(sum(_number(times, name) for name in times))} ({parts})"))
    kept = last_kept(folder)
    return lines + ([] if kept is None else [("checkpoint", kept)])


def _reached(step: dict[str, Any], tables: dict[str, Any]) -> list[tuple[str, str]]:
    unit = "tolerances" if "target" in tables else "noise levels"
    return [
        ("misfit", f"{_number(step, 'misfit_in_noise_levels'):.4g} {unit}"),
        ("|g|", f"{_number(step, 'gradient_norm'):.3e}"),
    ]


def seconds_left(history: list[dict[str, Any]], end: float, max_steps: int) -> float | None:
    """How long it takes for the gradient to fall to ``end``, as it fell and took time in the later half of the steps.

    None where that cannot be told: before the second step, and where it does not fall.
    """
    half = history[len(history) // 2 - 1 :] if len(history) > 2 else []
    if not half:
        return None
    sizes = [_number(step, "gradient_norm") for step in half]
    lasting = (_number(half[-1], "seconds") - _number(half[0], "seconds")) / (len(half) - 1)
    least = min(sizes)
    falls = all(map(math.isfinite, sizes)) and 0.0 < end < least < sizes[0]
    if not (falls and lasting >= 0.0):
        return None
    steps = math.ceil(math.log(least / end) / math.log(sizes[0] / least) * (len(half) - 1))
    return max(min(steps, max_steps - int(history[-1]["step"])), 0) * lasting


def last_kept(folder: Path) -> str | None:
    """The last checkpoint in the folder of a run, of each of its parts; None where there is none. Local."""
    kept = folder / CHECKPOINT
    steps = {"": _last_step(kept)} | {f"{path.name}, ": _last_step(path) for path in sorted(kept.glob("[!.]*"))}
    return "; ".join(f"{name}step {step}" for name, step in steps.items() if step is not None) or None


def _last_step(checkpoints: Path) -> int | None:
    there = sorted(
        checkpoints.glob("checkpoint-*/manifest.json"),
        # The number in the name has six digits, or as many as it takes.
        key=lambda path: (len(path.parent.name), path.parent.name),
    )
    for path in reversed(there):
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["step"])
        except (OSError, ValueError, TypeError, KeyError):
            # Removed meanwhile, as all but the last two are; or damaged, and then the one before it counts.
            continue
    return None


def duration(seconds: float) -> str:
    """A time in words: 3.2 s, 4 min 10 s, 2 h 5 min."""
    if not seconds >= 60.0:
        return f"{seconds:.2g} s" if seconds < 10.0 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _tables(run: Path) -> dict[str, Any]:
    """Of the job of a run; none where its copy cannot be read, which is for those to say who need it."""
    try:
        return tables_in((run / JOB).read_text(encoding="utf-8"), str(run / JOB))
    except (OSError, ValueError):
        return {}


def _number(entry: dict[str, Any], name: str) -> float:
    """Of a step or a summary; NaN where there is none, for which JSON has null."""
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
