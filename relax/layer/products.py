"""The products of a reduced map as torch functions: G, its adjoint, its tangent, and what is of second order.

Every product is an ``autograd.Function`` of its own whose vmap rule hands all directions to one block solve. Controls
travel with the products, and a linearisation point is found by its control: which transform came first does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relax.base import parallel
from relax.base.teams import Teams
from relax.base.types import Array
from relax.engine.batch import KnownSamples, Product
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput, RelaxError


class Call:
    """The linearisation points of one forward pass. Opaque to torch, which would take a list apart."""

    def __init__(self, G: ReducedMap, teams: Teams | None, samples: KnownSamples) -> None:
        self.G = G
        self._teams = teams
        self._samples = samples

    def solve(self, m: Array) -> Array:
        """(samples, size_in) -> (samples, size_out). Collective."""
        rows = self._mine(self._checked(m))
        with self._teams_together():
            values = self._samples.solve(rows)
        return self._whole(values)

    def product(self, which: Product, m: Array, *directions: Array) -> Array:
        """A product over the samples, at points kept from the forward pass or made now."""
        rows = self._mine(self._checked(m))
        parts = [self._mine(d) for d in directions]
        result: Array = np.empty(0)
        with self._teams_together():
            result = self._samples.product(which, rows, *parts)
        return self._whole(result)

    def _teams_together(self) -> AbstractContextManager[None]:
        """A block in which each team works for itself: when one fails, all raise."""
        return nullcontext() if self._teams is None else parallel.together(self._teams.comm)

    def _checked(self, m: Array) -> Array:
        """m, looked at once and sent once: what is called below trusts it."""
        if self._teams is None:
            return self.G.layout.checked(m, "control")
        comm = self._teams.comm
        return parallel.from_rank_0(comm, parallel.checked(comm, m, self.G.size_in, "control"))

    def _mine(self, rows: Array) -> Array:
        return rows if self._teams is None else rows[self._teams.mine(len(rows))]

    def _whole(self, rows: Array) -> Array:
        return rows if self._teams is None else self._teams.gather(rows)


_held: ContextVar[bool] = ContextVar("held", default=False)


@contextmanager
def points_held() -> Iterator[None]:
    """A block in which gradients are linear in their cotangents, not functions of the control as well.

    Differentiating such a gradient by its cotangent, for J v, then takes no second derivative of the physics.
    """
    before = _held.set(True)
    try:
        yield
    finally:
        _held.reset(before)


# Shapes below: S sample axes, K an axis of directions, n = size_in, p = size_out.


def _array(tensor: Tensor) -> Array:
    if tensor._is_zerotensor():
        # torch's stand-in for a tangent of zeros has no memory of its own: its numbers are whatever lies there.
        return np.zeros(tuple(tensor.shape))
    try:
        return tensor.detach().resolve_neg().numpy()
    except RuntimeError as error:
        raise BadInput(
            "SolutionLayer: torch handed over a batched tensor outside of torch.func "
            "(autograd.grad with is_grads_batched=True?); torch.func.jacrev, jacfwd and vmap work"
        ) from error


def _flat(tensor: Tensor, trailing: int) -> Array:
    """Sample axes made one; ``trailing`` axes kept."""
    array = _array(tensor)
    kept = array.shape[array.ndim - trailing :]
    return array.reshape(int(np.prod(array.shape[: array.ndim - trailing], dtype=np.int64)), *kept)


def _samples_first(tensors: tuple[Tensor, ...], dims: tuple[int | None, ...], size: int) -> list[Tensor]:
    """The vmapped axis in front of every tensor: one more sample axis."""
    return [t.expand(size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]


def _directions_merged(tensors: tuple[Tensor, ...], dims: tuple[int | None, ...], size: int) -> list[Tensor]:
    """The vmapped axis merged into the axis of directions, next to last: (S, size * K, ·)."""
    merged = []
    for t, d in zip(tensors, dims, strict=True):
        front = t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
        beside = front.movedim(0, -3)
        *samples, mapped, along, last = beside.shape
        merged.append(beside.reshape(*samples, mapped * along, last))
    return merged


def _directions_split(result: Tensor, size: int) -> Tensor:
    """The vmapped axis out of the axis of directions, in front again."""
    K = result.shape[-2] // size
    return result.reshape(*result.shape[:-2], size, K, result.shape[-1]).movedim(-3, 0)


class _Product(torch.autograd.Function):
    """The vmap rule that all products share: over samples where m is mapped, over directions where it is not."""

    generate_vmap_rule = False

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], m: Tensor, *rest: Any) -> tuple[Tensor, int]:
        *directions, call = rest
        dims = in_dims[1:-1]
        if in_dims[0] is None:
            merged = _directions_merged(tuple(directions), dims, info.batch_size)
            return _directions_split(cls.apply(m, *merged, call), info.batch_size), 0
        first = _samples_first((m, *directions), in_dims[:-1], info.batch_size)
        return cls.apply(*first, call), 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.call = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)


def _along(tangent: Tensor | None, like: Tensor) -> Tensor | None:
    """A tangent of m, (S, n), for every direction of ``like``, (S, K, ·)."""
    if tangent is None:
        return None
    return tangent.unsqueeze(-2).expand(*like.shape[:-1], tangent.shape[-1])


def _added(terms: list[Tensor]) -> Tensor | None:
    return sum(terms[1:], start=terms[0]) if terms else None


class Solve(_Product):
    """m (S, n) -> G(m) (S, p)."""

    @staticmethod
    def forward(m: Tensor, call: Call) -> Tensor:
        y = call.solve(_flat(m, 1))
        return torch.from_numpy(y.reshape(*m.shape[:-1], call.G.size_out))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (m,) = ctx.saved_tensors
        point = m.detach() if _held.get() else m
        return _Vjp.apply(point, dy.unsqueeze(-2), ctx.call).squeeze(-2), None

    @staticmethod
    def jvp(ctx: Any, dm: Tensor, _: None) -> Tensor:
        (m,) = ctx.saved_tensors
        return _Jvp.apply(m, dm.unsqueeze(-2), ctx.call).squeeze(-2)


class _Vjp(_Product):
    """m (S, n), dy (S, K, p) -> G'(m)ᵀ dy (S, K, n)."""

    @staticmethod
    def forward(m: Tensor, dy: Tensor, call: Call) -> Tensor:
        result = call.product("vjp", _flat(m, 1), _flat(dy, 2))
        return torch.from_numpy(result.reshape(*dy.shape[:-1], call.G.size_in))

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        m, dy = ctx.saved_tensors
        for_m = _Hvp.apply(m, dy, w, ctx.call).sum(-2) if ctx.needs_input_grad[0] else None
        for_dy = _Jvp.apply(m, w, ctx.call) if ctx.needs_input_grad[1] else None
        return for_m, for_dy, None

    @staticmethod
    def jvp(ctx: Any, m_dot: Tensor | None, dy_dot: Tensor | None, _: None) -> Tensor | None:
        m, dy = ctx.saved_tensors
        terms = [] if dy_dot is None else [_Vjp.apply(m, dy_dot, ctx.call)]
        along = _along(m_dot, dy)
        if along is not None:
            terms.append(_Hvp.apply(m, dy, along, ctx.call))
        return _added(terms)


