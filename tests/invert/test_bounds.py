"""Bounds: the exact minimum of small quadratics, conditions of Karush, Kuhn and Tucker, counts over refinements."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import ufl
from control_cases import Linear, Plate, bump, cut
from dolfinx import fem
from fake_map import FakeMap
from mpi4py import MPI
from petsc4py import PETSc

import relax
from relax import BadInput, Misfit, SmoothnessPrior, minimize
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.invert.box import Box
from relax.invert.objective import Objective
from relax.invert.priors import BlockPrior

COMM = MPI.COMM_WORLD
LAYOUTS = ["replicated", "owned"]


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def exact(H, b, low, high):
    """The least ½ mᵀ H m + bᵀ m within bounds, by the active-set method of Stark and Parker."""
    R = scipy.linalg.cholesky(H)
    scale = np.abs(R).max()
    rhs = scipy.linalg.solve_triangular(R, -b, trans=1)
    found = scipy.optimize.lsq_linear(R / scale, rhs / scale, (low, high), method="bvls", tol=1e-15)
    return found.x


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_the_minimum_and_its_active_set_are_those_of_dense_algebra(method, layout):
    case = Linear(6, layout=layout, d=bump)
    found = minimize(case.J, case.start(0.5), method=method, bounds=(0.05, 2.0), rtol=1e-12)
    # Dense algebra in the order that does not depend on the ranks.
    H, b = Linear(6, d=bump).quadratic()
    wanted = exact(H, b, 0.05, 2.0)
    at_low, at_high = wanted < 0.05 + 1e-12, wanted > 2.0 - 1e-12
    mine = cut(wanted, case.f.function_space, layout)
    assert found.converged
    assert parallel.largest(COMM, np.abs(found.value - mine).max(initial=0.0)) < 1e-8
    assert np.array_equal(found.value == 0.05, mine < 0.05 + 1e-12)
    assert np.array_equal(found.value == 2.0, mine > 2.0 - 1e-12)
    # Both sides hold some, and some are free.
    assert np.count_nonzero(at_low) > 4 and np.count_nonzero(at_high) > 2
    # Where a bound holds the gradient points out, elsewhere it vanishes: in the metric, to 1e-8.
    g = H @ wanted + b
    assert found.history[-1]["gradient_norm"] < 1e-8 * max(found.history[0]["gradient_norm"], 1.0)
    assert np.all(g[at_low] >= 0.0) and np.all(g[at_high] <= 0.0)


@pytest.mark.parametrize("space", [("Lagrange", 1), ("DG", 0)], ids=["P1", "DG0"])
def test_steps_with_bounds_do_not_depend_on_the_mesh(space):
    steps = []
    for n in (8, 16, 32, 64):
        case = Linear(n, space, d=bump)
        found = minimize(case.J, case.start(), bounds=(0.0, 2.0))
        assert found.converged
        steps.append(found.stats.outer)
    # Measured: 3, 4, 4, 4 and 3, 3, 4, 3.
    assert max(steps) - min(steps) <= 2, steps


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prior_within_bounds_is_its_own_metric(layout):
    """The restricted inverse is that of the free block; with it the minimum is the one of dense algebra."""
    V = fem.functionspace(relax.meshes.unit_square(6), ("Lagrange", 1))
    size = SpaceLayout(V).size
    W = np.abs(np.random.default_rng(1).standard_normal((3, size))) / size
    G = FakeMap(V, W, layout=layout)
    prior = SmoothnessPrior(V, length=0.5, std=1.0, mean=0.3, layout=layout)
    precision = SmoothnessPrior(V, length=0.5, std=1.0).precision(np.eye(size))
    free = np.random.default_rng(2).random(size) > 0.4
    v = np.random.default_rng(3).standard_normal(size)
    block = np.zeros(size)
    block[free] = np.linalg.solve(precision[np.ix_(free, free)], v[free])
    inverse = prior.restricted(cut(v, V, layout), cut(free.astype(float), V, layout) > 0.5)
    assert np.allclose(inverse, cut(block, V, layout), rtol=0, atol=1e-9 * np.abs(block).max())
    d, sigma = np.array([0.5, -0.2, 0.1]), 0.05
    found = minimize(Misfit(G, d, sigma) + prior, bounds=(-0.2, 0.35), rtol=1e-11)
    H = W.T @ W / sigma**2 + precision
    b = -W.T @ d / sigma**2 - precision @ np.full(size, 0.3)
    assert found.converged and np.allclose(found.value, cut(exact(H, b, -0.2, 0.35), V, layout), rtol=0, atol=1e-7)
    prior.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_nonlinear_problem_ends_where_the_conditions_hold(layout):
    plate = Plate()
    J = plate.term("field", layout) + 1e-2 * plate.f**2 * ufl.dx + 0.5 * plate.c**2 * ufl.dx(plate.mesh)
    G = Objective(J).G
    bounds = ([0.0, -0.1], [lambda x: 0.2 + 4.0 * x[0], None])
    box = Box(G, bounds)
    found = minimize(J, relax.control_values(G, 9.0, -5.0), method="newton", bounds=bounds, rtol=1e-9)
    g = Objective(J).at(found.value).gradient()
    assert found.converged and np.all(found.value >= box.low) and np.all(found.value <= box.high)
    inside = (found.value > box.low) & (found.value < box.high)
    size = parallel.largest(COMM, np.abs(g).max(initial=0.0))
    assert parallel.largest(COMM, np.abs(g[inside]).max(initial=0.0)) < 1e-7 * size
    assert np.all(g[found.value == box.low] >= -1e-9 * size)
    assert parallel.total(COMM, np.count_nonzero(found.value == box.high)) > 0


def test_bounds_in_all_their_forms():
    G = relax.ReducedMap((plate := Plate(2)).problem, plate.sees)
    half = relax.interpolated(lambda x: 0.5 * x[0], plate.V)
    low = Box(G, ([half, None], None)).low
    assert low[-1] == -math.inf and np.allclose(low[:-1], relax.FieldValues(plate.V).value(half))
    same = Box(G, (low, [ufl.SpatialCoordinate(plate.mesh)[0], math.inf]))
    assert np.array_equal(same.low, low) and same.high[-1] == math.inf
    assert np.allclose(same.high[:-1], 2.0 * low[:-1])
    # An entry at its bound is free to leave it, not to cross it; one without width is never.
    box, g = Box(G, (0.0, np.r_[np.zeros(1), np.ones(G.size_in - 1)])), np.ones(G.size_in)
    at_low = np.zeros(G.size_in)
    assert not box.free(at_low, g).any() and np.array_equal(box.free(at_low, -g), at_low == np.r_[1, at_low[1:]])


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((1.0, 0.0), "expected low <= high, got low above high in"),
        ((0.0, np.array([1.0, 2.0])), "bounds: high: expected shape"),
        ((math.nan, 1.0), "bounds: low: expected a number"),
        ((math.inf, None), "bounds: low: expected a bound, or -inf"),
        (([0.0, 1.0, 2.0], None), "for each of 2 controls"),
        ((lambda x: x[0], None), "for each of 2 controls"),
        ((0.0,), "expected a pair"),
        (1.0, "expected a pair"),
    ],
)
def test_bad_bounds(bounds, words):
    plate = Plate(2)
    J = plate.term("sensors", "replicated")
    with pytest.raises(BadInput, match=words):
        minimize(J, np.zeros(J.G.size_in), bounds=bounds)


def test_a_metric_that_is_not_known_within_bounds():
    case = Linear(2)

    class Known:
        """A prior of one's own, without ``restricted``."""

        def __init__(self):
            self.kind, self.size, self.mean = "replicated", case.G.size_in, case.start()

        def covariance(self, v):
            return v

    for metric in (Known(), BlockPrior([Known()])):
        with pytest.raises(BadInput, match="Known, is not known on a part"):
            minimize(case.J, case.start(), bounds=(0.0, 1.0), metric=metric)
