"""What a closure returns: outputs of a batch, the loss, and how the loss depends on the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from relax.errors import BadInput, NotConverged
from relax.train.exchange import Exchange

Array: TypeAlias = npt.NDArray[np.float64]
Tensor: TypeAlias = torch.Tensor

# Steps of a power iteration: its value is a bound's, a few per cent are enough.
_POWER_STEPS = 12


class Outputs:
    """Outputs and loss of this team's samples, in coordinates in which the metric is the identity.

    Args:
        y: (samples, outputs), with its graph.
        loss: a scalar made of y.
        metric: M, of y; None for the identity.

    Attributes:
        y: as given.
        basis: C with C Cᵀ = M, float64.
        gradient: C⁻¹ dL/dy of each sample, (samples, outputs).
        loss: as a number.
    """

    def __init__(self, y: Tensor, loss: Tensor, metric: Any) -> None:
        self.y = y
        self._loss = loss
        self.loss = float(loss.detach())
        self.basis = _basis(metric, y)
        self._is_plain = metric is None
        with torch.enable_grad():
            self._slope = self._dual(torch.autograd.grad(loss, y, create_graph=True, allow_unused=True)[0])
        self.gradient: Array = self._slope.detach().cpu().double().numpy()
        if not math.isfinite(self.loss) or not np.all(np.isfinite(self.gradient)):
            words = "finite" if np.all(np.isfinite(self.gradient)) else "not finite"
            raise NotConverged(
                f"HalfInverse: the loss is {self.loss}, its derivative in the outputs {words}; the weights are those "
                "before this step. Try a smaller lr, a larger rcond, or cap=0.5"
            )

    @classmethod
    def of(cls, closure: Callable[[], tuple[Tensor, Tensor]] | None, metric: Any) -> Outputs:
        """Call the closure and look at what it returns."""
        if closure is None:
            raise BadInput("HalfInverse.step: expected a closure that returns (y, loss), got None")
        with torch.enable_grad():
            returned = closure()
        if not (isinstance(returned, tuple | list) and len(returned) == 2):
            raise BadInput(
                f"HalfInverse.step: expected a closure that returns (y, loss), got {type(returned).__name__}"
            )
        y, loss = returned
        error = _complaint(y, loss)
        if error is not None:
            raise BadInput(f"HalfInverse.step: {error}")
        return cls(y, loss, metric)

    def _dual(self, gradient: Tensor | None) -> Tensor:
        """C⁻¹ dL/dy."""
        if gradient is None:
            raise BadInput(
                "HalfInverse.step: expected a loss that is computed from the y that the closure returns, got one that "
                "does not depend on it; return the very tensor that the loss is made of, not a reshaped or detached one"
            )
        if self._is_plain:
            return gradient
        C = self.basis.to(gradient)
        return torch.linalg.solve_triangular(C, gradient.T, upper=False).T

    def total(self, loss: float) -> Tensor:
        """The loss as the closure's tensor, with the value of all teams."""
        return torch.full_like(self._loss.detach(), loss)

    def largest_curvature(self, exchange: Exchange) -> float:
        """The largest eigenvalue of C⁻¹ (d²L/dy²) C⁻ᵀ, by power iteration. Collective over the teams."""
        value = self._dominant(exchange, 0.0)
        # The one of the largest size is negative: that much above it the largest is the dominant one.
        return value if value >= 0.0 else value + self._dominant(exchange, -value)

    def _dominant(self, exchange: Exchange, shift: float) -> float:
        """The eigenvalue of the largest size, of the curvature and ``shift`` times the identity."""
        # Has a part along every direction, and is the same in each run.
        numbers = 1.0 + torch.arange(self.y.numel(), device=self.y.device, dtype=torch.float64).sin()
        v, value = numbers.reshape(self.y.shape), 0.0
        for _ in range(_POWER_STEPS):
            size = math.sqrt(float(exchange.sum(np.array([float((v**2).sum())]))[0]))
            if size == 0.0:
                return 0.0
            v = v / size
            with exchange.together():
                along = self._curved(v) + shift * v
            value = float(exchange.sum(np.array([float((v * along).sum())]))[0])
            v = along
        return value

    def _curved(self, v: Tensor) -> Tensor:
        """C⁻¹ (d²L/dy²) C⁻ᵀ v; zero for a loss that is linear in y."""
        if not self._slope.requires_grad:
            return torch.zeros_like(v)
        (pushed,) = torch.autograd.grad(self._slope, self.y, v.to(self._slope), retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if pushed is None else self._dual(pushed).detach().double()


def _complaint(y: Any, loss: Any) -> str | None:
    """What is wrong with what a closure returned."""
    if not isinstance(y, torch.Tensor) or not isinstance(loss, torch.Tensor):
        return f"expected tensors (y, loss) from the closure, got {type(y).__name__} and {type(loss).__name__}"
    if y.ndim == 2 and len(y) == 0:
        return f"expected samples, got outputs of shape {tuple(y.shape)}; with teams each needs at least one in a batch"
    if y.ndim != 2 or y.numel() == 0:
        return f"expected outputs y of shape (batch, outputs), got {tuple(y.shape)}; y.flatten(1) makes rows of samples"
    if y.is_complex() or not y.is_floating_point():
        return f"expected real outputs, got {y.dtype}; relax.complex_layer.as_real makes pairs of complex ones"
    if not y.requires_grad:
        return (
            "expected outputs y with a graph back to the parameters, got none; was the closure run without gradients?"
        )
    if loss.numel() != 1:
        return f"expected a scalar loss, got shape {tuple(loss.shape)}; try loss.sum()"
    if not loss.requires_grad:
        return "expected a loss that is computed from y, got one without a graph"
    return None


def _basis(metric: Any, y: Tensor) -> Tensor:
    """A lower triangular factor of the metric, (outputs, outputs)."""
    o = y.shape[1]
    if metric is None:
        return torch.eye(o, dtype=torch.float64, device=y.device)
    M = torch.as_tensor(metric, dtype=torch.float64, device=y.device)
    if M.shape == (o,) and bool((M > 0.0).all()):
        return torch.diag(M.sqrt())
    if M.shape == (o, o) and torch.allclose(M, M.T):
        C, info = torch.linalg.cholesky_ex(M)
        if int(info) == 0:
            return C
    raise BadInput(
        f"HalfInverse: expected a metric of shape ({o},) or ({o}, {o}), symmetric positive definite, got one of shape "
        f"{tuple(M.shape)}"
    )
