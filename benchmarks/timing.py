"""Timing shared by the benchmarks: one thread, warm, medians, ratios measured side by side."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402

from mpi4py import MPI  # noqa: E402

REPEATS = 9


def seconds(*runs: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Median seconds of each of several runs, taken in turn so that a drifting machine hits all alike.

    CPU seconds on one rank (a neighbour on the machine does not count), wall seconds on several.
    """
    clock = time.process_time if MPI.COMM_WORLD.size == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(repeats):
        for run, taken in zip(runs, times, strict=True):
            MPI.COMM_WORLD.Barrier()
            start = clock()
            run()
            taken.append(clock() - start)
    return [statistics.median(t) for t in times]


def table(title: str, rows: Sequence[tuple[str, float, float, float | None]], *, repeats: int = REPEATS) -> None:
    """Print rows of (what, milliseconds, ratio, bound) on rank 0; a bound of None is for information."""
    if MPI.COMM_WORLD.rank != 0:
        return
    print(f"\n{title} ({MPI.COMM_WORLD.size} rank{'s' if MPI.COMM_WORLD.size > 1 else ''}, median of {repeats})")
    for what, value, ratio, bound in rows:
        verdict = "" if bound is None else f"  must be <= {bound:g}  {'ok' if ratio <= bound else 'MISSED'}"
        print(f"  {what:<58}{1e3 * value:10.2f} ms{ratio:9.3f}{verdict}", flush=True)
