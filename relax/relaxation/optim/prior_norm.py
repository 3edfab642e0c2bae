"""The norm of a prior in place of the Euclidean one: of springs, gradients and noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.base import Prior, check_prior


class Source(Protocol):
    """Where noise comes from."""

    def add_(self, tensors: list[Tensor], scale: float) -> None:
        """tensors += scale times a random vector."""


class PriorNorm:
    """|v|²_P with P = C⁻¹ of a prior N(., C) on the last axis of each parameter. Collective, as the prior is.

    Gradients become C times them, and noise gets the covariance C: a chain moves as the Euclidean one does in whitened
    parameters. Copies share the prior.

    Raises:
        BadInput: for what is no prior in the replicated layout.
    """

    def __init__(self, prior: Prior) -> None:
        check_prior(prior, "EntropySGD: metric")
        if prior.kind != "replicated":
            raise BadInput(f"EntropySGD: metric: expected a prior with layout='replicated', got {prior.kind!r}")
        self._prior = prior

    def __call__(self, gradients: list[Tensor]) -> list[Tensor]:
        """C times each."""
        return [self._applied(self._prior.covariance, g) for g in gradients]

    def coloured(self, noise: Source) -> Source:
        """Noise whose covariance is C, from that whose covariance is 1."""
        return _Coloured(self, noise)

    def colour(self, white: Tensor) -> Tensor:
        """L times it, C = L Lᵀ."""
        prior = self._prior
        return self._applied(lambda xi: prior.color(xi) - prior.mean, white)

    def _applied(self, function: Callable[[Array], Array], tensor: Tensor) -> Tensor:
        size = self._prior.size
        if tensor.shape[-1:] != (size,):
            raise BadInput(f"EntropySGD: metric: expected parameters (..., {size}), got one of {tuple(tensor.shape)}")
        return torch.from_numpy(function(tensor.detach().double().cpu().numpy())).to(tensor)

    def __deepcopy__(self, memo: dict[int, object]) -> PriorNorm:
        """The prior is of all copies. Local."""
        return self


class _Coloured:
    def __init__(self, metric: PriorNorm, noise: Source) -> None:
        self._metric, self._noise = metric, noise

    def add_(self, tensors: list[Tensor], scale: float) -> None:
        """tensors += scale N(0, C)."""
        white = [torch.zeros_like(tensor) for tensor in tensors]
        self._noise.add_(white, scale)
        torch._foreach_add_(tensors, [self._metric.colour(xi) for xi in white])
