"""Jobs that are asked to stop before they are done, and end with what they can be gone on from."""

from __future__ import annotations

import os
import time

from relax.base.sigusr1 import Ear

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
        self._limit = f"the time limit of {limit:g} s" if limit is not None else "the end of the Slurm job"
        self._end = now + limit if limit is not None else float(end_of_job) if end_of_job.isdecimal() else None
        self._last = now
        self._ear = Ear(takes=True)

    def after_step(self) -> str:
        """Why to stop now, a step having ended: asked to, or without the time for another one. Empty to go on."""
        now = time.time()
        step, self._last = now - self._last, now
        if self._ear.has_heard():
            return "SIGUSR1"
        return self._limit if self._end is not None and now + _MARGIN * step > self._end else ""

    def close(self) -> None:
        """Leave the signal to others."""
        self._ear.close()
