"""Reading a job file, and the folder that its relative paths start from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from relax.base.checks import nearest
from relax.errors import BadInput
from relax.jobs import kinds
from relax.jobs.toml.changes import changed
from relax.jobs.toml.messages import article, sentences, unknown_table
from relax.jobs.toml.sections import Job, MethodSection
from relax.jobs.toml.writing import literal, written

J = TypeVar("J", bound=Job, covariant=True)


def project_root(job_file: Path) -> Path:
    """The folder that relative paths in a job start from.

    It is the nearest folder, from the job file's own upwards, that holds a ``pyproject.toml`` or a ``.git``; where
    there is none, the job file's own folder.
    """
    folder = job_file.resolve().parent
    for candidate in (folder, *folder.parents):
        if (candidate / "pyproject.toml").exists() or (candidate / ".git").exists():
            return candidate
    return folder


def parse(text: str, source: str = "job") -> Job:
    """A job from the text of a TOML file.

    Args:
        text: the file's content.
        source: its name, for messages.

    Raises:
        BadInput: with one line per mistake: the table and key, what was expected, what was found.
    """
    return _job(tables_in(text, source), source)


def tables_in(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML file as they stand there, whatever they are.

    Raises:
        BadInput: when it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise BadInput(f"{source}: expected tables and lists a few levels deep, got some hundreds") from None
    except ValueError as error:
        # Python's own for a number of thousands of digits.
        raise BadInput(f"{source}: this is not TOML: {error}") from None


def _job(raw: dict[str, Any], source: str) -> Job:
    lines = _mistakes_of_kind(raw)
    if not lines:
        model = kinds.part(kinds.KINDS[kinds.named_by(raw)[0]].model)
        try:
            job: Job = model.model_validate(raw)
        except ValidationError as error:
            lines = sentences(error.errors(), model, kinds.tables())
        else:
            return job
    count = f"{len(lines)} mistakes" if len(lines) > 1 else "a mistake"
    raise BadInput(f"{source}: {count} in this job file\n" + "\n".join(f"  {line}" for line in lines))


def _mistakes_of_kind(raw: dict[str, Any]) -> list[str]:
    """What is wrong with the tables that say what a job is about, of which there must be one."""
    named = kinds.named_by(raw)
    makes = [f"[{kinds.KINDS[name].table}] makes {article(name)} job" for name in named or kinds.KINDS]
    if len(named) > 1:
        both = ", ".join(f"[{kinds.KINDS[name].table}]" for name in named)
        return [f"{both}: expected one of them: {', '.join(makes)}"]
    if named:
        return []
    unknown = [unknown_table(table, kinds.tables()) for table in raw if table not in kinds.tables()]
    missing = f"the table that says what the job is about is missing: {', '.join(makes)}"
    try:
        Job.model_validate({table: raw[table] for table in Job.model_fields if table in raw})
    except ValidationError as error:
        return [*(unknown or [missing]), *sentences(error.errors(), Job, kinds.tables())]
    return unknown or [missing]


@dataclass(frozen=True)
class JobFile(Generic[J]):
    """A job as it was read: the settings, a text that says them, and the folder that its relative paths start from.

    ``trust_mesh`` says whether its mesh file may run programs, which no job may say by itself.
    """

    job: J
    text: str
    path: Path
    root: Path
    trust_mesh: bool = False


def method_in(tables: dict[str, Any]) -> MethodSection | None:
    """How the job with these tables finds its minimiser; None where they do not say it. Local."""
    try:
        return MethodSection.model_validate(tables.get("method", {}))
    except ValidationError:
        return None


def read(path: Path, settings: Sequence[str] = (), *, trust_mesh: bool = False) -> JobFile[Job]:
    """The job in a file, with the ``settings`` of a command line (``prior.length=0.3``), which are checked as its own.


    Local, but collective where the mesh comes from a generator and DOLFINx has not been imported: that import is.

    Raises:
        BadInput: when there is no such file, it cannot be read, or it is not a valid job.
    """
    if not os.path.exists(path):
        others = sorted(str(p) for p in path.parent.glob("*.toml"))
        hint = nearest(str(path), others) if others else ""
        raise BadInput(f"{str(path):.300}: there is no such job file{hint}; looked in {path.resolve().parent}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: expected a readable TOML file: {error}") from None
    source = str(path)
    tables = tables_in(text, source)
    if settings:
        source += "".join(f" --set {setting}" for setting in settings)
        tables = changed(tables, settings)
    job = _job(tables, source)
    if settings:
        text = f"# {literal(source)}\n\n{written(tables)}"
    return JobFile(job, text, path.resolve(), project_root(path), trust_mesh)
