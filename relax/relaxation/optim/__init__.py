"""Optimisers on relaxed losses, as ``torch.optim.Optimizer`` for any model and any closure.

One ``beta`` everywhere, with Gibbs weight exp(-beta H) and step noise sqrt(2 eta/beta); ``t`` is the time of the
Hamilton–Jacobi equation and 1/t the spring. In the words of the papers: ``t_from_spring``, ``beta_from_eps``.

=================  ================================================================================================
``EntropySGD``     descends u of u_t = -1/2 |grad u|^2 + 1/(2 beta) Lap u by a Langevin chain in each step
``ProximalPoint``  its limit beta = inf: the Moreau envelope, by gradient descent in each step
``HamiltonJacobi`` the same envelope by the fixed point p = grad f(x - t p)
``HeatSmoothing``  descends v of v_t = 1/(2 beta) Lap v: the mean gradient at points with Gaussian noise
``SGLD``           Langevin dynamics on f itself
``Parle``          Entropy-SGD on a replica per rank, with springs between replicas
``ElasticSGD``     SGD on a replica per rank, with springs to their mean
=================  ================================================================================================

Every one takes ``optimizer.step(closure)``, where the closure zeroes the gradients, computes the loss, calls
``backward`` and returns the loss; it is called as often as there are inner steps, and may take another mini-batch each
time. Parameters without a gradient are left alone.
"""

from relax.relaxation.optim.batch_norm import refresh_batch_norm
from relax.relaxation.optim.entropy_sgd import EntropySGD, ProximalPoint
from relax.relaxation.optim.hamilton_jacobi import HamiltonJacobi
from relax.relaxation.optim.heat import HeatSmoothing
from relax.relaxation.optim.replicas import ElasticSGD, Parle
from relax.relaxation.optim.schedules import (
    Constant,
    Exponential,
    Linear,
    Reciprocal,
    Scheduled,
    beta_from_eps,
    t_from_spring,
)
from relax.relaxation.optim.sgld import SGLD

__all__ = [
    "SGLD",
    "Constant",
    "ElasticSGD",
    "EntropySGD",
    "Exponential",
    "HamiltonJacobi",
    "HeatSmoothing",
    "Linear",
    "Parle",
    "ProximalPoint",
    "Reciprocal",
    "Scheduled",
    "beta_from_eps",
    "refresh_batch_norm",
    "t_from_spring",
]
