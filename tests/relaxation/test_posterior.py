"""Posteriors by the Hamilton–Jacobi drift, against quadrature of closed forms: moments, modes, evidence, drift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chirps
import numpy as np
import pytest
from contract import close, everyone_has, raised_everywhere
from mpi4py import MPI

import relax
from relax import meshes
from relax.errors import BadInput
from relax.relaxation import Posterior, RelaxedMisfit, relax_misfit
from relax.relaxation.box import from_unit, lattice
from relax.relaxation.misfit import relaxed_lattice

pytestmark = pytest.mark.ranks(1, 2)

COMM = MPI.COMM_WORLD
NUM = 20_000


def misfit_of(J: Callable[[np.ndarray], np.ndarray], box: Any, cells: tuple[int, ...]) -> RelaxedMisfit:
    """As relax_misfit gives it, of a J (n, d) -> (n,) that is known."""
    bounds, shape = np.array(box), tuple(n + 1 for n in cells)
    samples = J(from_unit(lattice(shape), bounds)).reshape(shape)
    unit = np.minimum(samples - samples.min(), 1.0)
    landscape = relaxed_lattice(COMM, unit, 1.0, [0.5, 1.0])
    return RelaxedMisfit(bounds, samples, 1.0, landscape, np.empty(0), np.empty(0), None, ())  # type: ignore[arg-type]


def two_modes(m: np.ndarray) -> np.ndarray:
    """35 % around -1.5, 65 % around 1, in each of one or two numbers."""
    d = m.shape[1]
    centres, widths = np.array([[-1.5, 1.0], [1.0, 0.0]])[:, :d], np.array([[0.3, 0.5], [0.4, 0.3]])[:, :d]
    gaps = ((m[:, None, :] - centres) / widths) ** 2
    return -np.log(np.exp(-0.5 * gaps.sum(-1)) @ ([0.35, 0.65] / widths.prod(1)) + 1e-300)


def quadrature(J: Callable[[np.ndarray], np.ndarray], box: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of exp(-J) on a lattice of n cells in each direction."""
    m = from_unit(lattice((n + 1,) * len(box)), np.array(box))
    weights = np.exp(-J(m))
    return m, weights / weights.sum()


@pytest.mark.parametrize("cells", [(100,), (64, 50)])
def test_moments_and_modes(cells):
    """Within three standard errors of quadrature; the same on any number of ranks."""
    box = [(-4.0, 4.0), (-3.0, 3.0)][: len(cells)]
    posterior = Posterior(misfit_of(two_modes, box, cells))
    m = posterior.sample(NUM, seed=1)
    assert m.shape == (NUM, len(cells)) and ((m >= -4.0) & (m <= 4.0)).all()
    everyone_has(m)
    nodes, weights = quadrature(two_modes, box, 400)
    mean = weights @ nodes
    variance = weights @ (nodes - mean) ** 2
    fourth = weights @ (nodes - mean) ** 4
    assert (np.abs(m.mean(0) - mean) <= 3.0 * np.sqrt(variance / NUM)).all()
    assert (np.abs(m.var(0) - variance) <= 3.0 * np.sqrt((fourth - variance**2) / NUM)).all()
    share = weights[nodes[:, 0] < -0.4].sum()
    assert (m[:, 0] < -0.4).mean() == pytest.approx(share, abs=3.0 * np.sqrt(share / NUM))
    close(posterior.sample(600, seed=5), posterior.sample(600, seed=5), 1e-12)
    assert np.abs(posterior.sample(600, seed=6) - posterior.sample(600, seed=5)).max() > 0.1


def test_a_gaussian_prior_and_the_evidence():
    """A linear problem: the posterior, its evidence and the drift at the end are known."""
    precise, mean, std, y, noise = [(-6.0, 6.0)], 0.5, 0.8, 1.3, 0.6
    posterior = Posterior(misfit_of(lambda m: 0.5 * ((m[:, 0] - y) / noise) ** 2, precise, (200,)), (mean, std))
    total = noise**2 + std**2
    evidence = noise / np.sqrt(total) * np.exp(-0.5 * (y - mean) ** 2 / total)
    assert posterior.log_evidence == pytest.approx(np.log(evidence), abs=1e-3)
    m = posterior.sample(NUM, steps=200)[:, 0]
    variance = (noise * std) ** 2 / total
    centre = (y * std**2 + mean * noise**2) / total
    assert m.mean() == pytest.approx(centre, abs=3.0 * np.sqrt(variance / NUM))
    assert m.var() == pytest.approx(variance, rel=3.0 * np.sqrt(2.0 / NUM) + 0.01)
    x = np.array([[0.2], [1.5]])
    # At the end the drift is the slope of log p, times the sides of the box squared.
    close(posterior.drift(x, 3.0), 144.0 * (centre - x) / variance, 1e-2)


def test_modes_of_a_map_by_its_misfit():
    """Samples of J by a solver, noise at which several modes weigh something."""
    noise, box = 1.0, [(0.2, 1.2)]
    data = chirps.exact(np.array([0.62])) + noise * np.random.default_rng(3).standard_normal(len(chirps.SENSORS))
    problem = chirps.chirp(meshes.interval(8))
    G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, chirps.SENSORS[:, None]))
    few: dict[str, Any] = {"times": [0.05, 0.5, 5.0], "starts": 1}
    with G, relax_misfit(G, data, box, noise=noise, num=100, **few) as found:
        m = Posterior(found).sample(NUM)[:, 0]

    def J(m: np.ndarray) -> np.ndarray:
        return 0.5 * np.sum(((chirps.exact(m) - data) / noise) ** 2, axis=-1)

    nodes, weights = quadrature(J, box, 2000)
    edges = np.linspace(0.2, 1.2, 6)
    shares = np.histogram(nodes[:, 0], edges, weights=weights)[0]
    assert (shares > 0.1).sum() >= 3
    assert np.abs(np.histogram(m, edges)[0] / NUM - shares).max() <= 0.02


def test_what_does_not_fit_is_said():
    def sharp(m: np.ndarray) -> np.ndarray:
        return 0.5 * (m[:, 0] / 0.02) ** 2

    error = raised_everywhere(BadInput, lambda: Posterior(misfit_of(sharp, [(-1.0, 1.1)], (40,))))
    assert "does not resolve" in str(error) and "num=[" in str(error)
    posterior = Posterior(misfit_of(two_modes, [(-4.0, 4.0)], (100,)))
    for call, words in (
        (lambda: Posterior(two_modes), "landscape"),
        (lambda: Posterior(misfit_of(two_modes, [(-4.0, 4.0)], (100,)), (0.0, -1.0)), "std"),
        (lambda: Posterior(misfit_of(two_modes, [(-4.0, 4.0)], (100,)), 1.0), "mean, std"),
        (lambda: Posterior(misfit_of(two_modes, [(-4.0, 4.0)], (100,)), (30.0, 2.0)), "lies in the box"),
        (lambda: posterior.drift([[0.0]], 4.0), "t: expected"),
        (lambda: posterior.drift([[9.0]], 1.0), "points of the box"),
        (lambda: posterior.sample(0), "num"),
        (lambda: posterior.sample(10, steps=1), "steps"),
    ):
        assert words in str(raised_everywhere(BadInput, call))
