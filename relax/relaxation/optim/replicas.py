"""One replica of a model on each rank: their weights meet once in ``inner_steps`` gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.start import one_torch_thread_per_rank
from relax.errors import BadInput
from relax.relaxation.optim.base import Closure, RelaxationOptimizer
from relax.relaxation.optim.chain import local_means
from relax.relaxation.optim.noise import Noise, derived_seed, fresh_seed
from relax.relaxation.optim.schedules import Scheduled
from relax.relaxation.optim.step import Motion, Step, as_real, chosen, descend, descend_from_start, one_step, velocities

one_torch_thread_per_rank()


class Replicas(RelaxationOptimizer):
    """One replica per rank, all of the same size. Abstract. Collective, to make and to step.

    Args:
        params: of this rank's replica.
        comm: the ranks; ``MPI.COMM_WORLD`` by default.
        same_start: give every replica rank 0's weights first.
        settings: what ``RelaxationOptimizer`` takes.

    Raises:
        BadInput: on every rank, for a setting out of its range, or replicas with different numbers of weights.
    """

    def __init__(self, params: Any, *, comm: MPI.Comm | None, same_start: bool, **settings: Any) -> None:
        self.comm = MPI.COMM_WORLD if comm is None else comm
        parallel.check_comm(self.comm)
        with parallel.together(self.comm):
            super().__init__(params, **settings)
        weights = self._weights()
        sizes = parallel.on_each_rank(self.comm, [tuple(w.shape) for w in weights])
        if any(other != sizes[0] for other in sizes):
            counts = [sum(math.prod(shape) for shape in shapes) for shapes in sizes]
            raise BadInput(
                f"{type(self).__name__}: expected the same parameters on each rank, got other shapes; numbers of "
                f"weights by rank: {counts}"
            )
        if same_start and self.comm.size > 1 and weights:
            flat = np.concatenate([w.detach().reshape(-1).to("cpu", torch.float64).numpy() for w in weights])
            told = torch.from_numpy(parallel.from_rank_0(self.comm, flat))
            for w, part in zip(weights, told.split([w.numel() for w in weights]), strict=True):
                w.copy_(part.view(w.shape))

    @torch.no_grad()
    def average(self) -> None:
        """Give every replica the mean of all weights: the model to keep at the end. Collective."""
        weights = self._weights()
        (means,) = mean_over_ranks(self.comm, [weights])
        for w, mean in zip(weights, means, strict=True):
            w.copy_(mean)

    def _weights(self) -> list[Tensor]:
        return [as_real(p.detach()) for group in self.param_groups for p in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "comm": self.comm}


class Parle(Replicas):
    """Entropy-SGD on one replica per rank, with springs between the replicas. Collective, to make and to step.

    Replica a runs the inner loop of :class:`EntropySGD` at its own weights x_a, to get mu_a; then

        x_a <- x_a - lr ((x_a - mu_a) + rho (x_a - mean of the mu_b))

    with momentum. All that ranks exchange in a step is one sum of the weights, and one word that says whether a closure
    has failed. With one rank and rho = 0 it is ``EntropySGD``, to the bit; with one rank and rho > 0 the elastic term
    multiplies the step by 1 + rho.

    Chaudhari, Baldassi, Zecchina, Soatto, Talwalkar, Oberman, "Parle: parallelizing stochastic gradient descent", 2017.
    The public code takes rho = 0.01 L n for n replicas, with L inner steps, exchanges weights twice per step, and keeps
    the inner velocity from step to step; here rho is as in the formula, and the inner velocity starts at zero. The
    paper's scoping is t = t_from_spring(Exponential(0.01, r, most=1.0)) and rho = Exponential(1.0, r, most=10.0), with
    r one half over the number of batches in an epoch. There is no noise by default: mini-batches bring their own.

    Each rank passes the same parameters and settings, and a closure of its own, with mini-batches of its own, that does
    not communicate over ``comm``.
    What is not listed here is explained in :mod:`relax.relaxation.optim`.

    Args:
        lr: the fraction of the way to mu_a, dimensionless. lr (1 + rho) should stay below 2.
        rho: stiffness between the replicas, dimensionless; a number or a schedule.
        inner_steps: calls of the closure in a step, and between two exchanges.
        seed: of the noise of rank 0; other ranks derive theirs from it. None takes one from rank 0's global generator.
        generator: this rank's noise, instead of a seed; ranks with equal generators have equal noise.

    Raises:
        BadInput: on every rank, for a setting out of its range, or replicas with different numbers of weights.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        *,
        t: Scheduled,
        beta: Scheduled = math.inf,
        rho: Scheduled = 1.0,
        inner_steps: int = 25,
        inner_lr: float = 0.1,
        averaging: float = 0.75,
        momentum: float = 0.0,
        inner_momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        comm: MPI.Comm | None = None,
        same_start: bool = True,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        exact_noise: bool = False,
        check_finite: bool = True,
        **of_torch: Any,
    ) -> None:
        comm = MPI.COMM_WORLD if comm is None else comm
        parallel.check_comm(comm)
        start = parallel.of_rank_0(comm, fresh_seed() if seed is None else seed)
        with parallel.together(comm):
            own = None if generator is not None and seed is None else derived_seed(start, comm.rank)
            noise = Noise(own, generator, exact_noise)
        super().__init__(
            params, of_torch=of_torch,
            comm=comm, same_start=same_start, noise=noise, check_finite=check_finite, lr=lr, t=t, beta=beta,
            rho=rho, inner_steps=inner_steps, inner_lr=inner_lr, averaging=averaging, momentum=momentum,
            inner_momentum=inner_momentum, nesterov=nesterov, weight_decay=weight_decay, maximize=maximize,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step, ``inner_steps`` calls of this rank's closure. Collective.

        What is raised, also by the closure of one rank alone, is raised on every rank.
        """
        with one_step(self, closure) as step:
            with parallel.together(self.comm):
                rhos = [part.setting("rho") for part in step.parts]
                means = local_means(step)
            centres = mean_over_ranks(self.comm, means) if any(rhos) else means
            for part, mean, centre, rho in zip(step.parts, means, centres, rhos, strict=True):
                directions = torch._foreach_sub(part.start, mean)
                if rho:
                    torch._foreach_add_(directions, torch._foreach_sub(part.start, centre), alpha=rho)
                # What had no gradient here may have moved on another rank.
                descend_from_start(self, part, directions, range(len(part.params)) if rho else None)
        return step.loss


class ElasticSGD(Replicas):
    """SGD on one replica per rank, each on a spring to the mean of all. Collective, to make and to step.

    Descent on the sum over replicas of f(x_a) + rho/2 |x_a - r|^2 with r the mean of the x_b. One step computes r, the
    only exchange of weights, and then takes ``inner_steps`` gradients with r held:

        x_a <- x_a - lr (grad f(x_a) + weight_decay x_a + rho (x_a - r))

    with momentum. On one rank it is ``torch.optim.SGD``, but for the spring to where the step began when rho > 0 and
    inner_steps > 1. Many replicas replace the average over time of Entropy-SGD by an average over space.

    Zhang, Choromanska, LeCun, "Deep learning with elastic averaging SGD", NIPS 2015, moves the centre by a fraction
    towards the mean; here, as in Chaudhari et al., "Parle", 2017, the centre is the mean. Each rank passes the same
    parameters and settings, and a closure of its own that does not communicate over ``comm``.
    What is not listed here is explained in :mod:`relax.relaxation.optim`.

    Args:
        lr: learning rate. lr times (rho + the largest curvature of f) must stay below 2.
        rho: stiffness of the springs, in units of 1/lr; a number or a schedule.
        inner_steps: calls of the closure in a step, and between two exchanges.

    Raises:
        BadInput: on every rank, for a setting out of its range, or replicas with different numbers of weights.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        *,
        rho: Scheduled = 0.1,
        inner_steps: int = 25,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        comm: MPI.Comm | None = None,
        same_start: bool = True,
        check_finite: bool = True,
        **of_torch: Any,
    ) -> None:
        super().__init__(
            params, of_torch=of_torch,
            comm=comm, same_start=same_start, check_finite=check_finite, lr=lr, rho=rho,
            inner_steps=inner_steps, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, maximize=maximize,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """One step, ``inner_steps`` calls of this rank's closure. Collective; raises as ``Parle.step``."""
        with one_step(self, closure) as step:
            centres = mean_over_ranks(self.comm, [part.start for part in step.parts])
            kept = [velocities(self, part) for part in step.parts]
            moving = [[v.clone() for v in velocity] for velocity in kept]
            with parallel.together(self.comm):
                _descend_on_springs(step, centres, moving)
            for velocity, moved in zip(kept, moving, strict=True):
                if velocity:
                    torch._foreach_copy_(velocity, moved)
        return step.loss


def _descend_on_springs(step: Step, centres: list[list[Tensor]], moving: list[list[Tensor]]) -> None:
    rhos = [part.setting("rho") for part in step.parts]
    for _ in range(step.settings["inner_steps"]):
        step.evaluate()
        for part, centre, velocity, rho in zip(step.parts, centres, moving, rhos, strict=True):
            live, forces = part.forces()
            points = chosen(part.points, live)
            if rho and live:
                springs = torch._foreach_sub(points, chosen(centre, live))
                torch._foreach_mul_(springs, rho)
                torch._foreach_add_(springs, forces)
                forces = springs
            descend(points, forces, chosen(velocity, live), Motion.of(part.group))


def mean_over_ranks(comm: MPI.Comm, tensors: list[list[Tensor]]) -> list[list[Tensor]]:
    """The mean of each tensor over the ranks, by one reduction of all of them; no copies on one rank. Collective."""
    if comm.size == 1:
        return tensors
    every = [tensor for some in tensors for tensor in some]
    wide = any(tensor.dtype == torch.float64 for tensor in every)
    dtype = torch.float64 if wide else torch.float32
    pieces = [tensor.detach().reshape(-1).to("cpu", dtype) for tensor in every]
    flat = torch.cat(pieces) if pieces else torch.empty(0, dtype=dtype)
    parallel.sum_in_place(comm, flat.numpy())
    flat /= comm.size
    parts = iter(flat.split([piece.numel() for piece in pieces]))
    return [[next(parts).view(tensor.shape).to(tensor.device, tensor.dtype) for tensor in some] for some in tensors]
