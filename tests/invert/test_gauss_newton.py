"""Gauss-Newton, Newton and L-BFGS against closed forms (a map without a PDE), then on the diffusion problem."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dolfinx import fem, mesh
from fake_map import FakeMap
from mpi4py import MPI
from petsc4py import PETSc

from relax import SmoothnessPrior
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput, NotConverged, SolveFailed
from relax.invert import Status, gauss_newton, lbfgs
from relax.invert.methods.gauss_newton import _data_hessian
from relax.invert.objective import Objective
from relax.invert.priors import IdentityPrior

COMM = MPI.COMM_WORLD
LAYOUTS = ["replicated", "owned"]
SIGMA = 0.05


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def space(n=8, comm=COMM):
    return fem.functionspace(mesh.create_unit_square(comm, n, n), ("Lagrange", 1))


def averages(V, rows=12):
    """A smooth, partition-independent matrix: each observation averages the control with a Gaussian weight."""
    numbering = SpaceLayout(V)
    u = fem.Function(V)
    W = []
    for x0, y0 in np.random.default_rng(5).uniform(0.1, 0.9, (rows, 2)):
        u.interpolate(lambda x, x0=x0, y0=y0: np.exp(-20.0 * ((x[0] - x0) ** 2 + (x[1] - y0) ** 2)))
        weights = numbering.gather(u.x.array[: numbering.num_owned])
        W.append(weights / weights.sum())
    return np.array(W)


def setting(layout, f=FakeMap.LINEAR, limit=np.inf, mean=0.2):
    """A map, a prior, data with noise, and how to cut a whole vector to this rank's."""
    V = space()
    W = averages(V)
    G = FakeMap(V, W, layout=layout, f=f, limit=limit)
    prior = SmoothnessPrior(V, length=0.4, std=1.0, mean=mean, layout=layout)
    truth = prior.sample(3)
    with_noise = G.sum(G.W @ f[0](truth)) + SIGMA * np.random.default_rng(4).standard_normal(len(W))
    return G, prior, with_noise


def posterior_mean(G, prior, W, d, sigma):
    """mean + C Wᵀ (Σ² + W C Wᵀ)⁻¹ (d − W mean), by dense algebra in the replicated order."""
    CW = prior.covariance(W)
    noise = np.diag(np.broadcast_to(sigma, len(W)) ** 2)
    return prior.mean + np.linalg.solve(noise + W @ CW.T, d - W @ prior.mean) @ CW


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("jacobian", ["matrix", "products"])
@pytest.mark.parametrize("noise", [SIGMA, np.linspace(0.02, 0.5, 12)], ids=["one noise", "many noises"])
def test_a_linear_map_reaches_the_posterior_mean_in_one_step(layout, jacobian, noise):
    G, prior, d = setting(layout)
    found = gauss_newton(G, d, noise=noise, prior=prior, jacobian=jacobian, cg_rtol=1e-12, rtol=1e-8)
    assert found.status is Status.converged and found.converged and found.raise_if_failed() is found
    assert found.stats.outer == 1 and G.open == 0
    V = space(comm=MPI.COMM_SELF)
    alone = SmoothnessPrior(V, length=0.4, std=1.0, mean=0.2)
    exact = posterior_mean(G, alone, averages(V), d, noise)
    here = SpaceLayout(prior.space)
    wanted = exact if layout == "replicated" else here.spread(exact)[: here.num_owned]
    assert np.allclose(found.value, wanted, rtol=0, atol=1e-9)
    # Twelve observations: twelve eigenvalues are not one, so CG ends after thirteen products and a few for rounding.
    assert found.stats.cg == 0 if jacobian == "matrix" else 0 < found.stats.cg <= 18
    alone.close()
    prior.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inexact_steps_reach_it_too(layout):
    G, prior, d = setting(layout)
    loose = gauss_newton(G, d, noise=SIGMA, prior=prior, jacobian="products", rtol=1e-9, atol=0.0).raise_if_failed()
    tight = gauss_newton(G, d, noise=SIGMA, prior=prior, jacobian="matrix")
    assert np.allclose(loose.value, tight.value, rtol=0, atol=1e-6)
    assert loose.stats.outer > 1
    prior.close()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("hessian", ["gauss_newton", "newton"])
