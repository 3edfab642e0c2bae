"""The folder in which DOLFINx keeps compiled forms, and what killed jobs leave behind there.

Killed relax leaves a lock that nobody holds and a folder of unfinished work, which are in nobody's way. DOLFINx without
relax leaves an unfinished ``libffcx_*.c``, which it takes for a compilation under way ever after.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

STALE_AFTER = 600.0
#: Ends the name of the file that is locked while a module is compiled.
LOCK = ".lock"


def form_cache() -> Path:
    """The folder of compiled forms that DOLFINx uses in this process."""
    try:
        from dolfinx import jit

        return Path(jit.get_options()["cache_dir"])
    except ImportError:
        return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fenics"


def is_abandoned(source: Path, older_than: float = STALE_AFTER) -> bool:
    """Whether a file that is there while a form is compiled is too old for that. Local."""
    return time.time() - source.stat().st_mtime > older_than


def sweep_stale_forms(folder: Path | None = None, *, older_than: float = STALE_AFTER) -> list[Path]:
    """Remove forms whose compilation was begun and never finished.

    Not collective: one process of each node does the work, and a file that another process removes first is no error.
    What a living process of relax compiles stays.

    Args:
        folder: where compiled forms are kept; by default where DOLFINx keeps them.
        older_than: how many seconds a compilation without relax may be under way before it counts as dead.

    Returns:
        The unfinished sources and folders removed by this process.
    """
    local_rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    if local_rank != "0":
        return []
    folder = folder or form_cache()
    begun = [*folder.glob("libffcx_*.c"), *(path for path in folder.glob("libffcx_*") if path.is_dir())]
    removed = []
    for path in sorted(begun):
        lock = path.with_suffix(LOCK)
        try:
            finished = path.with_suffix(".c.cached").exists() and not path.is_dir()
            if finished or not is_abandoned(path, older_than) or _is_held(lock):
                continue
            # The objects first: while the source is there, no other process starts on this form.
            parts = [] if path.is_dir() else [p for p in folder.glob(f"{path.stem}.*") if p != path and not p.is_dir()]
            for part in (*parts, path, lock):
                _remove(part)
            removed.append(path)
        except OSError:
            # Removed by another process in the same moment, or not ours to remove.
            continue
    return removed


def remove_all_forms(folder: Path | None = None) -> int:
    """Remove every compiled form, finished or not; each is compiled again when next needed.

    Returns:
        The number of files removed.
    """
    files = list((folder or form_cache()).glob("libffcx_*"))
    for file in files:
        _remove(file)
    return len(files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_held(lock: Path) -> bool:
    """Whether a process has this lock."""
    try:
        file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
