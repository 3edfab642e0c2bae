"""Descent on the local entropy, and on its noiseless limit, the Moreau envelope."""

from __future__ import annotations

from typing import Any

import torch

from relax.invert.priors.base import Prior
from relax.relaxation.optim.base import Closure, RelaxationOptimizer
from relax.relaxation.optim.chain import step_to_means
from relax.relaxation.optim.noise import Noise
from relax.relaxation.optim.prior_norm import PriorNorm
from relax.relaxation.optim.schedules import Scheduled


class EntropySGD(RelaxationOptimizer):
    """Gradient descent on the local entropy u(x, t), by a Langevin chain at every step.

    u_t = -1/2 |grad u|^2 + 1/(2 beta) Lap u, u(., 0) = f, has grad u(x, t) = (x - E y)/t with y distributed as
    exp(-beta (f(y) + |y - x|^2/(2t))). One step, from y = mu = x, calls the closure ``inner_steps`` times, each time at
    the present y and as a rule with a new mini-batch:

        y  <- y - inner_lr (grad f(y) + weight_decay y + (y - x)/t) + sqrt(2 inner_lr/beta) N(0, I)
        mu <- averaging mu + (1 - averaging) y

    and then x <- x - lr (x - mu), with momentum. So ``lr`` is a fraction of the way to mu, 1 the whole of it, and does
    not contain 1/t: scoping and a learning-rate schedule do not work against each other.

    Chaudhari, Choromanska, Soatto, LeCun, Baldassi, Borgs, Chayes, Sagun, Zecchina, "Entropy-SGD: Biasing gradient
    descent into wide valleys", ICLR 2017; Chaudhari, Oberman, Osher, Soatto, Carlier, "Deep relaxation: partial
    differential equations for optimizing deep neural networks", 2018. Where their public code departs from the paper:

    - Noise. The paper's line adds sqrt(inner_lr) eps N(0, I), the code sqrt(2 inner_lr) eps N(0, I). Here ``beta`` is
      that of the Gibbs weight; :func:`beta_from_eps` converts eps under either reading.
    - Averaging. The paper puts the weight 0.75 on the new y, the code on the old mu. Here it is on the old mu, as in
      the code: about seven of the last points count, instead of fewer than two.
    - Scoping. The public Python code never advances the step that its schedule depends on. Here it advances by one
      with each ``step()``.
    - Inner momentum. The code applies it to the gradient of the loss alone and adds spring and noise after it; that
      chain has another temperature than its beta says. Here it acts on their sum, with noise scaled by
      sqrt(1 - inner_momentum), which keeps the temperature to first order in inner_lr. Its velocity starts at zero in
      each step, as in the code.
    - Outer momentum. The Lua code discards it together with the plain gradient; the Python code applies it to x - mu,
      as is done here.
    - Weight decay is part of f, in the inner loop; the Python code adds it in the outer step as well.

    With ``metric``, a prior N(., C), |y - x|^2 is (y - x)^T C^-1 (y - x): for parameters of a PDE, whose Euclidean norm
    depends on the mesh. t is then a variance in units of the prior's, and

        y <- y - inner_lr (C (grad f(y) + weight_decay y) + (y - x)/t) + sqrt(2 inner_lr/beta) N(0, C),

    which is the chain above in whitened parameters. The last axis of each parameter is a control vector in the
    replicated order: those of several starts may be the rows of one parameter. Collective then, with the same
    parameters and seed on each rank. A saved state does not hold the prior.

    Advice: choose t so that (x - mu)/t is about as large as a gradient. lr = 1 together with momentum 0.9 is a setting
    for networks with batch normalisation; plain networks diverge with it.
    What is not listed here is explained in :mod:`relax.relaxation.optim`.

    Args:
        lr: the fraction of the way to mu, dimensionless.
        inner_steps: 5 to 20 in the papers.
        inner_lr: 0.1 to 1 in the papers.
        metric: a prior, such as ``relax.SmoothnessPrior``; None for the Euclidean norm.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        *,
        t: Scheduled,
        beta: Scheduled,
        metric: Prior | None = None,
        inner_steps: int = 20,
        inner_lr: float = 0.1,
        averaging: float = 0.75,
        momentum: float = 0.0,
        inner_momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        exact_noise: bool = False,
        check_finite: bool = True,
        **of_torch: Any,
    ) -> None:
        super().__init__(
            params, of_torch=of_torch,
            noise=Noise(seed, generator, exact_noise), check_finite=check_finite, lr=lr, t=t, beta=beta,
            inner_steps=inner_steps, inner_lr=inner_lr, averaging=averaging, momentum=momentum,
            inner_momentum=inner_momentum, nesterov=nesterov, weight_decay=weight_decay, maximize=maximize,
            metric=None if metric is None else PriorNorm(metric),
        )  # fmt: skip

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As of every optimiser here; a group may have a metric of its own, or None.

        Raises:
            BadInput: for what is no prior, too.
        """
        if isinstance(param_group, dict) and not isinstance(metric := param_group.get("metric"), PriorNorm | None):
            param_group = {**param_group, "metric": PriorNorm(metric)}
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step, ``inner_steps`` calls of the closure."""
        return step_to_means(self, closure)


class ProximalPoint(RelaxationOptimizer):
    """Gradient descent on the Moreau envelope min_y f(y) + |x - y|^2/(2t): the limit beta = inf of the local entropy.

    One step descends from y = x, ``inner_steps`` times, towards prox_{tf}(x):

        y <- y - inner_lr (grad f(y) + weight_decay y + (y - x)/t)

    and then x <- x - lr (x - y), with momentum. lr = 1 is the proximal point method. The same as the noiseless
    Entropy-SGD that takes the last point instead of an average, the "H-ESGD" of the research code behind Chaudhari,
    Oberman, Osher, Soatto, Carlier 2018, whose noise of 1e-8 and averaging weight of 1e-4 are left out here.
    What is not listed here is explained in :mod:`relax.relaxation.optim`.

    Args:
        lr: the fraction of the way to y, dimensionless.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        *,
        t: Scheduled,
        inner_steps: int = 20,
        inner_lr: float = 0.25,
        momentum: float = 0.0,
        inner_momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        check_finite: bool = True,
        **of_torch: Any,
    ) -> None:
        super().__init__(
            params, of_torch=of_torch,
            check_finite=check_finite, lr=lr, t=t, inner_steps=inner_steps, inner_lr=inner_lr,
            momentum=momentum, inner_momentum=inner_momentum, nesterov=nesterov, weight_decay=weight_decay,
            maximize=maximize,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step, ``inner_steps`` calls of the closure."""
        return step_to_means(self, closure)
