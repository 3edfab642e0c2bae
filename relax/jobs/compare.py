"""What ``relax compare`` says of two finished runs: where their jobs differ, and what came out. It needs no MPI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relax.errors import BadInput
from relax.jobs.contents import JOB, UNFINISHED, files_of, marked, summary_of
from relax.jobs.toml.files import tables_in
from relax.jobs.toml.writing import literal

# Of a summary: what is no outcome. The versions have a part of their own.
_NO_OUTCOME = ("versions", "strip")
_LONG = 60
# A job's key that is not given has its default; a number that a run has not is none of its kind.
_NOT_GIVEN, _NONE = "(not given)", "-"


def compare(first: Path, second: Path) -> str:
    """The differing keys of two jobs, the numbers of their summaries side by side, the versions that differ. Local.

    Raises:
        BadInput: for what is no folder of a finished run, or cannot be read.
    """
    (job, summary), (other_job, other_summary) = (_finished(folder) for folder in (first, second))
    parts = {
        "jobs": _rows(job, other_job, _NOT_GIVEN, differing=True) or [("", "no key differs", "")],
        "results": _rows(_outcome(summary), _outcome(other_summary), _NONE, differing=False),
        "versions": _rows(_versions(summary), _versions(other_summary), _NONE, differing=True),
    }
    rows = [(title, str(first), str(second)) if not i else row
            for title, found in parts.items() if found for i, row in enumerate([("", "", ""), *found])]  # fmt: skip
    names, values = (max(len(row[i]) for row in rows) for i in (0, 1))
    return "\n".join(f"{name:<{names}}  {value:<{values}}  {other}".rstrip() for name, value, other in rows)


def _finished(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of the job, and the summary."""
    try:
        files, begun = files_of(folder), marked(folder / UNFINISHED)
        if files is None:
            why = "the run in it is unfinished; `relax status` says how far it is" if begun else "there is none in it"
            raise BadInput(f"{folder}: expected the output folder of a finished run: {why}")
        job = folder / JOB
        return tables_in(job.read_text(encoding="utf-8"), str(job)), summary_of(folder)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{folder}: cannot be read ({error})") from None


def _outcome(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in _NO_OUTCOME}


def _versions(summary: dict[str, Any]) -> dict[str, Any]:
    versions = summary.get("versions")
    return versions if isinstance(versions, dict) else {}


def _rows(
    first: dict[str, Any], second: dict[str, Any], missing: str, *, differing: bool
) -> list[tuple[str, str, str]]:
    """A row for each key of either, ``table.key``, or for those that are not the same in both."""
    values, others = _flat(first), _flat(second)
    rows = []
    for key in dict.fromkeys([*values, *others]):
        pair = [_words(side[key], exact=differing) if key in side else missing for side in (values, others)]
        if not differing or values.get(key) != others.get(key) or (key in values) != (key in others):
            rows.append((key, pair[0], pair[1]))
    return rows


def _flat(tables: dict[str, Any]) -> dict[str, Any]:
    """The keys of tables in tables with the dots between them."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        inner = {f"{key}.{name}": entry for name, entry in _flat(value).items()} if isinstance(value, dict) else {}
        flat |= inner or {key: value}
    return flat


def _words(value: Any, *, exact: bool) -> str:
    """A value; of a number that is no ``exact`` one six digits."""
    is_rounded = isinstance(value, float) and not exact
    words = f"{value:.6g}" if is_rounded else value if isinstance(value, str) else literal(value)
    return words if len(words) <= _LONG else f"{words[:_LONG]}..."