@pytest.mark.parametrize("jacobian", ["matrix", "products"])
def test_a_nonlinear_map_converges_to_a_stationary_point(layout, hessian, jacobian):
    G, prior, d = setting(layout, FakeMap.EXP)
    found = gauss_newton(G, d, noise=SIGMA, prior=prior, hessian=hessian, jacobian=jacobian, rtol=1e-10)
    assert found.converged
    y = np.exp(found.value)
    gradient = (G.sum(G.W @ y) - d) / SIGMA**2 @ G.W * y + prior.gradient(found.value)
    size = np.sqrt(G.dot(gradient, prior.covariance(gradient)))
    assert size <= 1.01 * max(1e-10 * found.history[0]["gradient_norm"], 1e-8)
    costs = [entry["cost"] for entry in found.history]
    assert all(b <= a * (1 + 1e-12) for a, b in zip(costs, costs[1:], strict=False))
    prior.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_hessian_of_newton_is_the_derivative_of_the_gradient(layout):
    G, prior, d = setting(layout, FakeMap.EXP)
    objective = Objective(G, d, SIGMA, prior)
    m, v = prior.sample(5), prior.sample(6) - prior.mean
    found = _data_hessian(objective.at(m), None, newton=True)(v) + prior.precision(v)
    # A central difference of smooth functions of size one: its error is of order 1e-8 of the largest entry.
    above, below = (objective.at(m + sign * 1e-4 * v).gradient() for sign in (1.0, -1.0))
    gap = found - (above - below) / 2e-4
    assert parallel.largest(COMM, np.abs(gap).max()) < 1e-6 * parallel.largest(COMM, np.abs(found).max())
    prior.close()


@pytest.mark.parametrize("method", [gauss_newton, lbfgs])
@pytest.mark.parametrize(("rtol", "atol"), [(1e-3, 0.0), (1e-12, 1e-2)], ids=["a share of the first", "a size"])
def test_it_stops_at_the_first_gradient_below_its_goal(method, rtol, atol):
    G, prior, d = setting("replicated", FakeMap.EXP)
    found = method(G, d, noise=SIGMA, prior=prior, rtol=rtol, atol=atol)
    *before, last = (entry["gradient_norm"] for entry in found.history)
    goal = max(rtol * before[0], atol)
    # A share of the first gradient alone says how far the run has come, not where it is.
    assert found.status is (Status.converged if last <= (atol or 1e-3) else Status.relative)
    assert last <= goal < min(before)
    prior.close()


def test_newton_converges_superlinearly():
    G, prior, d = setting("replicated", FakeMap.EXP)
    found = gauss_newton(G, d, noise=SIGMA, prior=prior, hessian="newton", rtol=1e-11, atol=0.0)
    norms = np.array([entry["gradient_norm"] for entry in found.history])
    ratios = norms[1:] / norms[:-1]
    # The forcing term √(|g|/|g₀|) makes the rate 3/2: near the end each ratio is of that size. What Newton's method
    # leaves, about 15 |g|, is seen beside it once conjugate gradients have met the direction of least curvature; at
    # which step they do is a matter of rounding.
    assert found.converged
    assert np.all(ratios[-3:] <= 5.0 * np.sqrt(norms[-4:-1] / norms[0]) + 20.0 * norms[-4:-1])
    prior.close()


