"""One step of an optimiser: calls of the closure, gradients, and the way back when something fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relax.errors import BadInput, NotConverged
from relax.relaxation.optim.base import Closure, RelaxationOptimizer, setting
from relax.relaxation.optim.prior_norm import Source


def as_real(tensor: Tensor) -> Tensor:
    """The same memory as real numbers: a complex weight is two of them."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class GroupStep:
    """The parameters of one group that take part in a step.

    Attributes:
        name: of the optimiser, for messages.
        group: the settings.
        params: the parameters that require gradients.
        points: their memory, which the closure reads.
        start: copies of their values at the beginning of the step.
        live: which of them have had a gradient in this step: the others stay where they are, as under ``torch.optim``.
    """

    def __init__(self, name: str, group: dict[str, Any]) -> None:
        self.name = name
        self.group = group
        self.params: list[Tensor] = [p for p in group["params"] if p.requires_grad]
        self.points: list[Tensor] = [as_real(p) for p in self.params]
        self.start: list[Tensor] = []
        self.live: set[int] = set()

    def setting(self, key: str) -> float:
        """A setting at the present step."""
        return setting(self.name, self.group, key)

    def forces(self) -> tuple[list[int], list[Tensor]]:
        """(which parameters have a gradient, grad f + weight_decay y of these). Not to be written to."""
        live = [i for i, p in enumerate(self.params) if p.grad is not None]
        self.live.update(live)
        gradients = [self.params[i].grad for i in live]
        if any(g.layout != torch.strided for g in gradients):
            raise BadInput(f"{self.name}: expected dense gradients, got a sparse one; try Embedding(sparse=False)")
        forces: list[Tensor] = [as_real(g.resolve_conj()) for g in gradients]
        if forces and self.group["maximize"]:
            forces = torch._foreach_neg(forces)
        if forces and self.group["weight_decay"]:
            forces = torch._foreach_add(forces, chosen(self.points, live), alpha=self.group["weight_decay"])
        return live, forces


class Step:
    """One step: its parts, the noise, and the closure. Made by :func:`one_step`."""

    def __init__(self, optimizer: RelaxationOptimizer, closure: Closure | None, *, moves: bool) -> None:
        self._name = type(optimizer).__name__
        self._closure = closure
        self._check_finite = optimizer.check_finite
        #: Of the optimiser: those that all groups share.
        self.settings = optimizer.param_groups[0]
        self.noise = optimizer.noise
        self._noise_before = optimizer.noise.state()
        self.calls = 0
        self.loss: Any = None
        parts = [GroupStep(self._name, group) for group in optimizer.param_groups]
        self.parts = [part for part in parts if part.params]
        for part in self.parts if moves else ():
            part.start = [point.clone() for point in part.points]

    def evaluate(self) -> Any:
        """Call the closure; ``loss`` keeps what the first call gave."""
        if not callable(self._closure):
            why = "; a step takes several gradients, at other weights than these" if self._closure is None else ""
            raise BadInput(
                f"{self._name}.step: expected a closure, which zeroes the gradients, computes the loss, calls backward "
                f"and returns the loss, got {self._closure!r:.80}{why}; write optimizer.step(closure)"
            )
        with torch.enable_grad():
            loss = self._closure()
        self.calls += 1
        if loss is None:
            raise BadInput(f"{self._name}.step: expected a closure that returns the loss, got None")
        if self._check_finite:
            value = self._number(loss)
            if not math.isfinite(value):
                raise NotConverged(
                    f"{self._name}: the loss is {value} at call {self.calls} of the closure in one step; the weights "
                    "are those before this step. Try smaller learning rates, for HamiltonJacobi a smaller t, or "
                    "check_finite=False to go on"
                )
        if self.calls == 1:
            self.loss = loss
        return loss

    def evaluated(self) -> None:
        """Call the closure, or, without one, take the gradients that ``loss.backward()`` has left."""
        if self._closure is not None:
            self.evaluate()
            return
        gradients = [p.grad for part in self.parts for p in part.params if p.grad is not None]
        if not gradients:
            raise BadInput(
                f"{self._name}.step: expected gradients, from loss.backward() or a closure that calls it, got none"
            )
        # A sparse one is refused further on.
        if self._check_finite and not all(g.is_sparse or bool(torch.isfinite(g).all()) for g in gradients):
            raise NotConverged(
                f"{self._name}: a gradient is NaN or infinite; the weights are those before this step. Try a smaller "
                "learning rate, or check_finite=False to go on"
            )

    def _number(self, loss: Any) -> float:
        """A loss as a number; a complex one is no loss."""
        given = loss.detach() if isinstance(loss, torch.Tensor) else loss
        try:
            return float(given)
        except (TypeError, ValueError, RuntimeError):
            kind = f"shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else repr(given)
            raise BadInput(f"{self._name}.step: expected a closure that returns one number, got {kind:.80}") from None

    def undo(self) -> None:
        """Back to the weights and the noise of the beginning."""
        for part in self.parts:
            if part.start:
                torch._foreach_copy_(part.points, part.start)
        self.noise.restore(self._noise_before)


