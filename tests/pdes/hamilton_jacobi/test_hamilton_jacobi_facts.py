"""Viscous Hamilton–Jacobi equations: what is kept, what is bounded, and what may be moved, stretched and added."""

import numpy as np
import pytest
import ufl
from dolfinx import fem
from landscapes import ROUTES, Cosine, final, integral, on_lattice, on_line, wells
from unsteady import orders

from relax import AtSteps, FieldValues, Newton, ReducedMap, meshes
from relax.pdes import heat
from relax.pdes.hamilton_jacobi import viscous_evolution

PI = np.pi
# The equations of each route as they are made monotone, and as they are otherwise.
MONOTONE = {"direct": {"route": "direct", "stabilisation": True}, "cole_hopf": {"route": "cole_hopf", "theta": 1.0}}


def hills(x):
    """Smooth, not separable, and flat across the walls of the unit square."""
    return 0.3 * np.cos(PI * x[0]) - 0.2 * np.cos(2 * PI * x[0]) * np.cos(PI * x[1]) + 0.1 * np.cos(3 * PI * x[1])


def trajectory(evolution, f=None):
    """Nodal values at every step: (N + 1, n)."""
    field = FieldValues(evolution.state.function_space)
    with ReducedMap(evolution, AtSteps(field, range(evolution.num_steps + 1))) as G:
        m = G.present_control() if f is None else f
        return G(m).reshape(evolution.num_steps + 1, -1)


# -- what is kept ------------------------------------------------------------------------------------------------------


def mass_of_gibbs(domain, values_of, beta, degree):
    """∫ exp(-beta u), the exponential taken at nodes."""
    V = fem.functionspace(domain, ("Lagrange", degree))
    phi = fem.Function(V)
    phi.x.array[:] = np.exp(-beta * values_of.x.array)
    return integral(phi * ufl.dx)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_cole_hopf_keeps_the_integral_of_exp(degree, theta):
    beta, domain = 3.0, meshes.unit_square(6)
    evolution = viscous_evolution(
        domain, hills, beta=beta, t=0.3, num_steps=7, route="cole_hopf", degree=degree, theta=theta
    )
    before = mass_of_gibbs(domain, evolution.initial_state, beta, degree)
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        for _ in G.trajectory(G.present_control()):
            assert mass_of_gibbs(domain, evolution.state, beta, degree) == pytest.approx(before, rel=1e-12)


def test_direct_keeps_it_to_second_order():
    drift = []
    for n in (16, 32, 64):
        f, domain = Cosine(PI), meshes.interval(n)
        evolution = viscous_evolution(domain, f, beta=f.beta, t=0.1, num_steps=n, stabilisation=False)
        before = integral(ufl.exp(-f.beta * evolution.initial_state) * ufl.dx)
        final(evolution)
        drift.append(abs(integral(ufl.exp(-f.beta * evolution.state) * ufl.dx) - before))
    assert orders(drift) == pytest.approx(2.0, abs=0.1) and drift[-1] < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"theta": 1.0}, {"theta": 0.5}, {"theta": "midpoint"}, {"beta": 1e4}])
@pytest.mark.parametrize("degree", [1, 2])
def test_energy(options, degree):
    """d/dt ∫ u = -½ ∫ |grad u|², exactly, in the discrete form of the rule of the steps: with viscosity of any kind."""
    if "beta" in options and degree == 2:
        degree = 1
    domain, dt = meshes.unit_square(5), 0.02
    given = {"beta": 5.0, "degree": degree, "stabilisation": "beta" in options, **options}
    evolution = viscous_evolution(domain, hills, t=4 * dt, num_steps=4, **given)
    u = evolution.state
    rule = ufl.dx(metadata={"quadrature_degree": 2 * degree})
    before, changes, spent = fem.Function(u.function_space), [], []
    with ReducedMap(evolution, FieldValues(u.function_space)) as G:
        for n, _ in G.trajectory(G.present_control()):
            if n > 0:
                theta = options.get("theta", 1.0)
                at = {"midpoint": [(1.0, (u + before) / 2)], 0.5: [(0.5, u), (0.5, before)], 1.0: [(1.0, u)]}[theta]
                changes.append(integral((u - before) * rule) / dt)
                spent.append(sum(-w / 2 * integral(ufl.inner(ufl.grad(z), ufl.grad(z)) * rule) for w, z in at))
            before.x.array[:] = u.x.array
    np.testing.assert_allclose(changes, spent, rtol=1e-7)


