"""Sums of terms and their minimum: Taylor remainders, dense algebra, plain DOLFINx, closed forms of optimal control."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ufl
from control_cases import ALPHA, Linear, Plate, bump, cut
from dolfinx import fem
from fake_map import FakeMap
from mpi4py import MPI
from petsc4py import PETSc
from ufl import dx, grad, inner

import relax
from relax import BadInput, Cost, Misfit, NotConverged, Status, minimize
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.invert.metric import ControlMetric
from relax.invert.objective import Objective
from relax.invert.priors import IdentityPrior

COMM = MPI.COMM_WORLD
LAYOUTS = ["replicated", "owned"]


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def point(G, seed):
    """The same fields and number on any number of ranks, in either layout."""
    waves = np.random.default_rng(seed).standard_normal(4)
    wave = lambda x: waves[0] + waves[1] * np.cos(3.0 * x[0]) + waves[2] * np.sin(2.0 * x[1])  # noqa: E731
    return relax.control_values(G, wave, 0.3 * waves[3])


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["sensors", "field", "functional", "form"])
def test_each_term_has_the_gradient_and_the_hessian_of_its_value(name, layout):
    J = Objective(Plate().term(name, layout))
    m, v = point(J.G, 1), point(J.G, 2)
    here = J.at(m)
    slope = J.G.dot(here.gradient(), v)
    curvature = J.G.dot(here.data_hessian(v, newton=True) + here.control_hessian(v), v)
    steps = [0.04, 0.02, 0.01]
    left = [J.at(m + t * v).cost - here.cost - t * slope - 0.5 * t**2 * curvature for t in steps]
    # The remainder is of order 3, and no rounding: a wrong gradient leaves order 1, a wrong Hessian order 2.
    assert np.all(np.log2(np.abs(np.array(left[:-1]) / left[1:])) > 2.7), left


@pytest.mark.ranks(1, 2)
def test_values_are_those_of_plain_dolfinx():
    plate = Plate()
    terms = [plate.term(name, "replicated") for name in ("field", "functional", "form")]
    J = 2.0 * (terms[0] + terms[1]) + plate.costs
    objective = Objective(J)
    # One map of each observable; the term in both has one linearisation.
    assert len(objective.maps) == 2
    here = objective.at(point(objective.G, 1))
    # The state and the controls hold that point.
    forms = [2.0 * 0.5 * (plate.u - 0.2) ** 2 / 0.1**2 * dx, 2.0 * plate.tracks, plate.costs]
    wanted = [COMM.allreduce(fem.assemble_scalar(fem.form(form)), op=MPI.SUM) for form in forms]
    assert here.misfit == pytest.approx(wanted[0] + wanted[1], rel=1e-12)
    assert here.prior_cost == pytest.approx(wanted[2], rel=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_map_in_several_terms_is_solved_once(layout):
    plate = Plate(3)
    G = relax.ReducedMap(plate.problem, plate.sees, layout=layout)
    J = Objective(Misfit(G, [0.1, 0.2, 0.3], noise=0.1) + 3.0 * Misfit(G, noise=[1.0, 2.0, 3.0]))
    here = J.at(point(G, 1))
    here.gradient()
    here.data_hessian(point(G, 2), newton=True)
    # The Hessian action takes a tangent and an adjoint for JᵀPJ, and the same for the curvature.
    assert J.solves() == {"forward": 1, "tangent": 2, "adjoint": 3}
    G2 = relax.ReducedMap(plate.problem, relax.FieldValues(plate.V), layout=layout)
    assert Objective(Misfit(G) + Misfit(G2)).at(point(G, 1)).seeds[1].shape == (G2.size_out,)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_a_quadratic_has_the_minimum_of_dense_algebra(method, layout):
    found = minimize((case := Linear(6, layout=layout)).J, case.start(), method=method, rtol=1e-11)
    H, b = Linear(6).quadratic()
    wanted = cut(np.linalg.solve(H, -b), case.f.function_space, layout)
    assert found.converged and found.status is Status.converged
    assert parallel.largest(COMM, np.abs(found.value - wanted).max(initial=0.0)) < 1e-7
    assert found.stats.tangent == 0 if method == "lbfgs" else found.stats.tangent > 0


def test_the_optimum_of_the_mother_problem():
    """f = sin πx sin πy / (1 + 4 α π⁴), whose J is α π⁴-many of itself: pyadjoint's first example."""
    values = []
    for n in (16, 32):
        found = minimize((case := Linear(n)).J, case.start())
        relax.fill(case.f, found.value)
        x = ufl.SpatialCoordinate(case.mesh)
        exact = ufl.sin(ufl.pi * x[0]) * ufl.sin(ufl.pi * x[1]) / (1.0 + 4.0 * ALPHA * ufl.pi**4)
        values.append(math.sqrt(fem.assemble_scalar(fem.form((case.f - exact) ** 2 * dx))))
    # Both fields are linear in cells, and the optimality system is linear: order 2.
    assert values[1] < 2e-3 and math.log2(values[0] / values[1]) > 1.8
    optimum = ALPHA / (8.0 * (1.0 + 4.0 * ALPHA * np.pi**4))
    assert found.history[-1]["cost"] == pytest.approx(optimum, rel=3e-3)


