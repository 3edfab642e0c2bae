"""Paths of stochastic equations, split over ranks, with the same paths whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import at_least
from relax.base.types import Array
from relax.errors import BadInput

# Paths that share a stream of random numbers, and so a rank.
_BLOCK = 512


@dataclass(frozen=True)
class Estimate:
    """A mean over paths.

    Attributes:
        mean: the sample mean, of the shape of what is averaged.
        error: its standard error, the sample's standard deviation over the root of the number of paths.
    """

    mean: Array
    error: Array

    def agrees(self, expected: npt.ArrayLike, *, errors: float = 3.0) -> bool:
        """Whether every entry is within this many standard errors of what is expected. Local."""
        return bool((np.abs(self.mean - np.asarray(expected)) <= errors * self.error).all())


class Paths:
    """The paths of this rank: blocks of them, each with random numbers of its own.

    Every block belongs to one rank and its stream to the block, so that means do not depend on the number of ranks.

    Args:
        num: paths over all ranks.
        seed: of all streams.
        comm: whose ranks share the paths.
        block: how many share a stream, and so a rank.

    Attributes:
        count: paths of this rank, which may be none.
    """

    def __init__(self, num: int, seed: int, comm: MPI.Comm, block: int = _BLOCK) -> None:
        at_least(num, 1, "num")
        self._comm = comm
        self._block = block
        starts = range(0, num, block)
        streams = np.random.SeedSequence(at_least(seed, 0, "seed")).spawn(len(starts))
        self._num_blocks = len(starts)
        self._mine = range(comm.rank, self._num_blocks, comm.size)
        self._generators = [np.random.default_rng(streams[b]) for b in self._mine]
        self._sizes = [min(block, num - starts[b]) for b in self._mine]
        self._num = num
        self.count = sum(self._sizes)

    def normal(self, dim: int) -> Array:
        """Independent normal numbers of this rank's paths, (count, dim). Local."""
        drawn = [g.standard_normal((n, dim)) for g, n in zip(self._generators, self._sizes, strict=True)]
        return np.concatenate([np.empty((0, dim)), *drawn])

    def uniform(self, dim: int) -> Array:
        """Independent numbers in [0, 1), as :meth:`normal`. Local."""
        drawn = [g.random((n, dim)) for g, n in zip(self._generators, self._sizes, strict=True)]
        return np.concatenate([np.empty((0, dim)), *drawn])

    def gathered(self, values: Array) -> Array:
        """This rank's values, (count, ...), with those of all others, (num, ...), in one order. Collective."""
        whole = np.zeros((self._num, *values.shape[1:]))
        ends = np.cumsum([0, *self._sizes])
        for b, start, end in zip(self._mine, ends[:-1], ends[1:], strict=True):
            whole[b * self._block : b * self._block + end - start] = values[start:end]
        return parallel.sum_over_ranks(self._comm, whole)

    def estimate(self, values: Array) -> Estimate:
        """The mean over all paths of this rank's values, (count, ...). Collective."""
        shape = values.shape[1:]
        rows = values.reshape(self.count, int(np.prod(shape, dtype=np.int64)))
        mean = self._total(rows) / self._num
        squared = self._total((rows - mean) ** 2)
        error = np.sqrt(squared / (self._num - 1) / self._num)
        return Estimate(mean.reshape(shape), error.reshape(shape))

    def _total(self, rows: Array) -> Array:
        """Sums of blocks first, each by its rank: the same digits on any number of ranks. Collective."""
        sums = np.zeros((self._num_blocks, rows.shape[1]))
        ends = np.cumsum([0, *self._sizes])
        for b, start, end in zip(self._mine, ends[:-1], ends[1:], strict=True):
            sums[b] = rows[start:end].sum(axis=0)
        return np.asarray(parallel.sum_over_ranks(self._comm, sums).sum(axis=0))


def starting(x0: npt.ArrayLike) -> Array:
    """One starting point, (d,).

    Raises:
        BadInput: for anything else.
    """
    point = np.atleast_1d(np.asarray(x0, dtype=np.float64))
    if point.ndim != 1 or len(point) == 0 or not np.isfinite(point).all():
        raise BadInput(f"x0: expected one point of shape (d,), got {x0!r}")
    return point


def heun_step(drift: Callable[[Array, float], Array], x: Array, s: float, ds: float, kick: Array) -> Array:
    """One step of dx = drift(x, s) ds + noise, of weak order 2 for noise that does not depend on x.

    Args:
        drift: (points (n, d), time) -> (n, d).
        x: (n, d) where paths are.
        s: time.
        ds: step.
        kick: (n, d) the noise of the step.
    """
    here = drift(x, s)
    return x + 0.5 * ds * (here + drift(x + ds * here + kick, s + ds)) + kick
