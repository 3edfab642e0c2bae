"""The adjoint of u(x, t) in its landscape is the Gibbs density; steering by it has a closed form."""

import numpy as np
import pytest
from contract import close
from landscapes import PLANES, ROUTES, both, final, on_line, wells

from relax import FieldValues, PointValues, ReducedMap, meshes
from relax.jobs.landscape.functions import rugged
from relax.pdes.hamilton_jacobi import viscous_evolution

# -- the Gibbs density -------------------------------------------------------------------------------------------------


def gibbs(f, x0, t, beta, y):
    """The density of rho(y; x0) ~ exp(-beta f(y) - beta |x0 - y|² / (2 t)) at a fine, even grid y, by its sum."""
    exponents = -beta * (f(y[None, :]) + (y - x0) ** 2 / (2 * t))
    weights = np.exp(exponents - exponents.max())
    return weights / weights.sum() / (y[1] - y[0])


@pytest.mark.parametrize("route", ROUTES)
def test_the_adjoint_is_the_gibbs_density(route):
    """d u(x0, t) / d f(y_i) = ∫ rho(y; x0) phi_i(y) dy, phi_i the basis of f; f is steep enough to have two wells."""
    beta, t, x0, n = 4.0, 0.5, 0.3, 200
    evolution = viscous_evolution(
        meshes.interval(n, (-4.0, 4.0)), wells, beta=beta, t=t, num_steps=80, route=route, stabilisation=False
    )
    V = evolution.state.function_space
    with ReducedMap(evolution, PointValues(V, [[x0]])) as G, G.linearize(G.present_control()) as lin:
        weights = lin.vjp(np.ones(1))
    x = FieldValues(V).coordinates[:, 0]
    y = np.linspace(-4.0, 4.0, 16_001)
    rho, h = gibbs(wells, x0, t, beta, y), 8.0 / n
    hats = np.maximum(0.0, 1 - np.abs(y[:, None] - x) / h)
    expected = (rho @ hats) * (y[1] - y[0])
    assert weights.min() >= -1e-10 and weights.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.abs(weights - expected).max() < 5e-3 * expected.max()


@pytest.mark.parametrize("route", ROUTES)
def test_the_adjoint_in_the_plane(route):
    """A product of two normal densities, f being a quadratic far from walls.

    By Cole and Hopf the mass is lumped here, and nothing is below zero. Galerkin's equations with the full mass matrix
    are not monotone in the plane.
    """
    beta, t, n = 4.0, 0.2, 32
    c, x0 = np.array([1.0, 3.0]), np.array([0.25, -0.25])
    evolution = viscous_evolution(
        meshes.rectangle((-1.5, -1.5), (1.5, 1.5), (n, n)), lambda x: (c[0] * x[0] ** 2 + c[1] * x[1] ** 2) / 2,
        beta=beta, t=t, num_steps=16, route=route, stabilisation=False,
    )  # fmt: skip
    V = evolution.state.function_space
    with ReducedMap(evolution, PointValues(V, [x0])) as G, G.linearize(G.present_control()) as lin:
        weights = lin.vjp(np.ones(1))
    x = FieldValues(V).coordinates[:, :2]
    mean = weights @ x
    variance = weights @ x**2 - mean**2
    assert weights.min() >= (-1e-10 if route == "cole_hopf" else -5e-3 * weights.max())
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    # Backward Euler on one route, Crank–Nicolson on the other.
    np.testing.assert_allclose(mean, x0 / (1 + c * t), atol=5e-3 if route == "cole_hopf" else 1e-3)
    np.testing.assert_allclose(variance, t / beta / (1 + c * t), rtol=0.05)


