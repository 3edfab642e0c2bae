"""Files that are there whole or not at all. On one rank, as is every function."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from relax.errors import SolveFailed

#: How the name of what is in the making begins, which nobody can guess further; a killed process leaves some.
PART = ".relax-"
#: Bytes of a path that HDF5 may be given: Open MPI writes it, ".locktest." and the rank into 256 (``sharedfp``), and
#: ends the job where they do not fit.
LONGEST_PATH = 240


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Say what it means that the disk does not take something.

    Raises:
        SolveFailed: for what the system, ADIOS or HDF5 say of it.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SolveFailed(
            f"{path}: the disk does not take what is written there ({why}); make room: what was there before is whole"
        ) from error


def is_part(path: Path) -> bool:
    """Whether it is something in the making, as ``tempfile`` names it."""
    return re.fullmatch(re.escape(PART) + "[a-z0-9_]{8}", path.name) is not None


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder, which loses its name first: what is cut short is not half there."""
    if path.is_dir() and not path.is_symlink():
        doomed = Path(tempfile.mkdtemp(prefix=PART, dir=path.parent))
        path.rename(doomed / path.name)
        # What somebody holds open on another machine stays under a name that the next run removes.
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """See what is written of a file, or of the list of names of a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(folder: Path, name: str, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=PART, dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), folder.stat().st_mode & 0o666)
            os.fsync(file.fileno())
        os.replace(temporary, folder / name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(folder)


def write_text(folder: Path, name: str, text: str) -> None:
    """Write a file of text, whole or not at all."""
    write_bytes(folder, name, text.encode())


def write_json(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(folder, name, json.dumps(plain(content), indent=2) + "\n")


def plain(value: Any) -> Any:
    """Without NumPy's types, and with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
