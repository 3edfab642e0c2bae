"""Learning by settling."""

from relax.train.aeqprop.energy import Energy
from relax.train.aeqprop.learner import Aeqprop, SettlingReport

__all__ = ["Aeqprop", "Energy", "SettlingReport"]
