"""The inner loop that Entropy-SGD, the proximal point and Parle share: a chain on a spring, and its average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relax.errors import BadInput
from relax.relaxation.optim.base import Closure, RelaxationOptimizer
from relax.relaxation.optim.noise import Noise
from relax.relaxation.optim.prior_norm import PriorNorm
from relax.relaxation.optim.step import (
    GroupStep,
    Motion,
    Step,
    chosen,
    descend_from_start,
    descend_with_noise,
    one_step,
)


class Chain:
    """y <- y - eta' (grad f(y) + (y - x)/t) + sqrt(2 eta'/beta) N(0, I), and mu <- a mu + (1 - a) y, from y = mu = x.

    Momentum acts on the sum of gradient, weight decay, spring and noise: only then is exp(-beta (f + |y - x|^2/(2t)))
    what it samples. Its velocity starts at zero. With a metric of the group grad f and noise go through it, and the
    spring is of its norm.
    """

    def __init__(self, part: GroupStep) -> None:
        group = part.group
        self.part = part
        momentum = float(group["inner_momentum"])
        self.motion = Motion(float(group["inner_lr"]), momentum, bool(group["nesterov"]) and momentum > 0.0)
        self.t = part.setting("t")
        self.beta = part.setting("beta") if "beta" in group else math.inf
        self.averaging = float(group.get("averaging", 0.0))
        self.metric: PriorNorm | None = group.get("metric")
        self._check_spring()
        self.velocity = [torch.zeros_like(x) for x in part.start] if momentum else []
        #: Without averaging mu is the last point.
        self.mean = [x.clone() for x in part.start] if self.averaging else part.points

    def _check_spring(self) -> None:
        factor = self.motion.lr / self.t if self.t else math.inf
        momentum = self.motion.momentum
        limit = 2.0 * (1.0 + momentum) / (1.0 + 2.0 * momentum if self.motion.nesterov else 1.0)
        if factor >= limit:
            raise BadInput(
                f"{self.part.name}: expected inner_lr / t < {limit:.3g}, else the spring itself diverges, got "
                f"{self.motion.lr:g} / {self.t:g}; try a smaller inner_lr or a larger t, or end the scoping in time: "
                "t_from_spring(Exponential(..., most=1/inner_lr))"
            )

    def move(self, noise: Noise) -> None:
        """One step of the chain with the gradients that the closure has left."""
        live, forces = self.part.forces()
        if live:
            if self.metric is not None:
                forces = self.metric(forces)
            y, x = chosen(self.part.points, live), chosen(self.part.start, live)
            if self.motion.momentum:
                spring = torch._foreach_sub(y, x)
                torch._foreach_mul_(spring, 1.0 / self.t)
                torch._foreach_add_(spring, forces)
                forces = spring
            else:
                torch._foreach_lerp_(y, x, self.motion.lr / self.t)
            source = noise if self.metric is None else self.metric.coloured(noise)
            descend_with_noise(y, forces, chosen(self.velocity, live), self.motion, source, self.beta)
        if self.averaging:
            torch._foreach_lerp_(self.mean, self.part.points, 1.0 - self.averaging)


def local_means(step: Step) -> list[list[Tensor]]:
    """mu of each part after ``inner_steps`` calls of the closure; the weights are left at the end of the chain."""
    chains = [Chain(part) for part in step.parts]
    for _ in range(step.settings["inner_steps"]):
        step.evaluate()
        for chain in chains:
            chain.move(step.noise)
    return [chain.mean for chain in chains]


def step_to_means(optimizer: RelaxationOptimizer, closure: Closure | None) -> Any:
    """x <- x - lr (x - mu), with momentum, of the parameters that had a gradient; what the first call gave."""
    with one_step(optimizer, closure) as step:
        for part, mean in zip(step.parts, local_means(step), strict=True):
            descend_from_start(optimizer, part, torch._foreach_sub(part.start, mean))
    return step.loss
