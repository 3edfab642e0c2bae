"""The stationary viscous Hamilton–Jacobi equation: closed forms, limits, and continuation in beta."""

from dataclasses import replace

import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere
from dolfinx import fem
from landscapes import errors, final, on_line
from unsteady import orders

from relax import BadProblem, Continuation, FieldValues, ReducedMap, SolveFailed, check_map, meshes
from relax.pdes.hamilton_jacobi import viscous, viscous_evolution
from relax.pdes.hamilton_jacobi.stabilisation import largest_slope

PI = np.pi


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "sizes"), [(1, (32, 64)), (2, (16, 32))])
def test_viscous_distance_on_a_line(degree, sizes):
    """½ u'² - u''/(2 beta) = ½ between two ends at 0: exp(-beta u) = cosh(beta (x - ½)) / cosh(beta / 2)."""
    beta, found = 8.0, []
    for n in sizes:
        domain = meshes.interval(n)
        x = ufl.SpatialCoordinate(domain)[0]
        exact = -ufl.ln(ufl.cosh(beta * (x - 0.5)) / np.cosh(beta / 2)) / beta
        problem = viscous(
            domain, 0.5, beta=beta, discount=0.0, dirichlet={"left": 0.0, "right": 0.0}, degree=degree,
            stabilisation=False,
        )  # fmt: skip
        found.append(errors(problem, exact))
    in_l2, in_h1 = zip(*found, strict=True)
    assert orders(in_l2) == pytest.approx(degree + 1, abs=0.1) and orders(in_h1) == pytest.approx(degree, abs=0.1)


@pytest.mark.parametrize(("degree", "sizes"), [(1, (16, 32)), (2, (8, 16))])
def test_cole_hopf_in_the_plane(degree, sizes):
    """Lap phi = 2 beta² f phi, phi = exp(-beta u): cosh(k x) cosh(l y) with k² + l² = 2 beta² f; data on two sides."""
    beta, k, l_, found = 2.0, 2.0, 3.0, []
    for n in sizes:
        domain = meshes.unit_square(n)
        x = ufl.SpatialCoordinate(domain)
        # Even in x and y: no slope across the two sides at the origin.
        exact = -ufl.ln(ufl.cosh(k * x[0]) * ufl.cosh(l_ * x[1])) / beta
        problem = viscous(
            domain, (k**2 + l_**2) / (2 * beta**2), beta=beta, discount=0.0, dirichlet={"right": exact, "top": exact},
            degree=degree, stabilisation=False,
        )  # fmt: skip
        found.append(errors(problem, exact))
    in_l2, in_h1 = zip(*found, strict=True)
    assert orders(in_l2) == pytest.approx(degree + 1, abs=0.1) and orders(in_h1) == pytest.approx(degree, abs=0.1)


@pytest.mark.parametrize(("degree", "sizes"), [(1, (16, 32)), (2, (8, 16))])
def test_with_discount(degree, sizes):
    """A cosine with no slope across the walls, and the cost that makes it the solution."""
    beta, discount, found = 3.0, 0.7, []
    for n in sizes:
        domain = meshes.unit_square(n)
        x = ufl.SpatialCoordinate(domain)
        exact = 0.3 * ufl.cos(PI * x[0]) * ufl.cos(PI * x[1])
        p = ufl.grad(exact)
        cost = discount * exact + ufl.inner(p, p) / 2 - ufl.div(p) / (2 * beta)
        problem = viscous(domain, cost, beta=beta, discount=discount, degree=degree, stabilisation=False)
        found.append(errors(problem, exact))
    in_l2, in_h1 = zip(*found, strict=True)
    # Cosines are ahead of quadratic elements on meshes as coarse as these.
    assert orders(in_l2)[0] > degree + 0.9 and orders(in_h1) == pytest.approx(degree, abs=0.1)


@pytest.mark.parametrize("stabilisation", [False, True])
def test_one_implicit_step_of_the_equation_in_time(stabilisation):
    """discount = 1/t, f = landscape/t."""

    def hills(x):
        return 0.4 * np.sin(3.0 * x[0]) + 0.3 * np.cos(2.0 * x[1] + x[0])

    domain, t = meshes.unit_square(6), 0.3
    given = {"beta": 30.0, "stabilisation": stabilisation}
    step, _ = final(viscous_evolution(domain, hills, t=t, num_steps=1, theta=1.0, **given))
    u, _ = final(viscous(domain, lambda x: hills(x) / t, discount=1 / t, **given))
    close(u, step, 1e-9)


# -- large beta --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1e3, 1e5])
def test_distance(beta):
    """f = ½, discount = 0: the distance to the ends; no slope above 1, the error of first order in h."""
    gaps = []
    for n in (50, 100):
        problem = viscous(meshes.interval(n), 0.5, beta=beta, discount=0.0, dirichlet={"left": 0.0, "right": 0.0})
        u, x = on_line(problem)
        assert np.abs(np.diff(u) / np.diff(x)).max() <= 1.0 + 1e-9
        gaps.append(np.abs(u - np.minimum(x, 1 - x)).max())
    assert gaps[-1] < 5e-3 and orders(gaps)[0] > 0.8


