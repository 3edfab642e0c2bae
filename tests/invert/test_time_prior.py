"""Priors of controls with a value in each step, against the covariance of the process times that of the field."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from petsc4py import PETSc
from ufl import dx, grad, inner

import relax
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput
from relax.invert.priors import BlockPrior, IdentityPrior, SmoothnessPrior, TimePrior

COMM = MPI.COMM_WORLD
TIMES = np.array([0.1, 0.2, 0.5, 0.55])


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def space(comm=COMM, n=3):
    return fem.functionspace(mesh.create_unit_square(comm, n, n), ("Lagrange", 1))


def process_of(name, t, tau):
    if name == "ornstein_uhlenbeck":
        return np.exp(-np.abs(t[:, None] - t) / tau)
    return 1.0 + (np.minimum(t[:, None], t) - t[0]) / tau


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
@pytest.mark.parametrize("process", ["ornstein_uhlenbeck", "random_walk"])
def test_fields_in_time(process, layout):
    V, alone = space(), space(MPI.COMM_SELF)
    one = SmoothnessPrior(alone, length=0.5, std=1.3, mean=0.4)
    n = one.size
    C = np.kron(process_of(process, TIMES, 0.3), one.covariance(np.eye(n)))
    numbering = SpaceLayout(V)

    def spread(whole):
        if layout == "replicated":
            return whole
        parts = np.reshape(whole, (*np.shape(whole)[:-1], 4, n))
        return numbering.spread(parts)[..., : numbering.num_owned].reshape(*np.shape(whole)[:-1], -1)

    field = SmoothnessPrior(V, length=0.5, std=1.3, mean=0.4, layout=layout)
    prior = TimePrior(field, 4, correlation_time=0.3, times=TIMES, process=process)
    there = TimePrior(one, 4, correlation_time=0.3, times=TIMES, process=process)
    unit, m = np.eye(4 * n), there.sample(3)
    mine, gap = spread(m), m - 0.4
    assert np.allclose(prior.covariance(spread(unit)), spread(C), rtol=0, atol=1e-11)
    assert np.allclose(prior.variance(), spread(np.diag(C)), rtol=1e-11)
    assert np.allclose(prior.sample(3), mine, rtol=0, atol=1e-11)
    assert prior.cost(mine) == pytest.approx(0.5 * gap @ np.linalg.solve(C, gap), rel=1e-8)
    exact = np.linalg.solve(C, gap)
    assert np.allclose(prior.gradient(mine), spread(exact), rtol=0, atol=1e-9 * np.abs(exact).max())
    assert np.allclose(prior.precision(prior.covariance(mine)), mine, rtol=0, atol=1e-9)
    assert np.allclose(prior.whiten(prior.color(mine)), mine, rtol=0, atol=1e-10)
    assert np.allclose(prior.color(prior.color_adjoint(mine)) - prior.mean, prior.covariance(mine), rtol=0, atol=1e-10)
    prior.close()
    there.close()


def test_numbers_are_an_ornstein_uhlenbeck_process():
    """std² exp(-|t - s| / τ), exactly and in draws."""
    prior = TimePrior(IdentityPrior(1, std=0.7, mean=2.0), 6, correlation_time=0.4, dt=0.1)
    t = 0.1 * np.arange(6)
    exact = 0.49 * np.exp(-np.abs(t[:, None] - t) / 0.4)
    assert np.allclose(prior.covariance(np.eye(6)), exact, rtol=0, atol=1e-15)
    num = 4000
    draws = np.stack([prior.sample(seed) for seed in range(num)])
    spread = np.sqrt((0.49**2 + exact**2) / num)
    # 21 entries of fixed seeds: 3 standard errors each.
    assert (np.abs(np.cov(draws.T) - exact) < 3.0 * spread).all()
    assert (np.abs(draws.mean(axis=0) - 2.0) < 3.0 * 0.7 / np.sqrt(num)).all()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_a_source_in_each_step(layout):
    """The order of the control vector is that of an evolution: the minimum of dense algebra."""
    V = space()
    u, v = fem.Function(V), ufl.TestFunction(V)
    before, f, c = fem.Function(V), fem.Function(V), fem.Constant(V.mesh, 0.0)
    step = relax.Problem(
        residual=((u - before) / 0.1 * v + 0.1 * inner(grad(u), grad(v)) - (f + c) * v) * dx,
        state=u, controls=[f, c], name="heated",
    )  # fmt: skip
    evolution = relax.Evolution(step=step, previous=before, initial=0.0, num_steps=3, per_step=[f, c])
    seen = relax.AtSteps(relax.PointValues(V, [(0.4, 0.3), (0.8, 0.9)]), [1, 2, 3])

    def prior_in(kind):
        field = SmoothnessPrior(V, length=0.5, std=1.0, layout=kind)
        number = IdentityPrior(1, std=0.5, layout=kind, comm=COMM)
        options = {"correlation_time": 0.2, "dt": 0.1}
        return BlockPrior([TimePrior(field, 3, **options), TimePrior(number, 3, process="random_walk", **options)])

    whole, G = relax.ReducedMap(evolution, seen), relax.ReducedMap(evolution, seen, layout=layout)
    exact, prior = prior_in("replicated"), prior_in(layout)
    J = whole.linearize(np.zeros(whole.size_in)).matrix()
    C = exact.covariance(np.eye(whole.size_in))
    data, noise = np.linspace(-0.1, 0.2, 6), 0.02
    expected = C @ J.T @ np.linalg.solve(J @ C @ J.T + noise**2 * np.eye(6), data)
    found = relax.gauss_newton(G, data, noise=noise, prior=prior).raise_if_failed().value
    if layout == "replicated":
        assert np.allclose(found, expected, rtol=0, atol=1e-9)
    else:
        assert np.allclose(G(found), whole(expected), rtol=0, atol=1e-9)
        assert prior.cost(found) == pytest.approx(exact.cost(expected), rel=1e-8)
    prior.close()
    exact.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_steps": 0, "dt": 0.1}, "num_steps: expected a whole number of at least 1"),
        ({"dt": 0.0}, "dt: expected a finite number above 0"),
        ({"correlation_time": -1.0, "dt": 0.1}, "correlation_time: expected a finite number above 0"),
        ({}, "either dt or times, got neither"),
        ({"times": [0.1, 0.2]}, "times: expected 3 finite numbers that increase"),
        ({"times": [0.1, 0.3, 0.2]}, "times: expected 3 finite numbers that increase"),
        ({"dt": 0.1, "process": "white"}, "process: expected"),
        ({"dt": 0.1, "prior": 3.0}, "prior: expected a prior"),
    ],
)
def test_what_is_no_process(given, words):
    options = {"prior": IdentityPrior(1, std=1.0), "num_steps": 3, "correlation_time": 1.0, **given}
    with pytest.raises(BadInput, match=words):
        TimePrior(options.pop("prior"), options.pop("num_steps"), **options)
