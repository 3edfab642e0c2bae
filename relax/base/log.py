"""Logging: the standard ``logging`` module, rank 0 speaking, timed blocks, never a barrier."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mpi4py import MPI

# Seconds between two lines about one loop.
_QUIET = 10.0

logger = logging.getLogger("relax")
logger.addHandler(logging.NullHandler())


class _Rank0(logging.Filter):
    """Lets errors of every rank through, and everything below from rank 0 alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        return MPI.COMM_WORLD.rank == 0 or record.levelno >= logging.ERROR


def to_console(level: int = logging.INFO) -> None:
    """Write relax's log to stderr: rank 0's lines, and errors of every rank. Called by the command line only."""
    handler = logging.StreamHandler()
    handler.addFilter(_Rank0())
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)


def warn(text: str) -> None:
    """A warning in the log; where nobody has asked for a log, on rank 0's stderr.

    What the user should see in any case. Not one of Python's: importing DOLFINx 0.9 sends those into a log, too.
    """
    logger.warning("%s", text)
    handlers = (*logger.handlers, *logging.getLogger().handlers)
    if MPI.COMM_WORLD.rank == 0 and all(isinstance(handler, logging.NullHandler) for handler in handlers):
        sys.stderr.write(f"relax: warning: {text}\n")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log how long a block took on this rank, at level DEBUG. No barrier: the time of a rank is its own."""
    start = time.perf_counter()
    yield
    logger.debug("%s: %.3f s", what, time.perf_counter() - start)


class LongRun:
    """Says every ten seconds how far a loop has come, at level INFO; nothing of a short one. No barrier.

    Args:
        what: the unit of work, in the plural.
        total: how many there are.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total

    def __enter__(self) -> LongRun:
        self._start = self._said = time.perf_counter()
        return self

    def reached(self, n: int) -> None:
        """n of them are done."""
        now = time.perf_counter()
        if now - self._said > _QUIET and 0 < n < self._total:
            self._said = now
            took = now - self._start
            left = took / n * (self._total - n)
            logger.info("%s: %d of %d, %.0f s, about %.0f s left", self._what, n, self._total, took, left)

    def __exit__(self, *_: Any) -> None:
        pass
