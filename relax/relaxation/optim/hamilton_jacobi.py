"""Descent along the fixed point p = grad f(x - t p) of the inviscid Hamilton–Jacobi equation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relax.relaxation.optim.base import Closure, RelaxationOptimizer
from relax.relaxation.optim.schedules import Scheduled
from relax.relaxation.optim.step import Step, chosen, descend_from_start, one_step


class HamiltonJacobi(RelaxationOptimizer):
    """Gradient descent on u(x, t) of u_t = -1/2 |grad u|^2, u(., 0) = f, whose gradient is constant along
    characteristics: p = grad u(x, t) solves p = grad f(x - t p), an implicit gradient step.

    One step starts at p = grad f(x) and iterates ``iterations`` times, with damping:

        p <- damping p + (1 - damping) grad f(x - t p)

    and then x <- x - lr p, with momentum. It calls the closure 1 + ``iterations`` times. With t = 0 or no iterations it
    is ``torch.optim.SGD``.

    The iteration converges where every eigenvalue lambda of the Hessian has
    -1 < t lambda < (1 + damping)/(1 - damping), which is 7 for the default: beyond t lambda = -1 characteristics have
    crossed and p is not unique. A quadratic with eigenvalue lambda has p = lambda x/(1 + t lambda).

    This is the "HJ" of Chaudhari, Oberman, Osher, Soatto, Carlier, "Deep relaxation", 2018, in the form of the
    research code's final runs (damping 0.75, 4 to 10 iterations); weight decay is part of f there as here.
    What is not listed here is explained in :mod:`relax.relaxation.optim`.

    Args:
        lr: learning rate.
        t: in units of learning rate.
        iterations: of the fixed point.
        damping: weight of the old p, in [0, 1).
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        *,
        t: Scheduled,
        iterations: int = 5,
        damping: float = 0.75,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        check_finite: bool = True,
        **of_torch: Any,
    ) -> None:
        super().__init__(
            params, of_torch=of_torch,
            check_finite=check_finite, lr=lr, t=t, iterations=iterations, damping=damping, momentum=momentum,
            nesterov=nesterov, weight_decay=weight_decay, maximize=maximize,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step, 1 + ``iterations`` calls of the closure."""
        with one_step(self, closure) as step:
            slopes = _fixed_points(step)
            for part, p in zip(step.parts, slopes, strict=True):
                descend_from_start(self, part, p)
        return step.loss


def _fixed_points(step: Step) -> list[list[Tensor]]:
    """p of each part, (the number of its parameters,) tensors."""
    times = [part.setting("t") for part in step.parts]
    slopes = [[torch.zeros_like(x) for x in part.start] for part in step.parts]
    for iteration in range(1 + step.settings["iterations"]):
        for part, p, t in zip(step.parts, slopes, times, strict=True) if iteration else ():
            torch._foreach_copy_(part.points, part.start)
            torch._foreach_add_(part.points, p, alpha=-t)
        step.evaluate()
        for part, p in zip(step.parts, slopes, strict=True):
            live, forces = part.forces()
            if live:
                # With the weight 1 the first p is the force to the bit.
                torch._foreach_lerp_(chosen(p, live), forces, 1.0 - part.group["damping"] if iteration else 1.0)
    return slopes
