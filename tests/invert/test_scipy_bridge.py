"""J by scipy's optimisers: the minimum that Gauss–Newton finds, one solve a point, failed solves, ranks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from contract import COMM, raised_everywhere
from dolfinx import fem
from fake_map import FakeMap

from relax import Misfit, PointValues, ReducedMap, SmoothnessPrior, gauss_newton, meshes, pdes
from relax.errors import BadInput, SolveFailed
from relax.invert.objective import Objective

DATA = np.array([1.5, 0.7, 1.1])


def setting(layout="replicated", limit=np.inf):
    """Three means of exp(m) on a square, a prior."""
    V = fem.functionspace(meshes.unit_square(3), ("Lagrange", 1))
    W = np.random.default_rng(3).random((3, 16))
    G = FakeMap(V, W / W.sum(1)[:, None], layout=layout, f=FakeMap.EXP, limit=limit)
    return G, Objective(G, DATA, 0.1, SmoothnessPrior(V, length=0.6, std=0.5, layout=layout))


@pytest.mark.ranks(1, 2)
def test_derivatives_are_those_of_the_value():
    """Central differences of fun for jac, and of jac for hessp: of second order in the step."""
    G, J = setting()
    f, rng = J.scipy(), np.random.default_rng(0)
    m, v = 0.3 * rng.standard_normal((2, 16))
    gaps = []
    for h in (1e-2, 5e-3):
        slope = (f.fun(m + h * v) - f.fun(m - h * v)) / (2 * h) - f.jac(m) @ v
        curve = (f.jac(m + h * v) - f.jac(m - h * v)) / (2 * h) - f.hessp(m, v)
        gaps.append([abs(slope), np.abs(curve).max()])
    rates = np.log2(np.divide(*gaps))
    assert (rates > 1.9).all() and (rates < 2.1).all(), rates
    f.close()
    assert G.open == 0


@pytest.mark.ranks(1, 2)
def test_one_point_is_kept():
    G, J = setting()
    f, m = J.scipy(), np.zeros(16)
    f.fun(m), f.jac(m), f.hessp(m, m + 1.0)
    assert (G.calls["linearize"], G.open) == (1, 1)
    m += 0.1  # scipy writes into its array
    f.fun(m)
    assert (G.calls["linearize"], G.open) == (2, 1)
    f.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("method", ["trust-ncg", "trust-constr", "L-BFGS-B"])
def test_scipy_finds_the_most_probable_control(method):
    """Of a diffusion coefficient from four points."""
    problem = pdes.poisson.diffusion(meshes.unit_square(4))
    V = problem.controls[0].function_space
    G = ReducedMap(problem, PointValues(problem.state.function_space, [[0.2, 0.3], [0.7, 0.4], [0.5, 0.8], [0.6, 0.6]]))
    prior = SmoothnessPrior(V, length=0.5, std=0.5)
    data = 0.8 * G(np.zeros(G.size_in))
    best = gauss_newton(G, data, noise=0.002, prior=prior, hessian="newton").raise_if_failed()
    f = (Misfit(G, data, 0.002) + prior).scipy()
    second = {} if method == "L-BFGS-B" else {"hessp": f.hessp}
    limits = {"ftol": 1e-15, "gtol": 1e-7, "maxiter": 2000, "maxfun": 3000} if method == "L-BFGS-B" else {"gtol": 1e-7}
    found = scipy.optimize.minimize(f.fun, prior.mean, jac=f.jac, method=method, options=limits, **second)
    assert f.failures == 0
    error = found.x - best.value
    assert np.sqrt(error @ prior.precision(error)) < 1e-4, found.message
    f.close(), G.close(), prior.close()


@pytest.mark.ranks(1, 2)
def test_a_failed_solve_is_a_step_too_long():
    """Shortly above the minimum nothing is solved for; trust regions shrink, and come to it."""
    f = setting()[1].scipy()
    best = scipy.optimize.minimize(f.fun, np.zeros(16), jac=f.jac, hessp=f.hessp, method="trust-ncg").x
    limit = float(best.max()) + 0.05
    far = {"initial_trust_radius": 20.0, "max_trust_radius": 100.0}
    for method, options in (("trust-ncg", far), ("trust-constr", {"initial_tr_radius": 20.0, "gtol": 1e-7})):
        f = setting(limit=limit)[1].scipy()
        start = np.full(16, -1.0)
        found = scipy.optimize.minimize(f.fun, start, jac=f.jac, hessp=f.hessp, method=method, options=options)
        assert f.failures > 0
        np.testing.assert_allclose(found.x, best, atol=1e-4)
    m = np.full(16, limit + 1.0)
    before = f.jac(best)
    assert f.fun(m) == np.inf and (f.jac(m) == before).all() and np.isnan(f.hessp(m, m)).all()
    assert f.fun(m * np.nan) == np.inf
    fresh = setting(limit=limit)[1].scipy()
    raised_everywhere(SolveFailed, lambda: fresh.fun(m))


@pytest.mark.ranks(1, 2)
def test_what_is_refused():
    _, J = setting("owned")
    if COMM.size > 1:
        assert "layout='replicated'" in str(raised_everywhere(BadInput, J.scipy))
    else:
        assert J.scipy().fun(np.zeros(16)) > 0.0
    f = setting()[1].scipy()
    assert "(..., 16)" in str(raised_everywhere(BadInput, lambda: f.fun(np.zeros(15))))
    assert "one control vector" in str(raised_everywhere(BadInput, lambda: f.fun(np.zeros((2, 16)))))
