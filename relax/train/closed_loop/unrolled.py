"""Two flows by one backward pass through the loop unrolled, for steps that torch does itself.

The batch is taken twice: half of the rows is driven by the controller, which gives "full"; the other half by controls
as given, whose derivatives go through the controller once, for all steps together, which gives "physics". Cheap steps
are bound by the number of operations, not by rows: both flows cost little more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relax.train.closed_loop.graphs import solves

# Rows of a product of matrices depend on how many there are by rounding alone: so many times the precision.
_ROUNDING = 1e4
# What is not rounding, relative, in float32 as in float64.
_GROWN = 1e-3


class NotByRows(Exception):
    """A step or a controller that does not treat the samples of a batch one by one, or not the same way twice."""


@dataclass(frozen=True)
class Loop:
    """The loop as functions.

    Attributes:
        step: (s, c, t) -> s.
        control: s -> c, without a memory.
        loss: (t, s_t, c_{t-1}) -> ℓ_t, or None where there is none.
        steps: T.
    """

    step: Callable[[Tensor, Tensor, int], Tensor]
    control: Callable[[Tensor], Tensor]
    loss: Callable[[int, Tensor, Tensor], Tensor | None]
    steps: int


def is_by_rows(loop: Loop, s0: Tensor) -> bool:
    """Whether the first step is torch's own, and takes samples one by one: derivatives of some in others are 0."""
    B = len(s0)
    s = torch.cat([s0, s0]).requires_grad_()
    with torch.enable_grad():
        half = loop.control(s0).detach()
        c = torch.cat([half, half]).requires_grad_()
        try:
            after = loop.step(s, c, 0)
        except Exception:
            # A step for a batch of this size alone, or one that fails: it fails again where no batch is taken twice.
            return False
    if after.shape != s.shape or not after.requires_grad or solves(after):
        return False
    seed = torch.zeros_like(after)
    seed[:B] = torch.cos(torch.arange(seed[:B].numel(), dtype=seed.dtype, device=seed.device)).reshape(seed[:B].shape)
    swept = torch.autograd.grad(after, (s, c), seed, allow_unused=True, materialize_grads=True)
    return not any(bool(g[B:].any()) for g in swept)


def agree(found: tuple[float, list[list[Tensor]]], known: tuple[float, list[list[Tensor]]]) -> bool:
    """Whether two sweeps have found the same, but for what rounding may have grown to."""
    if abs(found[0] - known[0]) > _GROWN * abs(known[0]):
        return False
    for some, others in zip(found[1], known[1], strict=True):
        a, b = torch.cat([g.reshape(-1) for g in some]), torch.cat([g.reshape(-1) for g in others])
        if not bool(((a - b).abs() <= _GROWN * b.abs().max()).all()):
            return False
    return True


def sweep(
    loop: Loop, s0: Tensor, flows: Sequence[str], params: Sequence[Tensor]
) -> tuple[float, dict[str, tuple[Tensor, ...]]]:
    """J, and for "full" and "physics", or one of them, a gradient per parameter.

    Raises:
        NotByRows: when the controller does otherwise for all steps together than for each.
    """
    B, is_full, is_given = len(s0), "full" in flows, "physics" in flows
    losses, values, seen, given = [], [], [], []
    with torch.enable_grad():
        s = torch.cat([s0] * len(flows))
        for t in range(loop.steps):
            halves = []
            if is_full:
                halves.append(loop.control(s[:B]))
            if is_given:
                seen.append(s[-B:].detach())
                with torch.no_grad():
                    value = halves[0].clone() if is_full else loop.control(seen[-1])
                given.append(value.requires_grad_())
                halves.append(given[-1])
            c = torch.cat(halves) if len(halves) > 1 else halves[0]
            s = loop.step(s, c, t)
            for start in range(0, len(s), B):
                loss = loop.loss(t + 1, s[start : start + B], c[start : start + B])
                if loss is not None:
                    losses.append(loss)
                    values.append(float(loss.detach()) if start == 0 else 0.0)
        inputs = (*(params if is_full else ()), *given)
        total = torch.stack(losses).sum() if losses else s.sum() * 0.0
        swept = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        found = {"full": swept[: len(params)]} if is_full else {}
        if is_given:
            again, known = loop.control(torch.cat(seen)), torch.cat(given).detach()
            tolerance = _ROUNDING * torch.finfo(known.dtype).eps * float(known.abs().max())
            if again.shape != known.shape or not bool(((again - known).abs() <= tolerance).all()):
                raise NotByRows
            found["physics"] = torch.autograd.grad(
                again, tuple(params), torch.cat(swept[-len(given) :]), allow_unused=True, materialize_grads=True
            )
    return sum(values), found
