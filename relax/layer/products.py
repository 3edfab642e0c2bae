"""The products of a reduced map as torch functions: G, its adjoint, its tangent, and what is of second order.

Every product is an ``autograd.Function`` of its own whose vmap rule hands all directions to one block solve. Controls
travel with the products, and a linearisation point is found by its control: which transform came first does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from relax.base import parallel
from relax.base.teams import Teams, by_teams
from relax.base.types import Array
from relax.engine.batch import KnownSamples, Product
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput

# Shapes below: S sample axes, K an axis of directions, n = size_in, p = size_out.


class Call:
    """The linearisation points of one forward pass. Opaque to torch, which would take a list apart."""

    def __init__(self, G: ReducedMap, teams: Teams | None, samples: KnownSamples) -> None:
        self.G = G
        self._teams = teams
        self._samples = samples

    def solve(self, m: Tensor) -> Tensor:
        """G(m), (S, p), for m (S, n). Collective."""
        rows = self._checked(_flat(m, 1))
        values = by_teams(self._teams, len(rows), lambda mine: self._samples.solve(rows[mine]))
        return torch.from_numpy(values.reshape(*m.shape[:-1], self.G.size_out))

    def product(self, which: Product, m: Tensor, *directions: Tensor) -> Tensor:
        """A product (S, K, ·) over the samples, at points kept from the forward pass or made now. Collective."""
        rows, parts = self._checked(_flat(m, 1)), [_flat(d, 2) for d in directions]
        values = by_teams(
            self._teams, len(rows), lambda mine: self._samples.product(which, rows[mine], *(d[mine] for d in parts))
        )
        return torch.from_numpy(values.reshape(*directions[0].shape[:-1], values.shape[-1]))

    def _checked(self, m: Array) -> Array:
        """m, looked at once and sent once: what is called below trusts it."""
        if self._teams is None:
            return self.G.layout.checked(m, "control")
        return parallel.checked_on_all(self._teams.comm, m, self.G.size_in, "control")


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


def _array(tensor: Tensor) -> Array:
    if torch.jit.is_tracing() or get_proxy_mode() is not None:
        # What comes back would be a constant to the trace, or memory that nobody has written.
        raise BadInput(
            "SolutionLayer: torch records operations here (torch.func.linearize, make_fx, torch.export, "
            "torch.jit.trace), and a solve is none of its own; torch.func.jvp, vjp, jacfwd and jacrev work, "
            "torch.compile goes around the layer"
        )
    if type(tensor).__name__ == "FakeTensor":
        raise BadInput("SolutionLayer: expected a tensor with values, got a fake tensor, which has a shape alone")
    if tensor._is_zerotensor():
        # torch's stand-in for a tangent of zeros has no memory of its own: its numbers are whatever lies there.
        return np.zeros(tuple(tensor.shape))
    try:
        return tensor.detach().resolve_neg().numpy()
    except RuntimeError as error:
        raise BadInput(
            f"SolutionLayer: torch handed over a tensor without numbers to read ({error}); nested batches work in "
            "torch.func (vmap, jacrev, jacfwd)"
        ) from error


def _flat(tensor: Tensor, trailing: int) -> Array:
    """Sample axes made one; ``trailing`` axes kept."""
    array = _array(tensor)
    kept = array.shape[array.ndim - trailing :]
    return array.reshape(int(np.prod(array.shape[: array.ndim - trailing], dtype=np.int64)), *kept)


def _mapped_first(tensors: Iterable[Tensor], dims: Iterable[int | None], size: int) -> list[Tensor]:
    """The vmapped axis in front of every tensor: one more sample axis."""
    return [t.expand(size, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]


class _Product(torch.autograd.Function):
    """The vmap rule that all products share: over samples where m is mapped, over directions where it is not."""

    generate_vmap_rule = False

    @classmethod
    def apply(cls, m: Tensor, *rest: Any) -> Any:
        """As of every function of torch, and under its older vmap, that of ``is_grads_batched=True``."""
        *directions, call = rest
        tensors = [m, *directions]
        is_batched = [torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors]
        if not any(is_batched):
            return super().apply(m, *rest)
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        shown = [torch._remove_batch_dim(t, level, 1, 0) if b else t for t, b in zip(tensors, is_batched, strict=True)]
        info = SimpleNamespace(batch_size=next(len(t) for t, b in zip(shown, is_batched, strict=True) if b))
        product, dim = cls.vmap(info, (*(0 if b else None for b in is_batched), None), *shown, call)
        return torch._add_batch_dim(product, dim, level)

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], m: Tensor, *rest: Any) -> tuple[Tensor, int]:
        *directions, call = rest
        size = info.batch_size
        mapped = _mapped_first(directions, in_dims[1:-1], size)
        if in_dims[0] is None:
            # Merged into the axis of directions, next to last: (S, size * K, ·).
            product = cls.apply(m, *(t.movedim(0, -3).flatten(-3, -2) for t in mapped), call)
            return product.unflatten(-2, (size, mapped[0].shape[-2])).movedim(-3, 0), 0
        return cls.apply(*_mapped_first([m], in_dims[:1], size), *mapped, call), 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.call = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)


def _tangent(
    same: type[_Product], second: type[_Product], ctx: Any, m_dot: Tensor | None, d_dot: Tensor | None
) -> Tensor | None:
    """The tangent of a product with a direction d, (S, K, ·): the same one with d_dot, a second one along m_dot."""
    m, d = ctx.saved_tensors
    terms = [] if d_dot is None else [same.apply(m, d_dot, ctx.call)]
    if m_dot is not None:
        along = m_dot.unsqueeze(-2).expand(*d.shape[:-1], m_dot.shape[-1])
        terms.append(second.apply(_Last.apply(m, ctx.call), d, along, ctx.call))
    return sum(terms[1:], start=terms[0]) if terms else None


class Solve(_Product):
    """m (S, n) -> G(m) (S, p)."""

    @staticmethod
    def forward(m: Tensor, call: Call) -> Tensor:
        return call.solve(m)

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
        return call.product("vjp", m, dy)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        m, dy = ctx.saved_tensors
        for_m = _Hvp.apply(_Last.apply(m, ctx.call), dy, w, ctx.call).sum(-2) if ctx.needs_input_grad[0] else None
        for_dy = _Jvp.apply(m, w, ctx.call) if ctx.needs_input_grad[1] else None
        return for_m, for_dy, None

    @staticmethod
    def jvp(ctx: Any, m_dot: Tensor | None, dy_dot: Tensor | None, _: None) -> Tensor | None:
        return _tangent(_Vjp, _Hvp, ctx, m_dot, dy_dot)


class _Jvp(_Product):
    """m (S, n), dm (S, K, n) -> G'(m) dm (S, K, p)."""

    @staticmethod
    def forward(m: Tensor, dm: Tensor, call: Call) -> Tensor:
        return call.product("jvp", m, dm)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        m, dm = ctx.saved_tensors
        for_m = _Hvp.apply(_Last.apply(m, ctx.call), dy, dm, ctx.call).sum(-2) if ctx.needs_input_grad[0] else None
        for_dm = _Vjp.apply(m, dy, ctx.call) if ctx.needs_input_grad[1] else None
        return for_m, for_dm, None

    @staticmethod
    def jvp(ctx: Any, m_dot: Tensor | None, dm_dot: Tensor | None, _: None) -> Tensor | None:
        return _tangent(_Jvp, _SecondTangent, ctx, m_dot, dm_dot)


