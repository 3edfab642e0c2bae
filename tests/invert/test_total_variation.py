"""Total variation: closed forms, Taylor orders, the same minimum on any number of ranks, and what it has not."""

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
from relax.invert.priors import BlockPrior, IdentityPrior, TotalVariation

COMM = MPI.COMM_WORLD
TRIANGLE, QUADRILATERAL = mesh.CellType.triangle, mesh.CellType.quadrilateral


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def space(element, comm=COMM, cell=TRIANGLE, n=4):
    return fem.functionspace(mesh.create_unit_square(comm, n, n, cell), element)


CASES = [
    pytest.param(("Lagrange", 1), TRIANGLE, id="P1"),
    pytest.param(("Lagrange", 2, (2,)), TRIANGLE, id="P2 vector"),
    pytest.param(("DG", 0), TRIANGLE, id="DG0"),
    pytest.param(("DG", 1), QUADRILATERAL, id="DG1"),
]


@pytest.mark.parametrize(("element", "name"), [(("Lagrange", 1), "slopes"), (("DG", 0), "jumps")])
def test_sums_in_one_dimension(element, name):
    n, weight, smoothing = 12, 3.0, 0.4
    V = fem.functionspace(mesh.create_interval(COMM, n, (0.0, 2.0)), element)
    tv = TotalVariation(V, weight, smoothing)
    m = np.random.default_rng(1).standard_normal(tv.size)
    assert len(np.diff(m)) == (n if name == "slopes" else n - 1)
    exact = weight * np.sqrt(np.diff(m) ** 2 + (smoothing * 2.0 / n) ** 2).sum()
    assert tv.cost(m) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("element", [("Lagrange", 1), ("DG", 0)], ids=["P1", "DG0"])
def test_a_jump_costs_its_length_and_height_alone(element):
    """From 0 to 2 across x = 1/2 in the unit square: 2 (a little more where slopes are smoothed)."""
    V = space(element, cell=QUADRILATERAL, n=10)
    tv = TotalVariation(V, 1.0, 1e-3)
    x = SpaceLayout(V).coordinates
    assert tv.cost(2.0 * (x[:, 0] > 0.5)) == pytest.approx(2.0, rel=2e-3)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(("element", "cell"), CASES)
def test_taylor_orders(element, cell):
    tv = TotalVariation(space(element, cell=cell), 2.0, 0.5)
    rng = np.random.default_rng(3)
    m, v = rng.standard_normal((2, tv.size))
    g, Hv = tv.gradient(m), tv.hessian(m, v)
    steps = 0.02 * 0.5 ** np.arange(4)
    costs = np.array([tv.cost(m + h * v) - tv.cost(m) for h in steps])
    slopes = [np.abs(tv.gradient(m + h * v) - g - h * Hv).max() for h in steps]
    for remainders, order in (
        (np.abs(costs - steps * (g @ v)), 2),
        (np.abs(costs - steps * (g @ v) - 0.5 * steps**2 * (v @ Hv)), 3),
        (slopes, 2),
    ):
        assert np.log2(remainders[2] / remainders[3]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("element", "cell"), CASES)
def test_curvature(element, cell):
    """The Hessian is positive semidefinite, zero for constants, and below the lagged one; metrics hold both."""
    tv = TotalVariation(space(element, cell=cell, n=2), 2.0, 0.5)
    m = np.random.default_rng(3).standard_normal(tv.size)
    unit = np.eye(tv.size)
    H = tv.hessian(m, unit)
    size = np.abs(H).max()
    assert np.abs(H - H.T).max() < 1e-13 * size
    assert np.linalg.eigvalsh(H)[0] > -1e-12 * size
    assert np.abs(tv.hessian(m, np.ones(tv.size))).max() < 1e-12 * size
    newton, lagged = tv.at(m, curvature="newton"), tv.at(m)
    N, L = newton.precision(unit), lagged.precision(unit)
    assert 0.0 < np.linalg.eigvalsh(N - H)[0] and np.linalg.eigvalsh(N - H)[-1] < 0.05 * size
    assert np.linalg.eigvalsh(L - N)[0] > -1e-12 * size
    assert np.allclose(newton.covariance(N), unit, rtol=0, atol=1e-9)
    assert lagged.cost(m) == tv.cost(m) and np.array_equal(lagged.gradient(2.0 * m), tv.gradient(2.0 * m))
    # The lagged form has the gradient of J at m.
    proximal = N - H
    assert np.allclose((L - proximal) @ m, tv.gradient(m), rtol=0, atol=1e-11 * size)
    newton.close()
    lagged.close()


def blur(V):
    """u - 0.05² Δu = m for m in V, u seen in twelve points."""
    U = fem.functionspace(V.mesh, ("Lagrange", 1))
    u, v, m = fem.Function(U), ufl.TestFunction(U), fem.Function(V)
    F = ((u - m) * v + 0.05**2 * inner(grad(u), grad(v))) * dx
    points = [(0.1 + 0.25 * i, 0.2 + 0.3 * j) for i in range(4) for j in range(3)]
    return relax.Problem(residual=F, state=u, controls=[m], name="blur"), relax.PointValues(U, points)


