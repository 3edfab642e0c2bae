"""Gauss–Newton for the conductivity of a square, from sixteen sensors: on any number of ranks, on any mesh."""

from __future__ import annotations

import numpy as np
import pytest
from dolfinx import mesh
from mpi4py import MPI

from relax import PointValues, ReducedMap, SmoothnessPrior, pdes
from relax.base.fem.layout import SpaceLayout
from relax.invert import gauss_newton

COMM = MPI.COMM_WORLD
LAYOUTS = ["replicated", "owned"]


def diffusion(layout, comm=COMM, n=12):
    domain = mesh.create_unit_square(comm, n, n)
    problem = pdes.poisson.diffusion(domain, source=10.0)
    x = np.linspace(0.15, 0.85, 4)
    points = np.stack([a.ravel() for a in np.meshgrid(x, x)], axis=1)
    G = ReducedMap(problem, PointValues(problem.state.function_space, points), layout=layout)
    prior = SmoothnessPrior(problem.controls[0].function_space, length=0.5, std=1.0, layout=layout)
    return G, prior


@pytest.mark.slow
@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("jacobian", ["matrix", "products"])
def test_diffusion_gives_the_same_control_on_any_number_of_ranks(layout, jacobian):
    alone, alone_prior = diffusion("replicated", MPI.COMM_SELF)
    y = alone(alone_prior.sample(11))
    sigma = 0.02 * np.abs(y).max()
    d = y + sigma * np.random.default_rng(12).standard_normal(alone.size_out)
    wanted = gauss_newton(alone, d, noise=sigma, prior=alone_prior, rtol=1e-9).raise_if_failed()

    G, prior = diffusion(layout)
    found = gauss_newton(G, d, noise=sigma, prior=prior, jacobian=jacobian, rtol=1e-9).raise_if_failed()
    here = SpaceLayout(prior.space)
    exact = wanted.value if layout == "replicated" else here.spread(wanted.value)[: here.num_owned]
    # Both stop at |g| <= 1e-9 |g0|, some 1e-7, which bounds the distance to the minimum in prior standard deviations.
    assert np.allclose(found.value, exact, rtol=0, atol=1e-6)
    assert found.history[-1]["cost"] == pytest.approx(wanted.history[-1]["cost"], rel=1e-10)
    if jacobian == "matrix":
        assert found.stats.outer == wanted.stats.outer
    for item in (alone_prior, prior, alone, G):
        item.close()


@pytest.mark.ranks(1, 2)
def test_steps_do_not_depend_on_the_mesh():
    """The metric is the prior's, so a finer mesh asks for no more work."""
    steps, products = [], []
    for n in (10, 20, 40):
        G, prior = diffusion("owned", n=n)
        d = G(prior.mean) * np.linspace(0.8, 1.3, G.size_out)
        steps.append(gauss_newton(G, d, noise=0.02, prior=prior).raise_if_failed().stats.outer)
        products.append(
            gauss_newton(G, d, noise=0.02, prior=prior, jacobian="products", cg_rtol=0.01).raise_if_failed().stats.cg
        )
        prior.close()
        G.close()
    assert max(steps) - min(steps) <= 1
    assert max(products) <= 1.25 * min(products)


@pytest.mark.ranks(1, 2)
def test_newton_on_diffusion_finds_the_same_minimum():
    G, prior = diffusion("owned")
    d = G(prior.mean) * 1.3
    found = gauss_newton(G, d, noise=0.02, prior=prior, hessian="newton", jacobian="products", rtol=1e-9)
    again = gauss_newton(G, d, noise=0.02, prior=prior, rtol=1e-9)
    assert found.converged and again.converged
    assert found.history[-1]["cost"] == pytest.approx(again.history[-1]["cost"], rel=1e-8)
    # The counts are those of one run, not of the map's life.
    assert again.stats.tangent == 0 < found.stats.tangent == 2 * found.stats.cg
    prior.close()
    G.close()
