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

LOCK = ".relax.lock"
# A lock without words in it is this old, in seconds, when its process has been killed before it wrote them.
_ABOUT_TO_WRITE = 10.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def myself() -> dict[str, Any]:
    """Host, process and start of this process, as a lock and the mark of a run have them. Local."""
    return {"host": socket.gethostname(), "process": os.getpid(), "started": time.strftime("%Y-%m-%d %H:%M:%S")}


class Lock:
    """Held by this process from now on. On one rank.

    Args:
        folder: what it is for; the file ``.relax.lock`` is there while it is held.

    Raises:
        BadInput: when another process holds it, with what is known of that one.
        OSError: when the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        while True:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                self._file, self._is_new = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
            except FileExistsError:
                try:
                    self._file, self._is_new = os.open(self._path, flags), False
                except FileNotFoundError:
                    continue
            try:
                self._take(folder)
                if self._is_there():
                    break
            except BaseException:
                os.close(self._file)
                raise
            # Another run has ended between the two lines above, and removed its file.
            os.close(self._file)
        if os.fstat(self._file).st_size > 0 and not self._holder():
            os.close(self._file)
            raise BadInput(f"{self._path}: expected the lock of a run, and this is something else; move it away")
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
            if kernel_says or not self._is_new and _may_live(holder, time.time() - os.fstat(self._file).st_mtime):
                dead = "" if kernel_says else f". If that one is no more, remove {self._path}"
                raise BadInput(f"{refusal(folder, holder)}{dead}") from None

    def _holder(self) -> dict[str, Any]:
        return _told(os.pread(self._file, 4096, 0))

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


def holder(folder: Path) -> dict[str, Any] | None:
    """Who holds the lock on a folder, as far as can be told by reading alone; None where nobody does. On one rank.

    Empty words are those of somebody who has just taken it. Whether a process of another host lives is not known here.
    """
    path = folder / LOCK
    try:
        words, age = _told(path.read_bytes()[:4096]), time.time() - path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    return words if _may_live(words, age) else None


def in_words(holder: dict[str, Any]) -> str:
    """Who it is. Local."""
    return "process {process} on {host}, since {started}".format(**holder) if holder else "which is unknown"


def refusal(folder: Path, holder: dict[str, Any]) -> str:
    """What another run is told that would have it, too. Local."""
    return f"{folder}: another run writes there ({in_words(holder)}); wait for it, or choose another with --output"


def is_here(holder: dict[str, Any]) -> bool:
    """Whether it is a process of this host. Local."""
    return holder.get("host") == socket.gethostname()


def _told(words: bytes) -> dict[str, Any]:
    """What a lock says of who holds it; nothing where it is none."""
    try:
        holder = json.loads(words)
        return holder if {"host", "process", "started"} <= set(holder) else {}
    except (ValueError, TypeError):
        return {}


def _ticks(process: int) -> str | None:
    """When a process of this host began, in the kernel's ticks; None where there is none. Tells it from a later one."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return None


def _may_live(holder: dict[str, Any], age: float) -> bool:
    """Whether the process that wrote a lock may be there, or one that is about to write it."""
    if not holder:
        return age < _ABOUT_TO_WRITE
    if not is_here(holder):
        return True
    return _ticks(int(holder["process"])) == holder.get("ticks")