class _Jvp(_Product):
    """m (S, n), dm (S, K, n) -> G'(m) dm (S, K, p)."""

    @staticmethod
    def forward(m: Tensor, dm: Tensor, call: Call) -> Tensor:
        result = call.product("jvp", _flat(m, 1), _flat(dm, 2))
        return torch.from_numpy(result.reshape(*dm.shape[:-1], call.G.size_out))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        m, dm = ctx.saved_tensors
        for_m = _Hvp.apply(m, dy, dm, ctx.call).sum(-2) if ctx.needs_input_grad[0] else None
        for_dm = _Vjp.apply(m, dy, ctx.call) if ctx.needs_input_grad[1] else None
        return for_m, for_dm, None

    @staticmethod
    def jvp(ctx: Any, m_dot: Tensor | None, dm_dot: Tensor | None, _: None) -> Tensor | None:
        m, dm = ctx.saved_tensors
        terms = [] if dm_dot is None else [_Jvp.apply(m, dm_dot, ctx.call)]
        along = _along(m_dot, dm)
        if along is not None:
            terms.append(_SecondTangent.apply(m, dm, along, ctx.call))
        return _added(terms)


class _Last(_Product):
    """A second-order product: what its derivative would be, relax does not have."""

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RelaxError(_NO_THIRD)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> Any:
        raise RelaxError(_NO_THIRD)


_NO_THIRD = "SolutionLayer: expected at most two derivatives, got a third; a residual is differentiated twice here"


class _Hvp(_Last):
    """m (S, n), dy (S, K, p), dm (S, K, n) -> d/dε G'(m + ε dm)ᵀ dy (S, K, n)."""

    @staticmethod
    def forward(m: Tensor, dy: Tensor, dm: Tensor, call: Call) -> Tensor:
        result = call.product("hvp", _flat(m, 1), _flat(dy, 2), _flat(dm, 2))
        return torch.from_numpy(result.reshape(*dm.shape))


class _SecondTangent(_Last):
    """m (S, n), a (S, K, n), b (S, K, n) -> G''(m)[a, b] (S, K, p): a Hessian action for each observation.

    Only forward over forward asks for it; forward over reverse (``torch.func.hessian``) takes one action a direction.
    """

    @staticmethod
    def forward(m: Tensor, a: Tensor, b: Tensor, call: Call) -> Tensor:
        result = call.product("second_tangent", _flat(m, 1), _flat(a, 2), _flat(b, 2))
        return torch.from_numpy(result.reshape(*a.shape[:-1], call.G.size_out))
