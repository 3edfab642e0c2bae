"""What a closure returns: outputs of a batch, the loss, and how the loss depends on the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relax.base.types import Array
from relax.errors import BadInput, NotConverged
from relax.train.half_inverse.exchange import Exchange

# Products of a Lanczos iteration: of a bound a few per cent are enough, and most losses need one or two.
_LANCZOS_STEPS = 20
# Of the largest curvature in size: what is below it is rounding.
_ROUNDING = 1e-10


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

    def __init__(self, y: Tensor, loss: Tensor, metric: Tensor | None) -> None:
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
    def of(cls, closure: Callable[[], tuple[Tensor, Tensor]] | None, metric: Tensor | None) -> Outputs:
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
        """The largest eigenvalue of C⁻¹ (d²L/dy²) C⁻ᵀ where it is positive, else 0. Collective over the teams.

        By Lanczos' method, which finds the ends of a spectrum, whatever their signs.
        """
        before, _ = exchange.samples_before(*self.y.shape)
        first = before * self.y.shape[1]
        numbers = torch.arange(first, first + self.y.numel(), device=self.y.device, dtype=torch.float64)
        # Has a part along every direction, and is the same in each run.
        v = (1.0 + numbers.sin()).reshape(self.y.shape)
        basis: list[Tensor] = []
        diagonal: list[float] = []
        sides = [self._dot(exchange, v, v) ** 0.5]
        while len(basis) < _LANCZOS_STEPS and sides[-1] > _ROUNDING * max(
            [*map(abs, diagonal), *sides[1:]], default=0.0
        ):
            basis.append(v / sides[-1])
            with exchange.together():
                v = self._curved(basis[-1])
            diagonal.append(self._dot(exchange, basis[-1], v))
            # Against all before, twice: in exact arithmetic two would do.
            for _ in range(2):
                parts = exchange.sum(np.array([float((old * v).sum()) for old in basis]))
                v = v - sum(part * old for part, old in zip(parts, basis, strict=True))
            sides.append(self._dot(exchange, v, v) ** 0.5)
        if not np.all(np.isfinite([*diagonal, *sides])):
            raise NotConverged("HalfInverse: the curvature of the loss in y, which cap goes by, is not finite")
        curvatures = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(sides[1:-1], 1) + np.diag(sides[1:-1], -1))
        return float(curvatures[-1]) if curvatures[-1] > _ROUNDING * np.abs(curvatures).max() else 0.0

    @staticmethod
    def _dot(exchange: Exchange, one: Tensor, other: Tensor) -> float:
        return float(exchange.sum(np.array([float((one * other).sum())]))[0])

    def _curved(self, v: Tensor) -> Tensor:
        """C⁻¹ (d²L/dy²) C⁻ᵀ v; zero for a loss that is linear in y."""
        if not self._slope.requires_grad:
            return torch.zeros_like(v)
        (pushed,) = torch.autograd.grad(self._slope, self.y, v.to(self._slope), retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if pushed is None else self._dual(pushed).detach().double()


def _complaint(y: Any, loss: Any) -> str | None:
    """The complaint about what a closure returned, if any."""
    if not isinstance(y, torch.Tensor) or not isinstance(loss, torch.Tensor):
        return f"expected tensors (y, loss) from the closure, got {type(y).__name__} and {type(loss).__name__}"
    if y.ndim == 2 and len(y) == 0:
        return f"expected samples, got outputs of shape {tuple(y.shape)}; with teams each needs at least one in a batch"
    if y.ndim != 2 or y.numel() == 0:
        return f"expected outputs y of shape (batch, outputs), got {tuple(y.shape)}; y.flatten(1) makes rows of samples"
    if y.is_complex() or not y.is_floating_point():
        return f"expected real outputs, got {y.dtype}; relax.layer.as_real makes pairs of complex ones"
    if not y.requires_grad:
        return (
            "expected outputs y with a graph back to the parameters, got none; was the closure run without gradients?"
        )
    if y.retains_grad:
        return "expected outputs without retain_grad(): y is swept through many times at once"
    if loss.numel() != 1:
        return f"expected a scalar loss, got shape {tuple(loss.shape)}; try loss.sum()"
    if not loss.requires_grad:
        return "expected a loss that is computed from y, got one without a graph"
    return None


def as_metric(metric: Any) -> Tensor | None:
    """A metric of the outputs as a float64 tensor; a sparse matrix of SciPy is one, too."""
    if metric is None:
        return None
    try:
        return torch.as_tensor(metric.toarray() if hasattr(metric, "toarray") else metric).to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"HalfInverse: expected a metric made of numbers, got {type(metric).__name__}") from error


def _basis(metric: Tensor | None, y: Tensor) -> Tensor:
    """A lower triangular factor of the metric, (outputs, outputs)."""
    o = y.shape[1]
    if metric is None:
        return torch.eye(o, dtype=torch.float64, device=y.device)
    M = metric.to(y.device)
    if M.shape == (o,) and bool((M > 0.0).all()) and bool(M.isfinite().all()):
        return torch.diag(M.sqrt())
    if M.shape == (o, o) and torch.allclose(M, M.T):
        C, info = torch.linalg.cholesky_ex(M)
        if int(info) == 0 and bool(C.isfinite().all()):
            return C
    raise BadInput(
        f"HalfInverse: expected a metric of shape ({o},) or ({o}, {o}), symmetric positive definite, got one of shape "
        f"{tuple(M.shape)}"
    )
