"""Logging: the standard ``logging`` module, rank 0 speaking, timed blocks, never a barrier."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mpi4py import MPI

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


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log how long a block took on this rank, at level DEBUG. No barrier: the time of a rank is its own."""
    start = time.perf_counter()
    yield
    logger.debug("%s: %.3f s", what, time.perf_counter() - start)
