"""What runs of all kinds share: the folder, the clock, the words, the summary at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from relax.base import parallel
from relax.jobs import info, kinds, report_kinds
from relax.jobs.folder import JOB, SUMMARY, clear, inspect, write_json, write_text
from relax.jobs.progress import Progress
from relax.jobs.toml import JobFile


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        converged: whether the method reached its tolerance.
        folder: where the results are.
        summary: the content of ``summary.json``.
    """

    converged: bool
    folder: Path
    summary: dict[str, Any]


class Session:
    """One run of a job in one folder. Collective to build and to finish.

    Args:
        file: the job.
        folder: the output folder.
        comm: the ranks of the run.
        show: print progress on rank 0.
    """

    def __init__(self, file: JobFile, folder: Path, comm: MPI.Comm, *, show: bool) -> None:
        self.file = file
        self.job = file.job
        self.folder = folder
        self.comm = comm
        unit = "tolerances" if self.job.kind == "control" else "noise levels"
        self.progress = Progress(comm, self.job.method.rtol, unit=unit, show=show)
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Take the time of a block on this rank."""
        start = time.perf_counter()
        yield
        self._seconds[name] = round(time.perf_counter() - start, 3)

    def build(self, *, overwrite: bool, resume: bool = False) -> kinds.Case:
        """Build what the job describes; then, it being known to be good, clear the folder. Collective."""
        comm, folder = self.comm, self.folder
        inspect(comm, folder, overwrite=overwrite, resume=resume)
        with self.phase("build"):
            found = kinds.build(self.file, comm)
        clear(comm, folder, resume=resume)
        parallel.on_rank_0(comm, lambda: write_text(folder, JOB, self.file.text))
        self.progress.say(report_kinds.opening(self.job.pde.name, found))
        return found

    def finish(self, summary: dict[str, Any], words: str) -> Outcome:
        """Write the summary, which marks a finished run, and say how it went. Collective."""
        # Times and versions come last: what a reader looks for first is above them.
        summary = {**summary, "seconds": self._seconds, "versions": info.versions()}
        parallel.on_rank_0(self.comm, lambda: write_json(self.folder, SUMMARY, summary))
        self.progress.say(f"{words}; results in {self.folder}")
        return Outcome(bool(summary["converged"]), self.folder, summary)
