"""Reading a job file, and the folder that its relative paths start from."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from relax.errors import BadInput
from relax.jobs.toml.messages import sentences
from relax.jobs.toml.sections import Job


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
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{source}: this is not TOML: {error}") from None
    try:
        return Job.model_validate(raw)
    except ValidationError as error:
        lines = sentences(error.errors())
        count = f"{len(lines)} mistakes" if len(lines) > 1 else "a mistake"
        raise BadInput(f"{source}: {count} in this job file\n" + "\n".join(f"  {line}" for line in lines)) from None


@dataclass(frozen=True)
class JobFile:
    """A job as it was read: the settings, the file's text, and the folder that its relative paths start from."""

    job: Job
    text: str
    path: Path
    root: Path


def read(path: Path) -> JobFile:
    """The job in a file.

    Raises:
        BadInput: when there is no such file, it cannot be read, or it is not a valid job.
    """
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else f"; looked in {path.resolve().parent}"
        raise BadInput(f"{path}: there is no such job file{hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: expected a readable TOML file: {error}") from None
    return JobFile(parse(text, str(path)), text, path.resolve(), project_root(path))
