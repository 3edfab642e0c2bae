"""A layer of continuous depth whose weights follow a stochastic equation over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from relax.base.checks import at_least, one_of, several
from relax.errors import BadInput
from relax.train.paths.posterior import PathPosterior
from relax.train.paths.walk import ESTIMATORS


class SDELayer(torch.nn.Module):
    """dh = a(W h + b) dt over a depth of 1, in which the weights w = (W, b) are a path of a :class:`PathPosterior`.

    (..., features) -> (..., features), and the log ratio of posterior and prior of the weights drawn. The prior is
    Ornstein's and Uhlenbeck's, dw = -w dt + σ dB from the w(0) of both, which is learnt; the posterior's drift is
    -w + net(w, t), with the last layer of the net zero at first: learning begins at the prior. Of data y a lower bound
    of the log evidence is

        h, log_ratio = layer(x)
        bound = log p(y | h) - log_ratio,

    log p summed over *all* the data, or a batch's scaled up to them: the weights are drawn once for all rows of x, and
    their log ratio counts once. Its mean is the divergence of posterior and prior; layers add theirs. A second call
    draws other weights.

    Random numbers are torch's, as Dropout's: after the same ``torch.manual_seed`` all ranks have the same weights, and
    may share the rows of x, not the draws; with gradients summed over ranks, each counts its part of the log ratio.
    Local. ``torch.compile`` follows it.

    Xu, Chen, Li, Duvenaud, "Infinitely deep Bayesian neural networks with stochastic differential equations", AISTATS
    2022, whose prior, σ, steps and widths are the defaults.

    Args:
        features: the length of h.
        activation: a.
        widths: of the net's hidden layers, with tanh between; a narrow first and last one keep it small, as there are
            features² + features weights.
        sigma: σ.
        steps: between 0 and 1.
        scheme: "heun" or "euler", for weights and h.
        estimator: of the log ratio, as of :class:`PathPosterior`.
        device: of parameters.
        dtype: of parameters and h.
    """

    def __init__(
        self,
        features: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        widths: Sequence[int] = (2, 64, 2),
        sigma: float = 0.2,
        steps: int = 20,
        scheme: str = "heun",
        estimator: str = "stl",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.features = at_least(features, 1, "SDELayer: features")
        widths = [at_least(n, 1, "SDELayer: widths") for n in several(widths, "whole numbers", "SDELayer: widths")]
        one_of(estimator, ESTIMATORS, "SDELayer: estimator")
        if not callable(activation):
            raise BadInput(f"SDELayer: activation: expected a function, got {activation!r:.80}")
        self.activation, self.estimator = activation, estimator
        d = features * (features + 1)
        # As torch.nn.Linear begins.
        start = torch.empty(d, device=device, dtype=dtype).uniform_(-1.0, 1.0) / math.sqrt(features)
        self.weights = PathPosterior(
            _FromPrior(d, widths, device, dtype), start=torch.nn.Parameter(start), sigma=sigma, steps=steps,
            scheme=scheme,
        )  # fmt: skip

    def forward(self, h: Tensor, samples: int | None = None) -> tuple[Tensor, Tensor]:
        """h at depth 1, and the log ratio of the weights.

        Args:
            h: (..., features).
            samples: draws of the weights, each for all of h; None for one without an axis of its own.

        Returns:
            (samples, ..., features) and (samples,); without samples (..., features) and a 0-d tensor.
        """
        start = self.weights.start
        if not isinstance(h, torch.Tensor) or h.ndim == 0 or h.shape[-1] != self.features or h.dtype != start.dtype:
            got = f"{tuple(h.shape)} of {h.dtype}" if isinstance(h, torch.Tensor) else type(h).__name__
            raise BadInput(f"SDELayer: h: expected a tensor (..., {self.features}) of {start.dtype}, got {got}")
        k = 1 if samples is None else at_least(samples, 1, "SDELayer: samples")
        steps = self.weights.steps
        noise = torch.randn(steps, k, len(start), dtype=start.dtype, device=start.device) / math.sqrt(steps)
        rows = h.reshape(1, h.numel() // self.features, self.features).expand(k, -1, -1)
        done = self.weights(noise, self.estimator, rows, self._rate)
        assert done.hidden is not None
        if samples is None:
            return done.hidden.reshape(h.shape), done.log_ratio[0]
        return done.hidden.reshape(k, *h.shape), done.log_ratio

    def _rate(self, h: Tensor, w: Tensor, t: Tensor) -> Tensor:
        """(k, n, features) with weights (k, d)."""
        matrix, shift = w.split([self.features**2, self.features], dim=1)
        return self.activation(torch.baddbmm(shift[:, None], h, matrix.view(-1, self.features, self.features)))


class _FromPrior(torch.nn.Module):
    """-w + net(w, t), the net zero at first."""

    def __init__(self, d: int, widths: Sequence[int], device: Any, dtype: torch.dtype | None) -> None:
        super().__init__()
        sizes, layers = [d + 1, *widths, d], []
        for n_in, n_out in pairwise(sizes):
            layers += [torch.nn.Linear(n_in, n_out, device=device, dtype=dtype), torch.nn.Tanh()]
        self.net = torch.nn.Sequential(*layers[:-1])
        torch.nn.init.zeros_(self.net[-1].weight)
        torch.nn.init.zeros_(self.net[-1].bias)

    def forward(self, w: Tensor, t: Tensor) -> Tensor:
        """(k, d), a time -> (k, d)."""
        correction: Tensor = self.net(torch.cat([w, t.expand(len(w), 1)], dim=1))
        return correction - w
