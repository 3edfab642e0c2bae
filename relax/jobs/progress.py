"""How a run tells where it is: a bar on a terminal, plain lines in a batch log, rank 0 alone in both."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from typing import Any

from mpi4py import MPI

from relax.base.log import logger


class Progress:
    """Messages and steps of a run. No method communicates; on ranks other than 0 all do nothing.

    Args:
        comm: the ranks of the run.
        show: False for a silent run.
    """

    def __init__(self, comm: MPI.Comm, *, show: bool = True) -> None:
        self._speaks = show and comm.rank == 0
        self._rerouted: list[tuple[logging.StreamHandler[Any], Any]] = []
        self._first_gradient: float | None = None
        self._start = time.perf_counter()
        self._bar: Any = None
        self._task: Any = None
        self._done = 0.0
        if self._speaks and _on_terminal():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                TextColumn("[bold]{task.description}"), BarColumn(32), TextColumn("{task.fields[words]}"),
                TimeElapsedColumn(), refresh_per_second=2,
            )  # fmt: skip

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._speaks:
            return
        if self._task is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            self._print(text)

    def step(self, step: dict[str, Any], *, rtol: float, unit: str, atol: float | None = None) -> None:
        """One iteration has ended.

        Args:
            step: its entry in ``history.jsonl``.
            rtol: the reduction of the gradient norm at which the run ends; the bar is full there.
            unit: of the misfit, in the plural.
            atol: the gradient norm at which it ends, too, where one is given.
        """
        if not self._speaks:
            return
        gradient = float(step["gradient_norm"])
        if self._first_gradient is None:
            self._first_gradient = gradient
        words = f"misfit {step['misfit_in_noise_levels']:.3g} {unit}  |g| {gradient:.2e}"
        if self._bar is None:
            cg = f"  cg {step['cg_iterations']}" if step.get("cg_iterations") else ""
            self._print(f"step {step['step']:<3} {words}{cg}  {time.perf_counter() - self._start:.1f} s")
            return
        if self._task is None:
            self._bar.start()
            self._log_above_the_bar()
            self._task = self._bar.add_task("", total=1.0, words="")
        goal = max(rtol, (atol or 0.0) / self._first_gradient) if self._first_gradient > 0.0 else 1.0
        if 0.0 < gradient < self._first_gradient and goal < 1.0:
            self._done = max(self._done, math.log(gradient / self._first_gradient) / math.log(goal))
        self._bar.update(self._task, description=f"step {step['step']}", completed=min(self._done, 1.0), words=words)

    def _print(self, text: str) -> None:
        """A line, for as long as somebody reads: `relax run job.toml | head` is no reason to lose the run."""
        try:
            print(text, flush=True)
        except BrokenPipeError:
            self._speaks = False
            sys.stdout = open(os.devnull, "w", encoding="utf-8")

    def _log_above_the_bar(self) -> None:
        """Lines of the log (a long march says how far it is) go by way of the bar, which would be torn by them."""
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler and handler.stream is sys.__stderr__:
                # While the bar is up, sys.stderr is rich's own and prints above it.
                self._rerouted.append((handler, handler.setStream(sys.stderr)))

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._task is not None:
            self._bar.stop()
            self._task = None
        for handler, stream in self._rerouted:
            handler.setStream(stream)
        self._rerouted.clear()


def _on_terminal() -> bool:
    """Whether a person watches. Open MPI gives each rank a terminal of its own, so then mpirun's is looked at."""
    if not sys.stdout.isatty():
        return False
    if not any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")):
        return True
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/1").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False