def minimum(G, data, tv, prior_of=lambda p: p, start=None):
    """By steps of Gauss–Newton with J's own curvature, to the last digits."""
    m = np.zeros(G.size_in) if start is None else start
    for k in range(60):
        prior = prior_of(tv.at(m[: tv.size], curvature="lagged" if k < 8 else "newton"))
        options = {"jacobian": "products", "max_steps": 1, "cg_rtol": 1e-6, "rtol": 1e-12, "atol": 1e-12}
        step = relax.gauss_newton(G, data, m, noise=0.02, prior=prior, **options)
        prior.close()
        m = step.value
        if step.history[-1]["gradient_norm"] < 1e-9:
            return m
    raise AssertionError(step.history[-1])


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize(
    ("element", "layout"), [(("Lagrange", 1), "owned"), (("DG", 0), "replicated")], ids=["P1", "DG0"]
)
def test_the_minimum_is_the_same_on_any_number_of_ranks(element, layout):
    V, alone = space(element, n=5), space(element, MPI.COMM_SELF, n=5)
    there = relax.ReducedMap(*blur(alone))
    data = there(relax.control_values(there, lambda x: 1.0 * (x[0] + x[1] > 0.9)))
    data = data + 0.02 * np.random.default_rng(1).standard_normal(len(data))
    expected = minimum(there, data, TotalVariation(alone, 5.0, 0.05))
    here = relax.ReducedMap(*blur(V), layout=layout)
    tv = TotalVariation(V, 5.0, 0.05, layout=layout)
    found = minimum(here, data, tv)
    numbering = SpaceLayout(V)
    mine = expected if layout == "replicated" else numbering.spread(expected)[: numbering.num_owned]
    assert np.allclose(found, mine, rtol=0, atol=1e-8)
    # The gradient of the whole cost is zero there, and L-BFGS ends in the same place.
    with here.linearize(found) as lin:
        total = lin.vjp((lin.value - data) / 0.02**2) + tv.gradient(found)
    assert np.abs(total).max(initial=0.0) < 1e-7
    metric = tv.at(found + 0.1, curvature="newton")
    again = relax.lbfgs(here, data, found + 0.1, noise=0.02, prior=metric, rtol=1e-12, atol=1e-7)
    assert np.allclose(again.value, mine, rtol=0, atol=1e-5)
    metric.close()
    summed = relax.minimize(relax.Misfit(here, data, 0.02) + tv, found + 0.01, metric="H1", rtol=1e-10)
    assert np.allclose(summed.value, mine, rtol=0, atol=1e-6), summed


@pytest.mark.ranks(1, 2)
def test_beside_another_control():
    """A field with jumps and an offset of all data: the blocks of one prior."""
    V = space(("DG", 0), n=5)
    problem, observable = blur(V)
    c = fem.Constant(V.mesh, 0.0)
    v = problem.residual.arguments()[0]
    both = relax.Problem(
        residual=problem.residual - c * v * dx, state=problem.state, controls=[*problem.controls, c], name="offset"
    )
    G = relax.ReducedMap(both, observable)
    tv, number = TotalVariation(V, 2.0, 0.1), IdentityPrior(1, std=0.1)
    data = G(np.concatenate([np.arange(tv.size) % 2, [0.1]]))
    m = minimum(G, data, tv, lambda p: BlockPrior([p, number]))
    with G.linearize(m) as lin:
        total = lin.vjp((lin.value - data) / 0.02**2)
    total += np.concatenate([tv.gradient(m[:-1]), number.gradient(m[-1:])])
    assert np.abs(total).max() < 1e-7


@pytest.mark.ranks(1, 2)
def test_what_it_has_not():
    V = space(("Lagrange", 1), n=3)
    tv = TotalVariation(V, 1.0, 0.1)
    m = np.zeros(tv.size)
    for use in (
        lambda: tv.covariance(m), lambda: tv.mean, lambda: tv.sample(1), lambda: tv.variance(),
        lambda: tv.at(m).color_adjoint(m), lambda: tv.at(m).sample(1),
    ):  # fmt: skip
        with pytest.raises(BadInput, match="it is a penalty, not a Gaussian"):
            use()
    G = relax.ReducedMap(*blur(V))
    with pytest.raises(BadInput, match=r"prior=tv.at\(m\)"):
        relax.gauss_newton(G, np.zeros(G.size_out), noise=1.0, prior=tv)
    with pytest.raises(BadInput, match="smoothing: expected a finite number above 0"):
        TotalVariation(V, 1.0, 0.0)
    with pytest.raises(BadInput, match="weight: expected a finite number above 0"):
        TotalVariation(V, -1.0, 0.1)
    with pytest.raises(BadInput, match="curvature: expected"):
        tv.at(m, curvature="secant")
    with pytest.raises(BadInput, match="expected shape"):
        tv.cost(np.zeros(3))
