"""The folder in which DOLFINx keeps compiled forms, and what killed jobs leave behind there.

A job that is killed while a form is compiled leaves an unfinished ``libffcx_*.c``. Every later run that needs this form
takes the file for a compilation under way, waits for ten seconds, or a hundred where it is a module of several forms,
and dies with ``TimeoutError``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STALE_AFTER = 600.0


def form_cache() -> Path:
    """The folder of compiled forms that DOLFINx uses in this process."""
    try:
        from dolfinx import jit

        return Path(jit.get_options()["cache_dir"])
    except ImportError:
        return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fenics"


def sweep_stale_forms(folder: Path | None = None, *, older_than: float = STALE_AFTER) -> list[Path]:
    """Remove forms whose compilation was begun and never finished.

    Not collective: one process of each node does the work, and a file that another process removes first is no error.

    Args:
        folder: where compiled forms are kept; by default where DOLFINx keeps them.
        older_than: how many seconds a compilation may be under way before it counts as dead.

    Returns:
        The files removed by this process.
    """
    local_rank = os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    if local_rank != "0":
        return []
    now = time.time()
    removed = []
    for source in sorted((folder or form_cache()).glob("libffcx_*.c")):
        try:
            stale = not source.with_suffix(".c.cached").exists() and now - source.stat().st_mtime > older_than
            if stale:
                # The objects first: while the source is there, no other process starts on this form.
                for part in source.parent.glob(source.stem + ".*"):
                    if part != source:
                        part.unlink(missing_ok=True)
                source.unlink()
                removed.append(source)
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
        file.unlink(missing_ok=True)
    return len(files)
