"""Priors with known values, against the conditional Gaussian of dense algebra."""

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
from relax.errors import BadInput, PointsOutsideMesh
from relax.invert.priors import BlockPrior, FormPrior, IdentityPrior, PinnedPrior, SmoothnessPrior

COMM = MPI.COMM_WORLD
# Inside of cells; two of them in one.
POINTS, VALUES = [(0.31, 0.42), (0.83, 0.57), (0.32, 0.43)], [1.0, -0.5, 1.02]


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def space(comm=COMM):
    return fem.functionspace(mesh.create_unit_square(comm, 5, 5), ("Lagrange", 1))


def smooth(V, layout="replicated"):
    return SmoothnessPrior(V, length=0.5, std=1.3, mean=0.2, layout=layout)


def h1(V, layout="replicated"):
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return FormPrior((inner(u, v) + inner(grad(u), grad(v))) * dx, mean=0.2, layout=layout)


def left(V):
    def is_left(x):
        return np.isclose(x[0], 0.0)

    return relax.clamp(V, is_left, lambda x: 2.0 + x[1])


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("make", [smooth, h1])
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_the_conditional_gaussian(make, layout):
    V, alone = space(), space(MPI.COMM_SELF)
    whole = make(alone)
    x = SpaceLayout(alone).coordinates
    unit = np.eye(whole.size)
    wall = np.isclose(x[:, 0], 0.0)
    observed = relax.PointValues(alone, POINTS)
    rows = np.stack([observed.adjoint(fem.Function(alone), e) for e in np.eye(3)])
    P = np.concatenate([unit[wall], SpaceLayout(alone).gather(rows)])
    d = np.concatenate([2.0 + x[wall, 1], VALUES])
    C = whole.covariance(unit)
    gain = C @ P.T @ np.linalg.inv(P @ C @ P.T)
    mean, covariance = whole.mean + gain @ (d - P @ whole.mean), C - gain @ P @ C
    numbering = SpaceLayout(V)

    def spread(values):
        return values if layout == "replicated" else numbering.spread(values)[..., : numbering.num_owned]

    # The points bind two values of one cell closely: 1 / (1 - correlation) is 1e3.
    prior = PinnedPrior(make(V, layout), [left(V)], points=POINTS, values=VALUES)
    assert np.allclose(prior.mean, spread(mean), rtol=0, atol=1e-9)
    assert np.allclose(prior.covariance(spread(unit)), spread(covariance), rtol=0, atol=1e-9)
    assert np.allclose(
        prior.color(prior.color_adjoint(spread(unit))) - prior.mean, spread(covariance), rtol=0, atol=1e-9
    )
    assert np.allclose(prior.variance(), spread(np.diag(covariance)), rtol=0, atol=1e-9)
    there = PinnedPrior(make(alone), [left(alone)], points=POINTS, values=VALUES)
    draw = there.sample(5)
    assert np.allclose(prior.sample(5), spread(draw), rtol=0, atol=1e-9)
    assert np.allclose(P @ draw, d, rtol=0, atol=1e-10)
    gap = draw - mean
    assert prior.cost(spread(draw)) == pytest.approx(0.5 * gap @ np.linalg.solve(C, gap), rel=1e-8)
    assert np.allclose(P @ there.pinned(np.ones(whole.size)), d, rtol=0, atol=1e-10)
    assert np.allclose(prior.pinned(spread(np.ones(whole.size))), spread(there.pinned(np.ones(whole.size))), atol=1e-8)
    prior.close()
    there.close()
    whole.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_optimisers_keep_what_is_pinned(layout):
    """Against the linear problem of dense algebra with the pinned values as exact data; beside another control."""
    V = space()
    u, v, m, c = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(V.mesh, 0.0)
    F = ((u - m - c) * v + 0.01 * inner(grad(u), grad(v))) * dx
    problem = relax.Problem(residual=F, state=u, controls=[m, c], name="pinned")
    observable = relax.PointValues(V, [(0.5, 0.5), (0.7, 0.2)])
    G = relax.ReducedMap(problem, observable, layout=layout)

    def prior_in(kind):
        field = PinnedPrior(smooth(V, kind), points=POINTS[:2], values=VALUES[:2])
        return BlockPrior([field, IdentityPrior(1, std=0.1, layout=kind, comm=COMM)])

    prior = prior_in(layout)
    data = np.array([0.7, -0.3])
    whole = relax.ReducedMap(problem, observable)
    J = whole.linearize(np.zeros(whole.size_in)).matrix()
    exact = prior_in("replicated")
    C = exact.covariance(np.eye(whole.size_in))
    expected = exact.mean + C @ J.T @ np.linalg.solve(J @ C @ J.T + 0.01**2 * np.eye(2), data - J @ exact.mean)
    numbering = SpaceLayout(V)
    mine = expected if layout == "replicated" else numbering.spread(expected[:-1])[: numbering.num_owned]
    products = {"jacobian": "products"}
    for method, more in ((relax.gauss_newton, {}), (relax.gauss_newton, products), (relax.lbfgs, {})):
        found = method(G, data, noise=0.01, prior=prior, **more).raise_if_failed().value
        assert np.allclose(found[: len(mine)], mine, rtol=0, atol=1e-6)
    prior.close()
    exact.close()


def test_a_value_that_is_given_twice_is_one():
    V = fem.functionspace(mesh.create_unit_square(COMM, 4, 4), ("DG", 0))
    prior = PinnedPrior(SmoothnessPrior(V, length=0.5, std=1.0), points=[(0.3, 0.4), (0.31, 0.41)], values=1.5)
    assert np.sum(np.abs(prior.mean - 1.5) < 1e-12) == 1 and np.sum(prior.variance() < 1e-12) == 1
    prior.close()


@pytest.mark.ranks(1, 2)
def test_what_cannot_be_pinned():
    V = space()
    field = smooth(V)
    for given, words in (
        ({}, "expected conditions or points with values, got none"),
        ({"points": POINTS}, "points and values together"),
        ({"points": POINTS, "values": [1.0]}, "values: expected shape"),
        ({"points": [(0.3, 0.4), (0.3, 0.4)], "values": [1.0, 2.0]}, "1 of 2 values follow from the others"),
        ({"bcs": [3.0]}, r"bcs\[0\]: expected a condition"),
        ({"bcs": left(V)}, "bcs: expected a list of conditions"),
        ({"bcs": [left(space())]}, r"bcs\[0\]: expected a condition on the prior's space"),
    ):
        with pytest.raises(BadInput, match=words):
            PinnedPrior(field, **given)
    with pytest.raises(PointsOutsideMesh):
        PinnedPrior(field, points=[(2.0, 0.5)], values=1.0)
    with pytest.raises(BadInput, match="expected a SmoothnessPrior or a FormPrior"):
        PinnedPrior(IdentityPrior(2, std=1.0), points=POINTS, values=1.0)
    prior = PinnedPrior(field, [left(V)])
    with pytest.raises(BadInput, match=r"start from prior.mean or prior.pinned\(m\)"):
        prior.cost(np.zeros(prior.size))
    prior.close()
