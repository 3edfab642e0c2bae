"""Descent on the loss smoothed by the heat equation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relax.relaxation.optim.base import Closure, RelaxationOptimizer
from relax.relaxation.optim.noise import Noise
from relax.relaxation.optim.schedules import Scheduled
from relax.relaxation.optim.step import Step, chosen, descend_from_start, one_step


class HeatSmoothing(RelaxationOptimizer):
    """Gradient descent on v(x, t) = E f(x + sqrt(t/beta) Z), with Z normal.

    v solves the heat equation v_t = 1/(2 beta) Lap v, v(., 0) = f.

    One step averages the gradient over ``samples`` calls of the closure, each at its own x + sqrt(t/beta) Z, and then
    moves x <- x - lr (average), with momentum. The average has the mean grad v(x, t), whatever f is. t/beta alone
    counts, in units of squared weights; both are there so that one setting serves every optimiser of the package. With
    t = 0 or beta = inf and one sample it is ``torch.optim.SGD``.

    The "HEAT" of the research code behind Chaudhari, Oberman, Osher, Soatto, Carlier 2018 averages a Langevin chain on
    a stiff spring instead. Its points are distributed as exp(-beta (f(y) + |y - x|^2/(2t))), which is the Gaussian of
    the heat equation in the limit t -> 0 only, and they are correlated. Here they are independent and exact.
    What is not listed here is explained in :mod:`relax.relaxation.optim`.

    Args:
        lr: learning rate.
        samples: calls of the closure in a step.
        antithetic: use each Z with both signs: no noise in the gradient of a quadratic on a fixed batch.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        *,
        t: Scheduled,
        beta: Scheduled,
        samples: int = 20,
        antithetic: bool = False,
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
            noise=Noise(seed, generator, exact_noise), check_finite=check_finite, lr=lr, t=t, beta=beta,
            samples=samples, antithetic=antithetic, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay,
            maximize=maximize,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step, ``samples`` calls of the closure.

        Returns:
            The mean of what they gave, an estimate of the smoothed loss v(x, t): no call is at the weights themselves.
        """
        with one_step(self, closure) as step:
            loss, gradients = _averages(step)
            for part, gradient in zip(step.parts, gradients, strict=True):
                descend_from_start(self, part, gradient)
        return loss


def _averages(step: Step) -> tuple[Any, list[list[Tensor]]]:
    """(mean loss, mean gradients of each part)."""
    samples, antithetic = step.settings["samples"], step.settings["antithetic"]
    widths = [math.sqrt(part.setting("t") / part.setting("beta")) for part in step.parts]
    sums = [[torch.zeros_like(x) for x in part.start] for part in step.parts]
    loss: Any = 0.0
    for sample in range(samples):
        for part, width in zip(step.parts, widths, strict=True):
            if antithetic and sample % 2:
                torch._foreach_lerp_(part.points, part.start, 2.0)
            else:
                torch._foreach_copy_(part.points, part.start)
                if width:
                    step.noise.add_(part.points, width)
        value = step.evaluate()
        loss = loss + (value.detach() if isinstance(value, torch.Tensor) else value) / samples
        for part, total in zip(step.parts, sums, strict=True):
            live, forces = part.forces()
            if live:
                torch._foreach_add_(chosen(total, live), forces, alpha=1.0 / samples)
    return loss, sums
