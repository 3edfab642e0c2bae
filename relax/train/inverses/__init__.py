"""Inverses of the physics near a point, for physical gradients: one step of an inverse problem, or an exact solve."""

from relax.train.inverses.base import MapInverse, over_teams
from relax.train.inverses.gauss_newton import gauss_newton_inverse
from relax.train.inverses.heat import heat_inverse
from relax.train.inverses.lbfgs import lbfgs_inverse
from relax.train.inverses.poisson import poisson_inverse

__all__ = [
    "MapInverse",
    "gauss_newton_inverse",
    "heat_inverse",
    "lbfgs_inverse",
    "over_teams",
    "poisson_inverse",
]