# -- what is bounded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
def test_extremes_of_monotone_steps(route):
    """min f <= u <= max f, least values that never fall, greatest that never rise: exactly."""
    beta = 20.0 if route == "cole_hopf" else 1e3
    evolution = viscous_evolution(meshes.unit_square(8), hills, beta=beta, t=0.5, num_steps=10, **MONOTONE[route])
    levels = trajectory(evolution)
    least, greatest = levels.min(axis=1), levels.max(axis=1)
    assert (np.diff(least) >= -1e-12).all() and (np.diff(greatest) <= 1e-12).all()
    assert greatest[-1] < greatest[0] - 0.1


@pytest.mark.parametrize("route", ROUTES)
def test_extremes_of_resolved_steps(route):
    evolution = viscous_evolution(
        meshes.unit_square(12), hills, beta=3.0, t=0.2, num_steps=10, route=route, stabilisation=False
    )
    levels = trajectory(evolution)
    assert (np.diff(levels.min(axis=1)) > 0.0).all() and (np.diff(levels.max(axis=1)) < 0.0).all()


@pytest.mark.parametrize("route", ROUTES)
def test_below_the_heat_equation(route):
    """Jensen: -(1/beta) log E exp(-beta f) <= E f."""
    domain, beta, t = meshes.unit_square(12), 3.0, 0.2
    u, _ = final(viscous_evolution(domain, hills, beta=beta, t=t, num_steps=10, route=route, stabilisation=False))
    v, _ = final(
        heat.evolution(domain, initial=hills, conductivity=1 / (2 * beta), dirichlet={}, dt=t / 10, num_steps=10)
    )
    assert (v - u).min() > 0.0


SECOND = [(0.5, 0.2, 1.087), (2.0, 0.2, 1.987), (50.0, 0.2, 2.272)]


@pytest.mark.parametrize(("beta", "t", "value"), SECOND)
def test_semi_concavity_on_a_line(beta, t, value):
    """sup u'' <= 1/(1/C + t), C = sup f'' = 4.2; and it is what quadrature has found it to be."""
    n = 1200
    domain = meshes.interval(n, (-6.0, 6.0)) if beta < 10 else meshes.interval(n, (-3.0, 3.0))
    u, x = on_line(viscous_evolution(domain, wells, beta=beta, t=t, num_steps=20, stabilisation=False))
    inside = np.abs(x[1:-1]) < 2.0
    second = (np.diff(u, 2) / np.diff(x)[0] ** 2)[inside].max()
    assert second <= 1.02 / (1 / 4.2 + t)
    assert second == pytest.approx(value, rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("beta", "t"), [(1.0, 0.1), (5.0, 0.1)])
def test_semi_concavity_in_the_plane(beta, t, route):
    """sup u_xx, sup u_yy <= 1/(1/C_k + t), sup Lap u <= 1/(1/C_L + t/d), by differences on the lattice of nodes."""
    n = 40
    evolution = viscous_evolution(
        meshes.unit_square(n), hills, beta=beta, t=t, num_steps=10, route=route, stabilisation=False
    )
    field = FieldValues(evolution.state.function_space)
    start = seconds(on_lattice(hills(field.coordinates.T), field.coordinates))
    end = seconds(on_lattice(*final(evolution)))
    for before, after, dim in ((start[0], end[0], 1), (start[1], end[1], 1), (start[2], end[2], 2)):
        assert before > 1.0
        assert after <= 1.02 / (1 / before + t / dim)
    # The bound says something: far from what is allowed at the start.
    assert end[2] < 0.9 * start[2]


def seconds(u):
    """The largest second differences along x, along y, and of their sum, mirrored at walls."""
    u = np.pad(u, 1, mode="reflect")
    h = 1.0 / (u.shape[0] - 3)
    xx = (u[2:, 1:-1] - 2 * u[1:-1, 1:-1] + u[:-2, 1:-1]) / h**2
    yy = (u[1:-1, 2:] - 2 * u[1:-1, 1:-1] + u[1:-1, :-2]) / h**2
    return xx.max(), yy.max(), (xx + yy).max()


# -- what may be added, moved and stretched ----------------------------------------------------------------------------


