"""Controllers in a loop with the physics."""

from relax.train.closed_loop.loop import ClosedLoop, LoopReport
from relax.train.closed_loop.one_step import OneStep, one_step

__all__ = ["ClosedLoop", "LoopReport", "OneStep", "one_step"]