def test_a_functional_of_the_state_is_the_same_as_its_misfit():
    case = Linear(6)
    data, u = fem.Function(case.misfit.observable._part.space), case.G.problem.state
    relax.fill(data, case.misfit.data)
    G = relax.ReducedMap(case.G.problem, relax.Functional(0.5 * (u - data) ** 2 * dx))
    by_functional = minimize(Cost(G) + 0.5 * ALPHA * case.f**2 * dx, case.start(), rtol=1e-10)
    by_misfit = minimize(case.J, case.start(), rtol=1e-10)
    assert by_functional.converged and math.isnan(by_functional.history[0]["misfit_in_noise_levels"])
    assert np.allclose(by_functional.value, by_misfit.value, rtol=0, atol=1e-7)
    alone = minimize(G, case.start(), method="lbfgs", max_steps=2)
    with pytest.raises(NotConverged, match=r"max_steps.*gradient norm [^,]*\. Try"):
        alone.raise_if_failed()


@pytest.mark.parametrize("metric", ["L2", "H1"])
def test_steps_do_not_depend_on_the_mesh(metric):
    counts = {"newton": [], "lbfgs": []}
    for n in (8, 16, 32):
        case = Linear(n, d=bump)
        smooth = 0.5 * ALPHA * inner(grad(case.f), grad(case.f)) * dx
        for method, steps in counts.items():
            J = case.J + smooth if metric == "H1" else case.J
            found = minimize(J, case.start(), method=method, metric=metric, rtol=1e-6)
            assert found.converged
            steps.append(found.stats.cg if method == "newton" else found.stats.outer)
    # Conjugate gradients in all of Newton's steps: measured 31, 32, 32 and 13, 14, 14; steps of L-BFGS: 34, 36, 38
    # and 28, 27, 29.
    assert all(max(steps) - min(steps) <= 4 for steps in counts.values()), counts


def test_a_control_in_steps_has_its_cost_summed_over_them():
    V = fem.functionspace(relax.meshes.interval(4, (0.0, 1.0)), ("Lagrange", 1))
    u, u0, v, q = fem.Function(V), fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    step = relax.Problem(
        residual=((u - u0 - 0.1 * q) * v + 0.1 * inner(grad(u), grad(v))) * dx, state=u, controls=[q], name="step"
    )
    evolution = relax.Evolution(step=step, previous=u0, initial=0.0, num_steps=3, per_step=[q])
    G = relax.ReducedMap(evolution, relax.FieldValues(V))
    m = relax.control_values(G, [0.5, lambda x: x[0], -1.0])
    here = Objective(Cost(q**3 * dx) + Misfit(G)).at(m)
    assert here.prior_cost == pytest.approx(0.125 + 0.25 - 1.0, rel=1e-12)
    of_ones = here.control_hessian(np.ones_like(m)).reshape(3, -1).sum(axis=1)
    assert np.allclose(of_ones, [6.0 * 0.5, 3.0, -6.0])


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["gauss_newton", "lbfgs"])
def test_a_failed_solve_at_a_trial_is_a_step_that_is_too_long(method, layout):
    G = average(layout, FakeMap.EXP, limit=1.3)
    J = Misfit(G, [3.0], noise=0.3) + IdentityPrior(G, std=100.0)
    # From −2 exp is flat: the first step goes past the limit, where nothing can be solved.
    found = minimize(J, np.full(G.size_in, -2.0), method=method)
    assert found.converged and found.stats.forward < G.calls["linearize"] and G.open == 0
    assert parallel.largest(COMM, np.abs(found.value - np.log(3.0)).max(initial=0.0)) < 0.01


