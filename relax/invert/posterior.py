"""Gaussian posteriors: a mean, and draws."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.linalg

from relax.base.checks import at_least
from relax.base.types import Array
from relax.invert.priors.base import Prior


class Drawn(Protocol):
    """What is known of a vector: a mean, and draws around it. Collective, as are the methods."""

    @property
    def mean(self) -> Array:
        """(size,)."""

    def sample(self, num: int, *, seed: int = 0) -> Array:
        """Independent draws, (num, size), the same on any number of ranks."""


class GaussianPosterior:
    """N(mean, (H + C⁻¹)⁻¹) on control vectors, H as eigenpairs of Lᵀ H L = V diag(λ) Vᵀ, C = L Lᵀ of the prior.

    A draw is mean + L (I - V diag(1 - (1 + λ)^(-½)) Vᵀ) ξ, ξ white: what the data say nothing of is as in the prior
    (Bui-Thanh, Ghattas, Martin and Stadler, SIAM J. Sci. Comput. 35 (2013) A2494). For control vectors that each rank
    holds whole.

    Args:
        prior: N(., C).
        mean: (size,).
        eigenvalues: λ >= 0, (rank,).
        vectors: V, (size, rank), orthonormal columns.
    """

    def __init__(self, prior: Prior, mean: Array, eigenvalues: Array, vectors: Array) -> None:
        self.prior = prior
        self.mean = mean
        self.eigenvalues = eigenvalues
        self._vectors = vectors

    @classmethod
    def of_linear(cls, prior: Prior, J: Array, data: Array, noise: float | Array) -> GaussianPosterior:
        """That of m from data = J m + noise, J dense (num_data, size), noise independent of this standard deviation."""
        scale = np.broadcast_to(noise, np.shape(data))
        scaled = J / scale[:, None]
        white = prior.color_adjoint(scaled)
        eigenvalues, vectors = scipy.linalg.eigh(white.T @ white)
        eigenvalues = np.maximum(eigenvalues, 0.0)
        b = white.T @ ((data - J @ prior.mean) / scale)
        return cls(prior, prior.color(vectors @ ((vectors.T @ b) / (1.0 + eigenvalues))), eigenvalues, vectors)

    def covariance(self, v: Array) -> Array:
        """(H + C⁻¹)⁻¹ v for v of shape (..., size), dual to primal."""
        white = self.prior.color_adjoint(v)
        return np.asarray(
            self.prior.color(self._scaled(white, np.asarray(1.0 / (1.0 + self.eigenvalues)))) - self.prior.mean
        )

    def sample(self, num: int, *, seed: int = 0) -> Array:
        """Independent draws, (num, size)."""
        shape = (at_least(num, 0, "num"), len(self.mean))
        xi = np.random.default_rng(seed).standard_normal(shape)
        shrunk = self._scaled(xi, np.asarray((1.0 + self.eigenvalues) ** -0.5))
        return self.mean + self.prior.color(shrunk) - self.prior.mean

    def _scaled(self, white: Array, factors: Array) -> Array:
        """V diag(factors) Vᵀ on what the data tell, 1 on the rest; without a difference of numbers near 1."""
        told = white @ self._vectors
        found = (told * factors) @ self._vectors.T
        if self._vectors.shape[1] < len(self._vectors):
            found = found + white - told @ self._vectors.T
        return np.asarray(found)
