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
from relax.base.files import in_words, write_json
from relax.jobs import info
from relax.jobs.contents import CHECKPOINT, SUMMARY
from relax.jobs.folder import RunFolder
from relax.jobs.progress import Progress
from relax.jobs.stopping import Stopping
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

    Collective to inspect, to build and to finish.

    Attributes:
        results: where the results are in the end.
        folder: where the run writes them, once ``build`` has made it.
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
        time_limit: float | None = None,
    ) -> None:
        self.file = file
        self.job = file.job
        self.results = folder
        self.comm = comm
        self.resume = resume
        self.progress = Progress(comm, show=show)
        self.stopping = Stopping(time_limit)
        self._build = build
        self._output = RunFolder(comm, folder, inputs_of(file), overwrite=overwrite, resume=resume)
        self.folder = self._output.work
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Take the time of a block on this rank.

        Raises:
            SolveFailed: for what the disk does not take.
        """
        start = time.perf_counter()
        try:
            yield
        except OSError as error:
            with in_words(self.results):
                raise error
        self._seconds[name] = round(time.perf_counter() - start, 3)

    def inspect(self) -> None:
        """See that the output folder can be used, and hold it from now on. Collective."""
        self._output.inspect()

    def build(
        self, check: Callable[[Any], None] = lambda setting: None, fill: Callable[[Path], None] = lambda folder: None
    ) -> Any:
        """Build what the job describes and ``check`` it; make the folder, now that it is good, and ``fill`` it.

        Collective. ``fill`` puts into it what a resumed run goes on from, on rank 0.
        """
        with self.phase("build"):
            setting = self._build(self.file, self.comm)
        check(setting)
        self._output.begin(self.file.text, fill)
        return setting

    def finish(self, summary: dict[str, Any], words: str, *, keep: bool = True) -> Outcome:
        """Write the summary, let the results take their place, and say how it went. Collective.

        ``keep``: the checkpoints, since more steps may be wanted.
        """
        # Times and versions come last: what a reader looks for first is above them.
        summary = {**summary, "seconds": self._seconds, "versions": info.versions()}
        with in_words(self.results):
            parallel.on_rank_0(self.comm, lambda: write_json(self.folder, SUMMARY, summary))
        self._output.finish(() if keep else (CHECKPOINT,))
        self.progress.say(f"{words}; results in {self.results}")
        return Outcome(bool(summary["converged"]), self.results, summary)

    def close(self) -> None:
        """Let others have the folder, and leave the bar as it stands. Not collective."""
        self.progress.close()
        self.stopping.close()
        self._output.close()


def inputs_of(file: JobFile[Any]) -> list[Path]:
    """The job's file and the files that it names. Local."""

    def words(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from words(inner)

    # A name too long for a file is no file's.
    named = [file.root / word for word in words(file.job.model_dump()) if len(word) < 255 and "\0" not in word]
    return [file.path, *(path for path in named if path.is_file())]