def average(layout, f, limit=np.inf):
    V = fem.functionspace(relax.meshes.unit_square(4), ("Lagrange", 1))
    size = SpaceLayout(V).size
    return FakeMap(V, np.full((1, size), 1.0 / size), layout=layout, f=f, limit=limit)


@pytest.mark.parametrize("is_of_J", [True, False])
def test_far_from_any_minimum_nothing_has_converged(is_of_J):
    # The data ask for what exp(−m) never is: far out it is flat, and the gradient any share of the first one.
    G = average("replicated", (lambda m: np.exp(-m), lambda m: -np.exp(-m), lambda m: np.exp(-m)))
    prior = IdentityPrior(G, std=1e6)
    J = Misfit(G, [-1.0], noise=1e-3) + (prior if is_of_J else 0.0 * Cost(prior))
    found = minimize(J, np.full(G.size_in, -10.0), metric=prior, rtol=1e-4)
    assert found.status is Status.relative and not found.converged
    with pytest.raises(NotConverged, match="the start was far away"):
        found.raise_if_failed()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_of_all_terms_moves_no_minimum(layout):
    G = average(layout, FakeMap.EXP)
    prior = IdentityPrior(G, std=2.0)
    J = Misfit(G, [3.0], noise=0.3) + prior
    whole, little = (minimize(w * J, np.zeros(G.size_in)) for w in (1.0, 1e-12))
    assert whole.converged and little.converged and little.stats.outer > 0
    assert parallel.largest(COMM, np.abs(little.value - whole.value).max(initial=0.0)) < 1e-6


def test_the_metric_that_a_run_makes_is_freed(monkeypatch):
    freed, close = [], ControlMetric.close
    monkeypatch.setattr(ControlMetric, "close", lambda self: freed.append(self) or close(self))
    case = Linear(2)
    mine = ControlMetric(case.G, "H1")
    for metric in (None, "H1", mine):
        minimize(case.J, case.start(), metric=metric)
    assert len(freed) == 2 and mine not in freed
    mine.close()


def test_a_run_that_starts_at_the_minimum_says_so():
    case = Linear(4)
    minimum = minimize(case.J, case.start(), rtol=1e-12).value
    again = minimize(case.J, minimum)
    assert again.converged and again.stats.outer <= 2 and np.allclose(again.value, minimum, rtol=0, atol=1e-8)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p, G: minimize(G, np.zeros(G.size_in)), "a map of one number"),
        (lambda p, G: minimize(IdentityPrior(G, std=1.0), np.zeros(G.size_in)), "expected a map among the terms"),
        (lambda p, G: Misfit(G) + 3.0, "expected a relax.Misfit, a map"),
        (lambda p, G: Misfit(G) * math.nan, "expected a finite number"),
        (lambda p, G: Misfit(G) + ufl.TestFunction(p.V) * dx, "without test and trial"),
        (lambda p, G: minimize(Misfit(G) + p.u**2 * p.f * dx, np.zeros(G.size_in)), "controls alone"),
        (lambda p, G: minimize(Misfit(G) + fem.Function(p.V) * dx, np.zeros(G.size_in)), "a control of the map"),
        (lambda p, G: minimize(Misfit(G)), "m0: expected a control vector"),
        (lambda p, G: minimize(Misfit(G), np.zeros(3)), "m0: expected shape"),
        (lambda p, G: minimize(Misfit(G), np.zeros(G.size_in), method="bnls"), "'newton'"),
        (lambda p, G: minimize(Misfit(G), np.zeros(G.size_in), metric="l2"), "'L2'"),
        (lambda p, G: minimize(Misfit(G), np.zeros(G.size_in), metric=["L2"]), "one for each control"),
        (lambda p, G: minimize(Misfit(G), np.zeros(G.size_in), metric=IdentityPrior(3, std=1.0)), "metric: expected"),
        (lambda p, G: minimize(Misfit(G) + Misfit(Linear(5).G), np.zeros(G.size_in)), "same controls"),
    ],
)
def test_what_is_no_sum_of_terms_is_refused_in_words(make, words):
    plate = Plate()
    G = relax.ReducedMap(plate.problem, plate.sees)
    with pytest.raises(BadInput, match=words):
        make(plate, G)