@pytest.mark.ranks(1, 2)
def test_the_path_is_the_same_in_both_layouts():
    found = {}
    for layout in LAYOUTS:
        G, prior, d = setting(layout, FakeMap.EXP)
        found[layout] = gauss_newton(G, d, noise=SIGMA, prior=prior, rtol=1e-8)
        prior.close()
    one, two = found["replicated"], found["owned"]
    assert [e["cg_iterations"] for e in one.history] == [e["cg_iterations"] for e in two.history]
    assert np.allclose([e["cost"] for e in one.history], [e["cost"] for e in two.history], rtol=1e-9)
    counts = [[getattr(r.stats, k) for k in ("forward", "tangent", "adjoint", "cg", "outer")] for r in (one, two)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_solves_are_counted(layout):
    G, prior, d = setting(layout, FakeMap.EXP)
    found = gauss_newton(G, d, noise=SIGMA, prior=prior, jacobian="products")
    assert found.stats.forward == G.calls["linearize"] and found.stats.tangent == G.calls["jvp"] == found.stats.cg
    assert found.stats.adjoint == G.calls["vjp"] == found.stats.cg + found.stats.outer + 1
    assert G.calls["matrix"] == 0

    G, prior2, d = setting(layout, FakeMap.EXP)
    found = gauss_newton(G, d, noise=SIGMA, prior=prior2)
    assert G.calls["jvp"] == 0 and G.calls["matrix"] == found.stats.outer and found.stats.tangent == 0
    assert found.stats.adjoint == G.calls["vjp"] + 12 * G.calls["matrix"]

    G, prior3, d = setting(layout, FakeMap.EXP)
    found = gauss_newton(G, d, noise=SIGMA, prior=prior3, hessian="newton", jacobian="products")
    assert found.stats.tangent == G.calls["jvp"] + G.calls["hvp"]
    assert found.stats.adjoint == G.calls["vjp"] + G.calls["hvp"]
    for p in (prior, prior2, prior3):
        p.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_history_and_callback(layout):
    G, prior, d = setting(layout, FakeMap.EXP)
    seen = []
    found = gauss_newton(G, d, noise=SIGMA, prior=prior, callback=lambda entry, value: seen.append((entry, value)))
    assert [entry for entry, _ in seen] == found.history
    assert json.loads(json.dumps(found.history)) == found.history
    assert [entry["step"] for entry in found.history] == list(range(found.stats.outer + 1))
    assert np.array_equal(seen[-1][1], found.value)
    last = found.history[-1]
    misfit = (G.sum(G.W @ np.exp(found.value)) - d) / SIGMA
    assert last["misfit"] == pytest.approx(0.5 * misfit @ misfit)
    assert last["misfit_in_noise_levels"] == pytest.approx(np.sqrt(np.mean(misfit**2)))
    assert last["prior_cost"] == pytest.approx(prior.cost(found.value))
    assert last["cost"] == pytest.approx(last["misfit"] + last["prior_cost"])
    assert (last["forward"], last["adjoint"]) == (found.stats.forward, found.stats.adjoint)
    prior.close()


@pytest.mark.ranks(1, 2)
def test_a_callback_on_one_rank_stops_all():
    G, prior, d = setting("owned", FakeMap.EXP)
    last = COMM.size - 1
    found = gauss_newton(
        G, d, noise=SIGMA, prior=prior, callback=lambda entry, _: COMM.rank == last and entry["step"] == 1
    )
    assert found.status is Status.stopped_by_callback and found.stats.outer == 1 and G.open == 0
    prior.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_steps_is_an_outcome(layout):
    G, prior, d = setting(layout, FakeMap.EXP)
    found = gauss_newton(G, d, noise=SIGMA, prior=prior, max_steps=1)
    assert found.status is Status.max_steps and not found.converged and found.stats.outer == 1
    assert found.status.value == "stopped after max_steps without reaching rtol"
    with pytest.raises(NotConverged, match="max_steps"):
        found.raise_if_failed()
    none = gauss_newton(G, d, noise=SIGMA, prior=prior, max_steps=0)
    assert none.status is Status.max_steps and np.array_equal(none.value, prior.mean)
    prior.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_failed_solve_at_a_trial_halves_the_step(layout):
    free, prior, d = setting(layout, FakeMap.EXP)
    G, same_prior, _ = setting(layout, FakeMap.EXP)
    wanted = gauss_newton(free, d, noise=SIGMA, prior=prior)
    G.limit = 0.75 * (COMM.allreduce(float(wanted.value.max(initial=-9.0)), op=MPI.MAX) - 0.2) + 0.2
    fails = gauss_newton(G, d, noise=SIGMA, prior=same_prior)
    # The minimum lies beyond the limit: steps shrink towards it and in the end none is left.
    assert any(0.0 < e["step_length"] < 1.0 for e in fails.history)
    assert fails.status is Status.line_search_failed
    assert fails.stats.forward < G.calls["linearize"] and G.open == 0
    assert fails.history[-1]["cost"] < fails.history[0]["cost"]
    prior.close()
    same_prior.close()


def test_a_failed_solve_at_the_start_is_raised():
    G, prior, d = setting("replicated", FakeMap.EXP, limit=-1.0)
    with pytest.raises(SolveFailed):
        gauss_newton(G, d, noise=SIGMA, prior=prior)
    prior.close()


def test_a_wrong_derivative_ends_in_a_failed_line_search():
    G, prior, d = setting("replicated", (np.exp, lambda m: -np.exp(m), np.exp))
    found = gauss_newton(G, d, noise=SIGMA, prior=prior, max_halvings=5)
    assert found.status is Status.line_search_failed
    with pytest.raises(NotConverged, match="check_map"):
        found.raise_if_failed()
    prior.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_starting_at_the_answer_takes_no_step(layout):
    G, prior, d = setting(layout)
    first = gauss_newton(G, d, noise=SIGMA, prior=prior, rtol=1e-12)
    again = gauss_newton(G, d, first.value, noise=SIGMA, prior=prior)
    assert again.converged and again.stats.outer == 0
    prior.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("optimise", [gauss_newton, lbfgs])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"noise": -0.1}, "noise: expected positive"),
        ({"noise": 0.0}, "noise: expected positive"),
        ({"noise": np.ones(5)}, "noise: expected shape"),
        ({"noise": np.nan}, "noise: 12 of 12 entries"),
        ({"data": np.ones(11)}, "data: expected shape"),
        ({"data": np.full(12, np.nan)}, "data: 12 of 12 entries"),
        ({"data": np.ones((2, 12))}, "data: expected shape"),
        ({"m0": np.ones(3)}, "m0: expected shape"),
        ({"prior": IdentityPrior(7, std=1.0)}, "prior: expected one for"),
    ],
)
def test_bad_arguments(optimise, change, words):
    G, prior, d = setting("replicated")
    arguments = {"data": d, "m0": None, "noise": SIGMA, "prior": prior, **change}
    with pytest.raises(BadInput, match=words):
        optimise(G, arguments.pop("data"), arguments.pop("m0"), **arguments)
    prior.close()