_THIRD = "SolutionLayer: expected at most two derivatives, got a third; a residual is differentiated twice here"


class _Last(_Product):
    """m -> m, where second derivatives are taken: what their derivative in m would be, relax does not have."""

    @staticmethod
    def forward(m: Tensor, call: Call) -> Tensor:
        return m.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise BadInput(_THIRD)

    jvp = backward


class _Hvp(_Product):
    """m (S, n), dy (S, K, p), dm (S, K, n) -> d/dε G'(m + ε dm)ᵀ dy (S, K, n)."""

    @staticmethod
    def forward(m: Tensor, dy: Tensor, dm: Tensor, call: Call) -> Tensor:
        return call.product("hvp", m, dy, dm)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        _refuse_third(ctx)
        m, dy, dm = ctx.saved_tensors
        for_dy = _SecondTangent.apply(m, dm, w, ctx.call) if ctx.needs_input_grad[1] else None
        for_dm = _Hvp.apply(m, dy, w, ctx.call) if ctx.needs_input_grad[2] else None
        return None, for_dy, for_dm, None

    @staticmethod
    def jvp(ctx: Any, m_dot: Tensor | None, dy_dot: Tensor | None, dm_dot: Tensor | None, _: None) -> Tensor | None:
        return _bilinear(_Hvp, ctx, dy_dot, dm_dot)


class _SecondTangent(_Product):
    """m (S, n), a (S, K, n), b (S, K, n) -> G''(m)[a, b] (S, K, p): a Hessian action for each observation.

    Only forward over forward asks for it; forward over reverse (``torch.func.hessian``) takes one action a direction.
    """

    @staticmethod
    def forward(m: Tensor, a: Tensor, b: Tensor, call: Call) -> Tensor:
        return call.product("second_tangent", m, a, b)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        _refuse_third(ctx)
        m, a, b = ctx.saved_tensors
        for_a = _Hvp.apply(m, dy, b, ctx.call) if ctx.needs_input_grad[1] else None
        for_b = _Hvp.apply(m, dy, a, ctx.call) if ctx.needs_input_grad[2] else None
        return None, for_a, for_b, None

    @staticmethod
    def jvp(ctx: Any, m_dot: Tensor | None, a_dot: Tensor | None, b_dot: Tensor | None, _: None) -> Tensor | None:
        return _bilinear(_SecondTangent, ctx, a_dot, b_dot)


def _bilinear(kind: type[_Product], ctx: Any, a_dot: Tensor | None, b_dot: Tensor | None) -> Tensor | None:
    """The tangent of a product that is linear in each of its directions."""
    m, a, b = ctx.saved_tensors
    terms = [] if a_dot is None else [kind.apply(m, a_dot, b, ctx.call)]
    terms += [] if b_dot is None else [kind.apply(m, a, b_dot, ctx.call)]
    return sum(terms[1:], start=terms[0]) if terms else None


def _refuse_third(ctx: Any) -> None:
    """Raise where the derivative in m is wanted: torch asks for all, and drops what is of no use."""
    if ctx.needs_input_grad[0] and torch._C._will_engine_execute_node(ctx.next_functions[0][0]):
        raise BadInput(_THIRD)
