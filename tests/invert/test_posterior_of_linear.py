"""The posterior of a linear map with Gaussian noise, against its formula."""

from __future__ import annotations

import numpy as np
import pytest
from contract import close
from dolfinx import fem

from relax import IdentityPrior, SmoothnessPrior, meshes
from relax.invert.posterior import GaussianPosterior


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", ["identity", "smooth"])
def test_mean_and_covariance(kind):
    """Mean and covariance are (JᵀΣ⁻²J + C⁻¹)⁻¹ and what it makes of the data; draws have that covariance."""
    rng = np.random.default_rng(0)
    size = 7
    V = fem.functionspace(meshes.interval(size - 1), ("Lagrange", 1))
    prior = IdentityPrior(size, std=2.0, mean=0.5) if kind == "identity" else SmoothnessPrior(V, length=1.0, std=1.0)
    J, data, noise = rng.standard_normal((4, size)), rng.standard_normal(4), np.array([0.1, 0.2, 0.3, 0.4])
    posterior = GaussianPosterior.of_linear(prior, J, data, noise)
    covariance = np.linalg.inv(J.T @ np.diag(noise**-2) @ J + prior.precision(np.eye(size)))
    close(posterior.mean, prior.mean + covariance @ J.T @ ((data - J @ prior.mean) / noise**2), 1e-8)
    close(posterior.covariance(np.eye(size)), covariance, 1e-8)
    draws = posterior.sample(20_000, seed=1)
    assert draws.shape == (20_000, size)
    # Standard errors of a covariance of N draws are sqrt((c_ii c_jj + c_ij²)/N).
    sizes = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / 20_000)
    assert (np.abs(np.cov(draws.T) - covariance) < 5.0 * sizes).all()
    prior.close()


def test_deviations_far_below_the_priors():
    """What data say to 1e-9 of the prior's width is no difference of numbers near 1."""
    J = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, -1.0]])
    posterior = GaussianPosterior.of_linear(IdentityPrior(2, std=1.0), J, np.zeros(3), 1e-9)
    close(posterior.covariance(np.eye(2)) * 1e18, np.linalg.inv(J.T @ J), 1e-8)
    assert 0.5e-9 < posterior.sample(200).std() < 2e-9
