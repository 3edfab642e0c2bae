"""How a form is compiled: found in the cache folder, or made beside it and moved there when it is whole.

FFCx takes its own ``libffcx_*.c`` for a lock: one that a killed process leaves behind stops every later run, and so
does one that takes longer than ten seconds. Importing this file replaces what FFCx does there, for all forms of this
process: a module is made in a folder of its own, while the kernel's lock on a file says that somebody is at it. That
lock ends with its process, however it ends. Where a file system has no locks two processes may compile the same form,
each for itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import ffcx.codegeneration.jit as of_ffcx
from dolfinx import jit as of_dolfinx
from mpi4py import MPI

from relax.base import parallel
from relax.base.fem.cache import LOCK, is_abandoned
from relax.base.log import logger
from relax.errors import BadInput

# Seconds between two looks at a lock that another process holds.
_PAUSE = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

# Folders in which this process compiles now.
_workshops: set[Path] = set()


class _Missing(Exception):
    """The cache has no such module, or one that cannot be loaded."""


def _look(module: str, names: list[str], folder: Path, timeout: int) -> tuple[Any, Any]:
    """What FFCx asks of its cache: the module's objects and the module; twice None where it is to be compiled."""
    if folder in _workshops:
        return None, None
    if not (folder / f"{module}.c.cached").exists():
        raise _Missing(module)
    try:
        loaded: tuple[Any, Any] = of_ffcx._load_objects(folder, module, names)
    except ImportError as damaged:
        raise _Missing(module) from damaged
    return loaded


def _once(compile_: Callable[..., Any]) -> Callable[..., Any]:
    """FFCx's ``compile_forms``, or that of expressions: whatever is compiled elsewhere is waited for."""

    @wraps(compile_)
    def compile_once(objects: list[Any], **settings: Any) -> Any:
        if settings.get("cache_dir") is None:
            return compile_(objects, **settings)
        folder = Path(settings["cache_dir"])
        settings["cache_dir"] = folder
        try:
            return compile_(objects, **settings)
        except _Missing as missing:
            module = str(missing)
        with _said_in_words(folder):
            folder.mkdir(exist_ok=True, parents=True)
            with _held(folder / (module + LOCK)):
                try:
                    return compile_(objects, **settings)  # which another process has made meanwhile
                except _Missing:
                    pass
                with _workshop(folder, module) as own:
                    made = compile_(objects, **{**settings, "cache_dir": own})
                    _publish(own, folder, module)
                return made

    return compile_once


@contextmanager
def _said_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"compiled forms: {folder} cannot be written ({error.strerror or error}); expected a folder of your own "
            "with room in it: set XDG_CACHE_HOME, or cache_dir in dolfinx_jit_options.json"
        ) from error
    except of_ffcx.cffi.VerificationError as error:
        raise BadInput(
            f"compiled forms: the C compiler failed ({error}); expected one that builds extensions of this Python "
            f"(the variable CC names another), and room in {folder}"
        ) from error


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """The lock is this process's within the block; waits for as long as the process lives that has it."""
    waits = False
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not waits:
                logger.info("waiting for a form that %s compiles", os.pread(lock, 200, 0).decode() or "another process")
            waits = True
            os.close(lock)
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                break
            os.close(lock)
            raise
    try:
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def _workshop(folder: Path, module: str) -> Iterator[Path]:
    """A folder to compile in, on the same file system. Nobody else writes there, not even a dead process's compiler."""
    with tempfile.TemporaryDirectory(prefix=f"{module}.", dir=folder, ignore_cleanup_errors=True) as name:
        own = Path(name)
        _workshops.add(own)
        try:
            yield own
        finally:
            _workshops.discard(own)


def _publish(own: Path, folder: Path, module: str) -> None:
    """Move what was made into the cache, what says that it is there last."""
    source = folder / f"{module}.c"
    if source.exists() and not source.with_suffix(".c.cached").exists() and not is_abandoned(source):
        return  # A process without relax may be at it, and would fail when it is done and finds this.
    for built in (*own.glob(f"{module}.*.so"), own / source.name, own / f"{source.name}.cached"):
        built.replace(folder / built.name)


def on_all_ranks(local: Callable[..., Any]) -> Callable[..., Any]:
    """``local`` as a function whose first argument is a communicator: on rank 0, then on the others. Collective.

    Whatever it raises on any rank is raised on all.
    """

    @wraps(local)
    def collective(comm: MPI.Comm, *args: Any, **settings: Any) -> Any:
        made = None
        for is_first in (True, False) if comm.size > 1 else (True,):
            with parallel.together(comm):
                if (comm.rank == 0) is is_first:
                    made = local(*args, **settings)
        return made

    return collective


of_ffcx.get_cached_module = _look
of_ffcx.compile_forms = _once(of_ffcx.compile_forms)
of_ffcx.compile_expressions = _once(of_ffcx.compile_expressions)
of_dolfinx.ffcx_jit = on_all_ranks(of_dolfinx.ffcx_jit.__wrapped__)