def test_distance_in_the_plane():
    """To the four sides; slopes stay below 1."""
    gaps, sides = [], dict.fromkeys(("left", "right", "bottom", "top"), 0.0)
    for n in (10, 20, 40):
        problem = viscous(meshes.unit_square(n), 0.5, beta=1e5, discount=0.0, dirichlet=sides)
        u, x = final(problem)
        gaps.append(np.abs(u - np.min([x[:, 0], 1 - x[:, 0], x[:, 1], 1 - x[:, 1]], axis=0)).max())
        assert largest_slope(problem.state, problem.state.function_space) <= 1.0 + 1e-9
    assert (orders(gaps) > 0.5).all()


@pytest.mark.parametrize("beta", [20.0, 1e4])
def test_comparison(beta):
    """min f <= discount u <= max f; a greater cost has a greater value; a constant goes through."""
    domain, discount = meshes.unit_square(8), 0.5
    problem = viscous(domain, lambda x: np.cos(PI * x[0]) * np.cos(2 * PI * x[1]), beta=beta, discount=discount)
    with ReducedMap(problem, FieldValues(problem.state.function_space)) as G:
        f = G.present_control()
        u, above, shifted = G(f), G(f + np.random.default_rng(0).uniform(0.0, 0.2, f.size)), G(f + 0.3)
        assert f.min() - 1e-9 <= discount * u.min() and discount * u.max() <= f.max() + 1e-9
        assert (above >= u - 1e-9).all()
        close(shifted, u + 0.3 / discount, 1e-8)


# -- continuation ------------------------------------------------------------------------------------------------------


def hard():
    """From zero Newton's method does not get there: hardly any discount, almost no viscosity."""
    return viscous(meshes.interval(200), lambda x: 5.0 * np.sin(3.0 * x[0]), beta=1e4, discount=0.05)


@pytest.mark.slow
def test_continuation():
    """Without it the solve fails; with it the solution solves the equation, written by hand in differences."""
    problem = hard()
    V, register = problem.state.function_space, problem.continuation.constant
    with ReducedMap(replace(problem, continuation=None), FieldValues(V)) as G:
        assert "Newton's method" in str(raised_everywhere(SolveFailed, lambda: G(G.present_control())))
    problem.state.x.array[:] = 0.0
    with ReducedMap(problem, FieldValues(V)) as G:
        u = G(G.present_control())
        assert float(register.value) == 1e4
        assert check_map(G, G.present_control()).failures == []
    order = np.argsort(FieldValues(V).coordinates[:, 0])
    u, f = u[order], 5.0 * np.sin(3.0 * np.linspace(0.0, 1.0, 201))
    np.testing.assert_allclose(0.05 * u + by_hand(u, 1e4), f, atol=1e-7)


def by_hand(u, beta):
    """½ u'² - ((nu² + (h u'/4)²)^½ u')' by differences on the unit interval, mirrored at its ends."""
    n = len(u) - 1
    p = np.diff(np.pad(u, 1, mode="reflect")) * n
    return (p[:-1] ** 2 + p[1:] ** 2) / 4 - np.diff(np.hypot(1 / (2 * beta), p / (4 * n)) * p) * n


@pytest.mark.ranks(1, 2)
def test_continuation_of_a_long_step():
    """One implicit step over a time in which slopes cross the domain many times."""
    given = {"beta": 1e4, "t": 100.0, "num_steps": 1}
    evolution = viscous_evolution(meshes.interval(400), lambda x: 0.1 * np.sin(4.0 * x[0]), **given)
    without = replace(evolution, step=replace(evolution.step, continuation=None))
    field = FieldValues(evolution.state.function_space)
    searching = {"snes_linesearch_type": "bt"}
    with ReducedMap(without, field, options=searching) as G:
        assert "step 1 of 1 (time 100)" in str(raised_everywhere(SolveFailed, lambda: G(G.present_control())))
    with ReducedMap(evolution, field, options=searching) as G, ReducedMap(without, field) as by_full_steps:
        close(by_full_steps(G.present_control()), G(G.present_control()), 1e-8)
    u, f = on_line(evolution)[0], 0.1 * np.sin(4.0 * np.linspace(0.0, 1.0, 401))
    np.testing.assert_allclose((u - f) / 100 + by_hand(u, 1e4), 0.0, atol=1e-7)


@pytest.mark.ranks(1, 2)
def test_a_failed_continuation_says_both():
    """From a number at which the first stage fails, too; the register is as it was."""
    problem = hard()
    path = replace(problem.continuation, easy=2e3)
    with ReducedMap(replace(problem, continuation=path), FieldValues(problem.state.function_space)) as G:
        error = raised_everywhere(SolveFailed, lambda: G(G.present_control()))
    assert "Continuation from 2000 towards 10000 failed, too, at 2000" in str(error)
    assert float(path.constant.value) == 1e4


@pytest.mark.ranks(1, 2)
def test_continuations_that_do_not_fit():
    domain = meshes.interval(2)
    number = fem.Constant(domain, 1.0)
    for constant, easy in ((1.0, 1.0), (fem.Constant(domain, (1.0, 2.0)), 1.0), (number, 0.0), (number, np.nan)):
        raised_everywhere(BadProblem, lambda constant=constant, easy=easy: Continuation(constant, easy))
    problem = viscous(domain, 1.0, beta=2.0)
    raised_everywhere(BadProblem, lambda: replace(problem, continuation=Continuation(number, 1.0)))
