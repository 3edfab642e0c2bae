"""A lock on an output folder: one run at a time, and words that say who.

The kernel's lock on a file (``flock``; Linux passes it on to an NFS server) ends with its process, however that ends.
Where a file system has none the words in the file count: a process of this host that is no more does not hold it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from relax.errors import BadInput

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def myself() -> dict[str, Any]:
    """Host, process and start of this process, as a lock and the mark of a run have them. Local."""
    return {"host": socket.gethostname(), "process": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}


class Lock:
    """Held by this process from now on. On one rank.

    Args:
        folder: what it is for; the file ``.lock`` is there while it is held.

    Raises:
        BadInput: when another process holds it, with what is known of that one.
        OSError: when the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                self._take(folder)
                if self._is_there():
                    break
            except BaseException:
                os.close(self._file)
                raise
            # Another run has ended between the two lines above, and removed its file.
            os.close(self._file)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps({**myself(), "ticks": _ticks(os.getpid())}).encode(), 0)

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            kernel_says = isinstance(error, BlockingIOError)
            if not kernel_says and error.errno not in _NO_LOCKS:
                raise
            holder = self._holder()
            if kernel_says or _may_live(holder):
                who = "process {process} on {host}, since {started}".format(**holder) if holder else "which is unknown"
                dead = "" if kernel_says else f". If that one is no more, remove {self._path}"
                raise BadInput(
                    f"{folder}: another run writes there ({who}); wait for it, or choose another with --output{dead}"
                ) from None

    def _holder(self) -> dict[str, Any]:
        try:
            holder = json.loads(os.pread(self._file, 4096, 0))
            return holder if {"host", "process", "started"} <= set(holder) else {}
        except (ValueError, TypeError):
            return {}

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give it back."""
        try:
            if self._is_there():
                self._path.unlink(missing_ok=True)
        finally:
            os.close(self._file)


def _ticks(process: int) -> str | None:
    """When a process of this host began, in the kernel's ticks; None where there is none. Tells it from a later one."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return None


def _may_live(holder: dict[str, Any]) -> bool:
    if not holder or holder["host"] != socket.gethostname():
        return bool(holder)
    return _ticks(int(holder["process"])) == holder.get("ticks")
