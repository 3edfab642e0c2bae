"""Jobs that are asked to stop before they are done, and end with what they can be gone on from."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from relax.base.ending import Stopped

# A step is begun when so many of the last one fit in the time that is left.
_MARGIN = 2.0


class Stopping:
    """When a run is to stop: on SIGUSR1, or before its time is over. Local: the ranks agree by what they make of it.

    The time is over ``limit`` seconds from now, or at the end of the Slurm job, whose batch system says when that is.

    Args:
        limit: seconds; None for Slurm's own limit.
    """

    def __init__(self, limit: float | None = None) -> None:
        now = time.time()
        end_of_job = os.environ.get("SLURM_JOB_END_TIME", "")
        self._why = f"the time limit of {limit:g} s" if limit is not None else "the end of the Slurm job"
        self._end = now + limit if limit is not None else float(end_of_job) if end_of_job.isdecimal() else None
        self._last = now
        self._is_asked = False
        self._old: Any = None
        # Signals reach the main thread, and only there may one be waited for.
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._old = signal.signal(signal.SIGUSR1, self._asked)

    def _asked(self, *_: Any) -> None:
        self._is_asked = True

    def after_step(self) -> bool:
        """Whether to stop now, a step having ended: asked to, or without the time for another one."""
        now = time.time()
        step, self._last = now - self._last, now
        return self._is_asked or self._end is not None and now + _MARGIN * step > self._end

    def stopped(self, what: str) -> Stopped:
        """The error that ends the run, with what it has done."""
        why = "SIGUSR1" if self._is_asked else self._why
        return Stopped(f"{why}: the run ends after {what}, which is kept; the same command with --resume goes on")

    def close(self) -> None:
        """Leave the signal to others."""
        if self._listens:
            signal.signal(signal.SIGUSR1, self._old)
            self._listens = False
