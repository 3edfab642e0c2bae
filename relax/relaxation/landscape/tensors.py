"""Relaxed landscapes of torch tensors, with derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from relax.errors import BadInput
from relax.relaxation.landscape.evaluation import Evaluation


def answered(u: Evaluation, what: str, x: torch.Tensor, t: Any) -> torch.Tensor:
    """The value, gradient or Hessian at points, of the kind of x. Collective, as is its backward.

    Raises:
        BadInput: for a time that asks for its gradient.
    """
    if isinstance(t, torch.Tensor):
        if t.requires_grad:
            raise BadInput("t: expected a number; derivatives are in x alone")
        t = t.cpu().numpy()
    points = x.reshape(-1, 1) if x.ndim == 1 and u.dim == 1 else x
    if what == "value":
        return _Value.apply(points, u, t)
    if what == "gradient":
        return _Gradient.apply(points, u, t)
    return _evaluated(u, what, points, t)


def _evaluated(u: Evaluation, what: str, x: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.as_tensor(u.shaped(what, x.detach().cpu().double().numpy(), t)).to(x)


class _AtPoints(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, *ctx.of = inputs
        ctx.save_for_backward(x)


class _Value(_AtPoints):
    @staticmethod
    def forward(x: torch.Tensor, u: Evaluation, t: Any) -> torch.Tensor:
        return _evaluated(u, "value", x, t)

    @staticmethod
    def backward(ctx: Any, *dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return dy[0][:, None] * _Gradient.apply(x, *ctx.of), None, None


class _Gradient(_AtPoints):
    @staticmethod
    def forward(x: torch.Tensor, u: Evaluation, t: Any) -> torch.Tensor:
        return _evaluated(u, "gradient", x, t)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        u, t = ctx.of
        return torch.einsum("nij,nj->ni", _evaluated(u, "hessian", x, t), dy[0]), None, None
