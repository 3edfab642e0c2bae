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
time. ``SGLD``, which takes one gradient, does without a closure after ``loss.backward()``. Parameters without a
gradient are left alone. A step gives what the first call gave: the loss at the weights before the step. It raises
``BadInput`` without the closure that it needs, or when that returns no loss, and ``NotConverged`` when a loss is not
finite. Whatever is raised, also by the closure, the weights, the noise and the count of steps are then those before the
step.

Settings that mean the same for each optimiser that takes them; what is particular to one is in its docstring:

==================  ===============================================================================================
``params``          parameters or groups of them; a group may have its own value of every number but those that say how
                    often the closure is called, ``inner_steps``, ``iterations``, ``samples``, ``antithetic``, and
                    ``maximize``
``t``               time of the equation, so that 1/t is the stiffness of the spring; a number, or a schedule over the
                    steps such as ``t_from_spring(Exponential(1e-4, 1e-3))``
``beta``            inverse temperature in units of 1/loss; a number (inf: no noise) or a schedule
``inner_steps``     calls of the closure in a step
``inner_lr``        step of the chain, or of the descent, within a step; inner_lr/t must be below 2
``averaging``       weight of the old mu, in [0, 1); 0 makes mu the last point
``momentum``        of the step of the weights; its velocity goes on from step to step
``inner_momentum``  of the chain, or of the descent, within a step; its velocity starts at zero in each
``nesterov``        make both of these momenta Nesterov's
``weight_decay``    adds weight_decay/2 |y|^2 to f
``maximize``        ascend instead
``seed``            of the noise; None takes one from torch's global generator
``generator``       the noise itself, on the device of the parameters, instead of a seed
``exact_noise``     draw every number from torch's normal generator; without it a large tensor on a CPU gets noise of
                    the same distribution, resolved to 2^-20, from a table
``check_finite``    raise when a loss is not finite
``foreach``         as torch has it, ignored: tensors go together; so ``fused``, ``differentiable`` and
                    ``capturable`` where they ask for nothing
``comm``            the ranks; ``MPI.COMM_WORLD`` by default
``same_start``      give every replica rank 0's weights first
==================  ===============================================================================================
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