@pytest.mark.ranks(1, 2)
def test_a_prior_of_another_layout():
    G, _, d = setting("replicated")
    prior = SmoothnessPrior(space(), length=0.4, std=1.0, layout="owned")
    with pytest.raises(BadInput, match="layout='owned'"):
        gauss_newton(G, d, noise=SIGMA, prior=prior)
    prior.close()


def test_unknown_choices():
    G, prior, d = setting("replicated")
    with pytest.raises(BadInput, match="hessian"):
        gauss_newton(G, d, noise=SIGMA, prior=prior, hessian="exact")
    with pytest.raises(BadInput, match="jacobian"):
        gauss_newton(G, d, noise=SIGMA, prior=prior, jacobian="dense")
    prior.close()


@pytest.mark.ranks(1, 2)
def test_data_of_rank_0_count():
    G, prior, d = setting("owned")
    same = gauss_newton(G, d, noise=SIGMA, prior=prior)
    rounded = 1.0 + 1e-9 * COMM.rank
    other = gauss_newton(G, d * rounded, noise=SIGMA * rounded, prior=prior)
    assert np.array_equal(same.value, other.value)
    prior.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lbfgs_finds_the_minimum_of_gauss_newton(layout):
    G, prior, d = setting(layout, FakeMap.EXP)
    slow = lbfgs(G, d, noise=SIGMA, prior=prior, rtol=1e-8)
    fast = gauss_newton(G, d, noise=SIGMA, prior=prior, rtol=1e-10)
    assert slow.converged and slow.stats.tangent == 0
    assert np.allclose(slow.value, fast.value, rtol=0, atol=1e-5)
    assert slow.stats.forward == slow.stats.adjoint + (slow.stats.forward - slow.stats.outer - 1)
    prior.close()
