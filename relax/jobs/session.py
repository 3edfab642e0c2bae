"""What runs of all kinds share: the folder, the clock, the words, the summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI

from relax.base import parallel
from relax.jobs import info
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
    """One run of a job in one folder, as ``relax.jobs.run_job`` is asked for it; ``build`` is that of its kind.

    Collective to build and to finish.
    """

    def __init__(
        self,
        file: JobFile[Any],
        folder: Path,
        comm: MPI.Comm,
        build: Callable[[JobFile[Any], MPI.Comm], Any],
        *,
        overwrite: bool,
        resume: bool,
        show: bool,
    ) -> None:
        self.file = file
        self.job = file.job
        self.folder = folder
        self.comm = comm
        self.resume = resume
        self.progress = Progress(comm, show=show)
        self._build = build
        self._overwrite = overwrite
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Take the time of a block on this rank."""
        start = time.perf_counter()
        yield
        self._seconds[name] = round(time.perf_counter() - start, 3)

    def build(self) -> Any:
        """Build what the job describes; then, it being known to be good, clear the folder. Collective."""
        inspect(self.comm, self.folder, overwrite=self._overwrite, resume=self.resume)
        with self.phase("build"):
            setting = self._build(self.file, self.comm)
        clear(self.comm, self.folder, resume=self.resume)
        parallel.on_rank_0(self.comm, lambda: write_text(self.folder, JOB, self.file.text))
        return setting

    def finish(self, summary: dict[str, Any], words: str) -> Outcome:
        """Write the summary, which marks a finished run, and say how it went. Collective."""
        # Times and versions come last: what a reader looks for first is above them.
        summary = {**summary, "seconds": self._seconds, "versions": info.versions()}
        parallel.on_rank_0(self.comm, lambda: write_json(self.folder, SUMMARY, summary))
        self.progress.say(f"{words}; results in {self.folder}")
        return Outcome(bool(summary["converged"]), self.folder, summary)
