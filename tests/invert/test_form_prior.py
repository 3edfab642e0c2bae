"""Priors whose precision is a form, and variances, against dense algebra and plain DOLFINx."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from petsc4py import PETSc
from ufl import dS, ds, dx, grad, inner

import relax
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput
from relax.invert.priors import BlockPrior, FormPrior, IdentityPrior, SmoothnessPrior

COMM = MPI.COMM_WORLD


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def space(comm, *element, n=5):
    return fem.functionspace(mesh.create_unit_square(comm, n, n), element)


def h1(V):
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return (3.0 * inner(u, v) + 0.1 * inner(grad(u), grad(v))) * dx + 0.2 * inner(u, v) * ds


def with_jumps(V):
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return (inner(u, v) + 0.1 * inner(grad(u), grad(v))) * dx + 2.0 * inner(ufl.jump(u), ufl.jump(v)) * dS


def h_div(V):
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return (inner(u, v) + 0.1 * ufl.div(u) * ufl.div(v)) * dx


CASES = [
    pytest.param(h1, ("Lagrange", 2), id="H1"),
    pytest.param(h1, ("Lagrange", 1, (2,)), id="vector"),
    pytest.param(with_jumps, ("DG", 1), id="jumps"),
    pytest.param(h_div, ("RT", 1), id="RT"),
]


@pytest.mark.parametrize(("a", "element"), CASES)
def test_against_dense_algebra(a, element):
    V = space(COMM, *element)
    prior = FormPrior(a(V), mean=0.0 if element[0] == "RT" else 2.0)
    R = fem.assemble_matrix(fem.form(a(V))).to_dense()
    # In the order and orientation of control vectors: the columns of T are DOLFINx's basis.
    T = SpaceLayout(V).gather(np.eye(len(R))).T
    inverse = np.linalg.inv(T)
    R = inverse.T @ R @ inverse
    C = np.linalg.inv(R)
    unit = np.eye(len(R))
    assert np.allclose(prior.precision(unit), R, rtol=0, atol=1e-13 * np.abs(R).max())
    assert np.allclose(prior.covariance(unit), C, rtol=0, atol=1e-12 * np.abs(C).max())
    assert np.allclose(prior.variance(), np.diag(C), rtol=1e-10)
    L = prior.color(unit) - prior.mean
    assert np.allclose(L.T @ L, C, rtol=0, atol=1e-11 * np.abs(C).max())
    assert np.allclose(prior.color_adjoint(unit), L.T, rtol=0, atol=1e-11 * np.abs(L).max())
    m = prior.sample(3)
    assert prior.cost(m) == pytest.approx(0.5 * (m - prior.mean) @ R @ (m - prior.mean), rel=1e-12)
    assert np.allclose(prior.whiten(prior.color(m)), m, rtol=0, atol=1e-10)
    assert np.allclose(prior.gradient(m), R @ (m - prior.mean), rtol=0, atol=1e-12 * np.abs(R).max())
    prior.close()


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize(("a", "element"), CASES)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_numbers_do_not_depend_on_ranks_or_layout(a, element, layout):
    V, alone = space(COMM, *element), space(MPI.COMM_SELF, *element)
    numbering = SpaceLayout(V)

    def spread(whole, dual=False):
        return whole if layout == "replicated" else numbering.spread(whole, dual=dual)[: numbering.num_owned]

    here, there = FormPrior(a(V), layout=layout), FormPrior(a(alone))
    x = there.sample(7)
    assert np.allclose(here.sample(7), spread(x), rtol=0, atol=1e-10)
    assert here.cost(spread(x)) == pytest.approx(there.cost(x), rel=1e-11)
    assert np.allclose(here.covariance(spread(x, dual=True)), spread(there.covariance(x)), rtol=0, atol=1e-11)
    assert np.allclose(here.gradient(spread(x)), spread(there.gradient(x), dual=True), rtol=0, atol=1e-10)
    variance = there.variance()
    if element[0] != "RT" or layout == "replicated":
        assert np.allclose(here.variance(), spread(variance), rtol=1e-9)
    here.close()
    there.close()


@pytest.mark.ranks(1, 2)
def test_samples_have_the_covariance_of_the_form():
    V = space(COMM, "Lagrange", 1, n=2)
    prior = FormPrior(h1(V), mean=1.0)
    n = 2000
    draws = np.stack([prior.sample(seed) for seed in range(n)])
    exact = prior.covariance(np.eye(prior.size))
    spread = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / n)
    # 45 entries that scatter by `spread`: beyond four of these in one is a chance of 1 in 350; the seeds are fixed.
    assert (np.abs(np.cov(draws.T) - exact) < 4.0 * spread).all()
    assert np.mean(np.abs(np.cov(draws.T) - exact) < 3.0 * spread) > 0.95
    estimate = prior.variance(samples=2000, seed=4)
    assert (np.abs(estimate / np.diag(exact) - 1.0) < 4.0 * np.sqrt(2.0 / 2000)).all()
    prior.close()


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_variance_of_every_prior(layout):
    """Against the diagonal of the covariance, on one rank; the same from draws, within their scatter."""
    V, alone = space(COMM, "Lagrange", 1), space(MPI.COMM_SELF, "Lagrange", 1)
    numbering = SpaceLayout(V)
    reference = SmoothnessPrior(alone, length=0.4, std=1.5)
    exact = np.diag(reference.covariance(np.eye(reference.size)))
    mine = exact if layout == "replicated" else numbering.spread(exact)[: numbering.num_owned]
    field = SmoothnessPrior(V, length=0.4, std=1.5, layout=layout)
    assert np.allclose(field.variance(), mine, rtol=1e-11)
    both = BlockPrior([field, IdentityPrior(2, std=0.5, layout=layout, comm=COMM)])
    found = both.variance()
    assert found.shape == (both.size,) and np.allclose(found[: len(mine)], mine, rtol=1e-11)
    assert np.allclose(found[len(mine) :], 0.25)
    estimate = field.variance(samples=800, seed=1)
    assert parallel.largest(COMM, float(np.abs(estimate / mine - 1.0).max(initial=0.0))) < 4.5 * np.sqrt(2.0 / 800)
    assert not np.allclose(estimate, field.variance(samples=800, seed=2))
    both.close()
    reference.close()


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_optimisers_find_the_minimum_of_dense_algebra(layout):
    V = space(COMM, "Lagrange", 1)
    problem = relax.pdes.poisson.source(V.mesh)
    points = [(0.3, 0.4), (0.6, 0.7), (0.5, 0.2)]
    observable = relax.PointValues(problem.state.function_space, points)
    whole = relax.ReducedMap(problem, observable)
    J = whole.linearize(np.zeros(whole.size_in)).matrix()
    a = h1(problem.controls[0].function_space)
    R = FormPrior(a).precision(np.eye(whole.size_in))
    data, noise = np.array([0.1, 0.2, 0.1]), 0.01
    exact = np.linalg.solve(J.T @ J / noise**2 + R, J.T @ data / noise**2)
    G = relax.ReducedMap(problem, observable, layout=layout)
    prior = FormPrior(a, layout=layout)
    numbering = SpaceLayout(problem.controls[0].function_space)
    mine = exact if layout == "replicated" else numbering.spread(exact)[: numbering.num_owned]
    products = {"jacobian": "products"}
    for method, more in ((relax.gauss_newton, {}), (relax.gauss_newton, products), (relax.lbfgs, {})):
        found = method(G, data, noise=noise, prior=prior, rtol=1e-10, **more).raise_if_failed()
        assert np.allclose(found.value, mine, rtol=0, atol=1e-7 * np.abs(exact).max())
    prior.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("a", "words"),
    [
        (lambda u, v: inner(grad(u), grad(v)) * dx, "expected a positive definite form"),
        (lambda u, v: (inner(grad(u), grad(v)) - 30.0 * u * v) * dx, "is negative for some"),
        (lambda u, v: (u * v + u.dx(0) * v) * dx, "expected a symmetric form"),
        (lambda u, v: v * dx, "one of 1 arguments"),
        (lambda u, v: 3.0, "expected a bilinear form"),
    ],
    ids=["semidefinite", "indefinite", "asymmetric", "linear", "a number"],
)
def test_forms_that_are_no_precision(a, words):
    V = space(COMM, "Lagrange", 1, n=3)
    with pytest.raises(BadInput, match=words):
        FormPrior(a(ufl.TrialFunction(V), ufl.TestFunction(V)))
