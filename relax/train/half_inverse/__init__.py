"""Half-inverse gradients as a torch optimiser."""

from relax.train.half_inverse.optimiser import HalfInverse
from relax.train.half_inverse.settings import StepReport

__all__ = ["HalfInverse", "StepReport"]
