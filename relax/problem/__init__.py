"""What is solved: equations as mathematics, in space and in time, with their conditions. Nothing about how."""

from relax.problem.boundary import clamp, clamp_boundary, value_space
from relax.problem.continuation import Continuation
from relax.problem.evolution import Evolution
from relax.problem.newmark import newmark_evolution
from relax.problem.null_space import rigid_body_modes
from relax.problem.pieces import pieces
from relax.problem.point_source import PointSource
from relax.problem.problem import Problem
from relax.problem.stages import Combination
from relax.problem.substitution import Substitution
from relax.problem.theta import theta_evolution

__all__ = [
    "Combination",
    "Continuation",
    "Evolution",
    "PointSource",
    "Problem",
    "Substitution",
    "clamp",
    "clamp_boundary",
    "newmark_evolution",
    "pieces",
    "rigid_body_modes",
    "theta_evolution",
    "value_space",
]