@pytest.mark.parametrize(("t", "num_steps"), [(1.0, 2), (0.2, 10)])
@pytest.mark.parametrize("beta", [5.0, 1e5])
@pytest.mark.parametrize("plane", PLANES)
def test_stabilised_adjoints_are_weights(plane, beta, t, num_steps):
    """Sums of 1, and no entry below zero but for rounding, at any beta; very little below where angles are obtuse.

    There, at beta = 5, the cells resolve the equation, and what is below zero is Galerkin's own.
    """
    evolution = viscous_evolution(PLANES[plane](), both, beta=beta, t=t, num_steps=num_steps, stabilisation=True)
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        picked = np.random.default_rng(0).choice(G.size_out, 40, replace=False)
        with G.linearize(G.present_control()) as lin:
            weights = lin.vjp(np.eye(G.size_out)[picked])
    assert weights.min() >= (-1.1e-2 * weights.max() if plane == "obtuse" else -1e-15)
    assert np.abs(weights.sum(axis=1) - 1.0).max() < 1e-12


@pytest.mark.parametrize("beta", [50.0, 1e3])
def test_adjoints_of_a_rugged_landscape_are_weights(beta):
    """Right angles, and many kinks: with a viscosity that is the same in all directions there are some of -1e-2."""
    evolution = viscous_evolution(
        meshes.rectangle((-2.0, -2.0), (2.0, 2.0), (16, 16)), rugged, beta=beta, t=0.2, num_steps=8
    )
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        with G.linearize(G.present_control()) as lin:
            weights = lin.matrix()
    assert (weights.min(axis=1) >= -1e-15 * weights.max(axis=1)).all()


def test_lumped_cole_hopf_adjoints_are_weights():
    evolution = viscous_evolution(meshes.unit_square(10), both, beta=20.0, t=0.2, num_steps=2, route="cole_hopf")
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        with G.linearize(G.present_control()) as lin:
            weights = lin.matrix()
    assert weights.min() >= 0.0 and np.abs(weights.sum(axis=1) - 1.0).max() < 1e-12


# -- steering ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
def test_steering_in_a_quadratic(route):
    """f = g = c x²/2: u = a(t) x²/2 + log((3 - e)/2) / (2 beta), a = 2 c / (3 exp(2 c t) - 1), e = exp(-2 c t).

    At x = 1.7 that is what the steered process pays: E f = 0.18965549 and ½ E ∫ |alpha|² = 0.06432961.
    """
    c, beta, t = 1.3, 2.0, 0.8

    def quadratic(x):
        return c * x[0] ** 2 / 2

    evolution = viscous_evolution(
        meshes.interval(148, (-3.7, 3.7)), quadratic, beta=beta, t=t, num_steps=120, degree=2, route=route,
        drift_potential=quadratic, stabilisation=False,
    )  # fmt: skip
    u, x = on_line(evolution)
    e = np.exp(-2 * c * t)
    exact = c / (3 / e - 1) * x**2 + np.log((3 - e) / 2) / (2 * beta)
    inside = np.abs(x) < 1.71
    np.testing.assert_allclose(u[inside], exact[inside], atol=3e-5)
    assert u[np.argmin(np.abs(x - 1.7))] == pytest.approx(0.18965549 + 0.06432961, abs=3e-5)


@pytest.mark.parametrize("stabilisation", [False, True])
def test_a_constant_drift_carries_along(stabilisation):
    """g = a x: u(x, t) is that without drift at x - a t; stabilised the error is of first order."""
    a, beta, t, n = 1.0, 2.0, 0.4, 400
    given = {"beta": beta, "t": t, "num_steps": 40, "stabilisation": stabilisation}
    domain = meshes.interval(n, (-5.0, 5.0))
    u, x = on_line(viscous_evolution(domain, wells, **given))
    carried, _ = on_line(viscous_evolution(domain, wells, drift_potential=lambda x: a * x[0], **given))
    inside = np.abs(x) < 2.0
    gap = np.abs(carried - np.roll(u, round(a * t / (x[1] - x[0]))))[inside].max()
    assert gap < (2e-2 if stabilisation else 1e-3)


def test_no_drift_is_a_constant_potential():
    domain = meshes.unit_square(4)
    given = {"beta": 3.0, "t": 0.2, "num_steps": 3}
    values = [
        final(viscous_evolution(domain, both, drift_potential=g, **given))[0] for g in (None, 2.0, lambda x: 0 * x[0])
    ]
    close(values[1], values[0], 1e-12)
    close(values[2], values[0], 1e-12)
