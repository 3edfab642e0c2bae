"""Losses and gradients of paths that teams share: sums that are the same on each rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.types import Array
from relax.errors import BadInput
from relax.train.aeqprop.shares import Shares


class Everyones(torch.autograd.Function):
    """Parameters as they are, whose gradients are summed over the teams: all of them at once, in one order."""

    @staticmethod
    def forward(ctx: Any, shares: Shares, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.shares = shares
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc,untyped-decorator,unused-ignore]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        whole = torch.from_numpy(ctx.shares.sum_of_numbers(_flat(gradients)))
        parts = whole.split([g.numel() for g in gradients])
        return None, *(part.to(g).reshape(g.shape) for part, g in zip(parts, gradients, strict=True))


class Total(torch.autograd.Function):
    """A number summed over the teams; each has the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, shares: Shares) -> Tensor:
        return torch.from_numpy(shares.sum_of_numbers(_flat([part]))).to(part).reshape(())

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy, None


def check_same(comm: MPI.Comm, tensors: Sequence[Tensor]) -> None:
    """Refuse parameters that differ between ranks. Collective.

    Raises:
        BadInput: then.
    """
    flat = _flat(tensors)
    sizes = parallel.on_each_rank(comm, flat.size)
    if len(set(sizes)) > 1 or parallel.any_rank(comm, not np.array_equal(parallel.from_rank_0(comm, flat), flat)):
        raise BadInput(
            "PathPosterior: expected the same parameters, start and sigma on each rank, got others on some; call "
            "torch.manual_seed before networks are made"
        )


def leaves(value: Tensor) -> Iterator[Tensor]:
    """The tensors that its gradient goes to."""
    seen = {None}
    nodes = [value.grad_fn]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        assert node is not None
        if (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
        nodes += [before for before, _ in node.next_functions]


def _flat(tensors: Iterable[Tensor]) -> Array:
    return np.concatenate([t.detach().double().cpu().numpy().ravel() for t in tensors])