@pytest.mark.parametrize("stabilisation", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_shift(route, stabilisation):
    evolution = viscous_evolution(
        meshes.unit_square(5), hills, beta=4.0, t=0.2, num_steps=4, route=route, stabilisation=stabilisation
    )
    u, _ = final(evolution)
    above, _ = final(evolution, lambda x: hills(x) + 2.5)
    np.testing.assert_allclose(above, u + 2.5, atol=1e-10)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dim", [1, 2])
def test_contraction_order_and_concavity(route, dim):
    """|u[f] - u[g]| <= |f - g| in the sup norm, f <= g has u[f] <= u[g], u is concave in f: exactly on monotone steps.

    But for concavity on the direct route in the plane, where viscosity is not convex in u.
    """
    domain, f = (meshes.interval(20), lambda x: hills([x[0], 0.3])) if dim == 1 else (meshes.unit_square(5), hills)
    beta = 8.0 if route == "cole_hopf" else 1e4
    evolution = viscous_evolution(domain, f, beta=beta, t=0.2, num_steps=4, **MONOTONE[route])
    with ReducedMap(evolution, FieldValues(evolution.state.function_space), solver=Newton(rtol=1e-13)) as G:
        rng = np.random.default_rng(0)
        for _ in range(4):
            f, g = G.present_control() + 0.2 * rng.uniform(-1.0, 1.0, (2, G.size_in))
            u, v, below, between = G(np.stack([f, g, np.minimum(f, g), (f + g) / 2]))
            assert np.abs(u - v).max() <= np.abs(f - g).max() + 1e-12
            assert (below <= np.minimum(u, v) + 1e-12).all()
            if dim == 1 or route == "cole_hopf":
                assert (between >= (u + v) / 2 - 1e-12).all()


@pytest.mark.parametrize("route", ROUTES)
def test_galilei(route):
    """u[f + a x](x, t) = a x - a² t / 2 + u[f](x - a t): walls are far away."""
    a, t, n = 0.5, 0.4, 250
    given = {"beta": 2.0, "t": t, "num_steps": 80, "degree": 2, "route": route, "stabilisation": False}
    domain = meshes.interval(n, (-5.0, 5.0))
    u, x = on_line(viscous_evolution(domain, wells, **given))
    moved, _ = on_line(viscous_evolution(domain, lambda x: wells(x) + a * x[0], **given))
    # a t is ten nodes: what was there is here.
    shift = round(a * t / (x[1] - x[0]))
    assert x[shift] - x[0] == pytest.approx(a * t)
    gap = np.abs(moved - (a * x - a**2 * t / 2 + np.roll(u, shift)))[np.abs(x) < 2.0].max()
    assert gap < 3e-5


@pytest.mark.parametrize(
    "options", [{"route": "direct"}, {"route": "direct", "stabilisation": True}, {"route": "cole_hopf"}]
)
def test_scaling(options):
    """(mu²/tau) u(x/mu, t/tau) solves it with beta tau / mu² in place of beta: on the stretched mesh, to rounding."""
    mu, tau = 1.7, 0.6
    given = {"num_steps": 5, "stabilisation": False, **options}
    u, _ = final(viscous_evolution(meshes.unit_square(5), hills, beta=4.0, t=0.3, **given))
    stretched, _ = final(
        viscous_evolution(
            meshes.rectangle((0.0, 0.0), (mu, mu), (5, 5)), lambda x: mu**2 / tau * hills(x / mu),
            beta=4.0 * tau / mu**2, t=0.3 * tau, **given,
        )
    )  # fmt: skip
    np.testing.assert_allclose(stretched, mu**2 / tau * u, atol=1e-10)


def separable_gap(route, num_steps):
    """Of u[f_1(x) + f_2(y)] and u_1 + u_2, the plane in squares against two lines."""
    given = {"beta": 2.0, "t": 0.2, "num_steps": num_steps, "route": route, "stabilisation": False, "degree": 2}
    f = [lambda x: 0.3 * np.cos(PI * x), lambda y: -0.2 * np.cos(2 * PI * y)]
    parts = [on_line(viscous_evolution(meshes.interval(10), lambda x, f=f_i: f(x[0]), **given))[0] for f_i in f]
    domain = meshes.unit_square(10, cell="quadrilateral")
    whole = final(viscous_evolution(domain, lambda x: f[0](x[0]) + f[1](x[1]), **given))
    return np.abs(on_lattice(*whole) - (parts[0][:, None] + parts[1])).max()


def test_what_is_separable_stays_so():
    """Exactly where the steps add up; by Cole and Hopf they multiply, which is of second order in their length."""
    assert separable_gap("direct", 8) < 1e-9
    gaps = [separable_gap("cole_hopf", n) for n in (8, 16)]
    assert gaps[0] < 2e-4 and orders(gaps) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("route", ROUTES)
def test_half_way_and_on(route):
    """Two runs of four steps are one of eight."""
    given = {"beta": 3.0, "route": route, "stabilisation": False}
    domain = meshes.unit_square(5)
    once = viscous_evolution(domain, hills, t=0.2, num_steps=8, **given)
    half = viscous_evolution(domain, hills, t=0.1, num_steps=4, **given)
    values, _ = final(half)
    again, _ = final(half, lambda x: values)
    np.testing.assert_allclose(again, final(once)[0], atol=1e-9)
