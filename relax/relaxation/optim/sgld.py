"""Langevin dynamics on the loss itself."""

from __future__ import annotations

from typing import Any

import torch

from relax.relaxation.optim.base import Closure, RelaxationOptimizer
from relax.relaxation.optim.noise import Noise
from relax.relaxation.optim.schedules import Scheduled
from relax.relaxation.optim.step import Motion, chosen, descend_with_noise, one_step, velocities


class SGLD(RelaxationOptimizer):
    """Stochastic gradient Langevin dynamics, x <- x - lr (grad f(x) + weight_decay x) + sqrt(2 lr/beta) N(0, I).

    For small lr and a fixed f it samples exp(-beta f). On a quadratic with eigenvalue lambda the variance is
    1/(beta lambda (1 - lr lambda/2)), exactly. With beta = inf it is ``torch.optim.SGD``.

    Welling, Teh, "Bayesian learning via stochastic gradient Langevin dynamics", ICML 2011, writes the step with lr/2
    and noise of variance lr for the posterior exp(-U): that is lr/2 here with beta = 1 and f = U. With momentum it is
    the SGHMC of Chen, Fox, Guestrin, ICML 2014: the noise, scaled by sqrt(1 - momentum), enters the velocity, and the
    temperature stays, to first order in lr.
    What is not listed here is explained in :mod:`relax.relaxation.optim`.

    Args:
        lr: learning rate, the step in time of the dynamics.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        *,
        beta: Scheduled,
        momentum: float = 0.0,
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
            noise=Noise(seed, generator, exact_noise), check_finite=check_finite, lr=lr, beta=beta,
            momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, maximize=maximize,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step, one call of the closure; without one, with the gradients of a ``loss.backward()`` before it."""
        with one_step(self, closure, moves=False) as step:
            betas = [part.setting("beta") for part in step.parts]
            step.evaluated()
            # Whatever can fail does so before the first weight moves.
            pulls = [part.forces() for part in step.parts]
            step.noise.ready(point.device for part in step.parts for point in part.points)
            for part, beta, (live, forces) in zip(step.parts, betas, pulls, strict=True):
                motion = Motion.of(part.group)
                descend_with_noise(
                    chosen(part.points, live),
                    [force.clone() for force in forces] if motion.momentum else forces,
                    chosen(velocities(self, part), live),
                    motion,
                    step.noise,
                    beta,
                )
        return step.loss