@contextmanager
def one_step(optimizer: RelaxationOptimizer, closure: Closure | None, *, moves: bool = True) -> Iterator[Step]:
    """A step that counts when it comes to its end, and else leaves weights and noise as they were.

    Args:
        optimizer: whose step it is.
        closure: the user's.
        moves: whether weights are written to before the last call of the closure.
    """
    step = Step(optimizer, closure, moves=moves)
    try:
        yield step
    except BaseException:
        step.undo()
        raise
    for group in optimizer.param_groups:
        group["step"] += 1


def chosen(tensors: list[Tensor], which: Sequence[int]) -> list[Tensor]:
    """The tensors at some of the places; of no tensors, which stand for what is not needed, none."""
    return tensors if len(which) == len(tensors) or not tensors else [tensors[i] for i in which]


def velocities(optimizer: RelaxationOptimizer, part: GroupStep) -> list[Tensor]:
    """The momentum buffers of a part, which the optimiser keeps from step to step; none without momentum."""
    if not part.group["momentum"]:
        return []
    for p in part.params:
        if "velocity" not in optimizer.state[p]:
            optimizer.state[p]["velocity"] = torch.zeros_like(p)
    return [as_real(optimizer.state[p]["velocity"]) for p in part.params]


@dataclass(frozen=True)
class Motion:
    """How points descend: the learning rate and the momentum, which is Nesterov's or not."""

    lr: float
    momentum: float
    nesterov: bool

    @classmethod
    def of(cls, group: dict[str, Any]) -> Motion:
        """That of the weights of a group."""
        return cls(float(group["lr"]), group["momentum"], group["nesterov"])


def descend(points: list[Tensor], forces: list[Tensor], velocity: list[Tensor], motion: Motion) -> None:
    """points -= lr v with v = momentum v + forces; with Nesterov's momentum, points -= lr (forces + momentum v).

    The formulas of ``torch.optim.SGD`` with dampening 0.
    """
    if not points:
        return
    if motion.momentum:
        torch._foreach_mul_(velocity, motion.momentum)
        torch._foreach_add_(velocity, forces)
        forces = torch._foreach_add(forces, velocity, alpha=motion.momentum) if motion.nesterov else velocity
    torch._foreach_add_(points, forces, alpha=-motion.lr)


def descend_from_start(
    optimizer: RelaxationOptimizer, part: GroupStep, directions: list[Tensor], which: Sequence[int] | None = None
) -> None:
    """The step of the weights: from where they were at the beginning down ``directions``, with ``lr`` and momentum.

    Args:
        optimizer: whose step it is.
        part: the parameters.
        directions: one for each of them.
        which: of them move; by default those that have had a gradient.
    """
    which = sorted(part.live) if which is None else which
    torch._foreach_copy_(part.points, part.start)
    descend(
        chosen(part.points, which),
        chosen(directions, which),
        chosen(velocities(optimizer, part), which) if which else [],
        Motion.of(part.group),
    )


def descend_with_noise(
    points: list[Tensor], forces: list[Tensor], velocity: list[Tensor], motion: Motion, noise: Source, beta: float
) -> None:
    """``descend``, and noise of sqrt(2 (1 - m) lr/beta) N(0, I) per step, which then samples exp(-beta H).

    With momentum ``forces`` are written to: the noise enters them. A kick goes on for 1/(1 - m) steps: without the
    factor 1 - m the temperature would be 1/(1 - m) times too high. It is right to first order in lr (Chen, Fox,
    Guestrin 2014), and exactly what the plain step has without momentum.
    """
    size = math.sqrt(2.0 * (1.0 - motion.momentum) * motion.lr / beta)
    if motion.momentum and size:
        noise.add_(forces, size / motion.lr)
    descend(points, forces, velocity, motion)
    if not motion.momentum and size:
        noise.add_(points, size)
