"""The route of Cole and Hopf: users see u, not phi; what it refuses; when "auto" takes it; batches and storage."""

import numpy as np
import pytest
import ufl
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem
from landscapes import Cosine, on_line
from unsteady import HELD, all_same, products, storage

from relax import (
    AtSteps,
    BadInput,
    FieldValues,
    Functional,
    PointValues,
    ReducedMap,
    SolveFailed,
    Stack,
    TimeIntegral,
    meshes,
)
from relax.pdes.hamilton_jacobi import cell_peclet, viscous_evolution

N = 5


def hills(x):
    return 0.4 * np.sin(3.0 * x[0]) + 0.3 * np.cos(2.0 * x[1] + x[0])


def make(observe=lambda e: FieldValues(e.state.function_space), *, domain=None, beta=2.0, f=hills, **options):
    schedule = options.pop("storage", None)
    domain = domain or meshes.unit_square(4)
    evolution = viscous_evolution(domain, f, beta=beta, t=0.2, num_steps=N, route="cole_hopf", **options)
    return ReducedMap(evolution, observe(evolution), storage=schedule)


# -- what is seen is u -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("theta", "lumped"), [(0.5, False), (1.0, True)])
def test_steps_by_hand(theta, lumped):
    """The heat equation for exp(-beta u), in dense matrices written down here."""
    n, dt, beta = 8, 0.2 / N, 18.0 if lumped else 1.0
    h, ends, ones = 1.0 / n, np.diag([0.5, *np.ones(n - 1), 0.5]), np.ones(n)
    M = h * ends if lumped else h / 6 * (np.diag(ones, 1) + np.diag(ones, -1) + 4 * ends)
    K = 1 / (2 * beta * h) * (2 * ends - np.diag(ones, 1) - np.diag(ones, -1))
    observe = lambda e: AtSteps(FieldValues(e.state.function_space), range(N + 1))  # noqa: E731
    with make(observe, domain=meshes.interval(n), beta=beta, f=lambda x: 0.4 * np.sin(3.0 * x[0])) as G:
        m = G.present_control()
        found = G(m).reshape(N + 1, n + 1)
    phi = np.exp(-beta * m)
    for row in found:
        close(row, -np.log(phi) / beta, 1e-11)
        phi = np.linalg.solve(M + theta * dt * K, (M - (1 - theta) * dt * K) @ phi)


def test_every_way_of_looking_sees_u():
    """Points, functionals, integrals over time, trajectories, and the state's register after each call."""
    u, seen = None, []

    def looks(evolution):
        u = evolution.state
        V, mean = u.function_space, Functional(ufl.sin(u) * ufl.dx)
        points = PointValues(V, [[0.3, 0.4], [0.75, 0.5]])
        return Stack([AtSteps(points, [0, 2, -1]), AtSteps(mean, range(N + 1)), TimeIntegral(mean, 0.04), mean])

    with make(looks) as G:
        u, m = G.problem.state, G.present_control() + 0.1
        V = u.function_space
        points, field = PointValues(V, [[0.3, 0.4], [0.75, 0.5]]), FieldValues(V)
        y = G(m)
        last = field.value(u)
        for n, time in G.trajectory(m):
            assert time == pytest.approx(0.04 * n)
            seen.append((field.value(u), points.value(u), Functional(ufl.sin(u) * ufl.dx).value(u)[0]))
        close(seen[0][0], m, 1e-14)
        close(last, seen[-1][0], 1e-14)
        means = np.array([mean for _, _, mean in seen])
        integral = 0.04 * (means[1:-1].sum() + (means[0] + means[-1]) / 2)
        close(y, np.concatenate([seen[0][1], seen[2][1], seen[N][1], means, [integral, means[-1]]]), 1e-13)
        with G.linearize(m) as lin:
            close(field.value(u), last, 1e-14)
            lin.vjp(np.ones(G.size_out))
            close(lin.value, y, 1e-14)
        # A batch leaves the last of its members.
        G(np.stack([m + 0.3, m]))
        close(field.value(u), last, 1e-11)
        close(G.present_control(), m, 1e-14)


def test_both_routes_tend_to_the_same():
    """Values and tangents of f that is flat across the walls, at the distance of the errors in time."""
    f, found = Cosine(np.pi, np.pi), {}
    for route in ("direct", "cole_hopf"):
        evolution = viscous_evolution(
            meshes.unit_square(12), f, beta=f.beta, t=0.1, num_steps=20, route=route, degree=2, stabilisation=False
        )
        field = FieldValues(evolution.state.function_space)
        with ReducedMap(evolution, field) as G, G.linearize(G.present_control()) as lin:
            found[route] = lin.value, lin.jvp(np.cos(np.pi * field.coordinates[:, 0]))
    for a, b in zip(found["direct"], found["cole_hopf"], strict=True):
        assert 1e-6 < np.abs(a - b).max() < 1e-3


# -- batches and storage -----------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("lumped", [False, True])
def test_batches_are_single_runs(lumped):
    options = {"beta": 12.0 if lumped else 2.0}
    with make(lambda e: AtSteps(FieldValues(e.state.function_space), [2, -1]), **options) as G:
        M = G.present_control() + 0.1 * np.random.default_rng(0).uniform(-1, 1, (11, G.size_in))
        each = np.array([G(m) for m in M])
        everyone_has(each)
        close(G(M), each)
        w, d = np.cos(np.arange(G.size_out)), np.sin(np.arange(G.size_in))
        for m, point in zip(M[:3], G.linearize_each(M[:3]), strict=True):
            with G.linearize(m) as lin:
                for found, expected in zip(
                    (point.value, point.vjp(w), point.jvp(d), point.hvp(w, d)),
                    (lin.value, lin.vjp(w), lin.jvp(d), lin.hvp(w, d)),
                    strict=True,
                ):
                    close(found, expected)
            point.close()


@pytest.mark.parametrize("held", HELD)
def test_storage(held):
    """Derivatives of a trajectory that is held in part are the same to the bit; they are those of one held whole."""
    observe = lambda e: AtSteps(FieldValues(e.state.function_space), [0, 2, N])  # noqa: E731
    with make(observe) as G, make(observe, storage=storage(held, N)) as H:
        m = G.present_control() + 0.1
        with G.linearize(m) as lin, H.linearize(m) as other:
            all_same(products(other), products(lin))
            assert H.counts["stored"] < G.counts["stored"] or held == HELD[0]


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_too_many_digits_are_refused():
    """phi of 2e-11 of the greatest keeps five digits of sixteen: beta (max f - min f) of 24.5."""
    domain = meshes.interval(400)
    given = {"t": 0.01, "num_steps": 2, "route": "cole_hopf"}
    error = raised_everywhere(BadInput, lambda: viscous_evolution(domain, lambda x: x[0], beta=25.0, **given))
    assert "route='direct'" in str(error) and "25" in str(error) and "lose its digits" in str(error)
    u, x = on_line(viscous_evolution(domain, lambda x: x[0], beta=24.0, **given))
    inside = np.abs(x - 0.5) < 0.2
    close(u[inside], (x - 0.005)[inside], 1e-4)


@pytest.mark.ranks(1, 2)
def test_a_control_that_moved_is_refused():
    """After the evolution was made: too wide, and overflowing; the map is as good as before."""
    with make(beta=4.0) as G:
        m = G.present_control()
        y = G(m)
        for moved, word in ((m * 40.0, "lose its digits"), (m - 1e3, "overflows"), (m + 1e3, "not positive")):
            for action in (lambda moved=moved: G(moved), lambda moved=moved: G.linearize(moved)):
                error = raised_everywhere(SolveFailed, action)
                assert "route='direct'" in str(error) and word in str(error) and "step 0 of 5" in str(error)
            error = raised_everywhere(SolveFailed, lambda moved=moved: G(np.stack([m, moved])))
            assert word in str(error)
        close(G(m), y, 1e-14)


@pytest.mark.ranks(1, 2)
def test_a_mesh_that_is_too_coarse_is_refused():
    """Crank–Nicolson and quadratic elements lose positivity; where the mass is lumped, backward Euler does not."""
    given = {"beta": 20.0, "f": lambda x: x[0], "domain": meshes.interval(4)}
    with make(degree=2, **given) as G:
        error = raised_everywhere(SolveFailed, lambda: G(G.present_control()))
        assert "not positive" in str(error) and "of 5 (time" in str(error) and "route='direct'" in str(error)
    with make(**given) as G:
        u = G(G.present_control())
        assert np.isfinite(u).all() and u.min() >= -1e-12 and u.max() <= 1.0 + 1e-12


# -- "auto" ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "n", "degree", "scale", "expected"),
    [
        (3.0, 10, 1, 1.0, "cole_hopf"),
        (5.0, 10, 1, 1.0, "direct"),
        (5.0, 20, 1, 1.0, "cole_hopf"),
        (5.0, 10, 2, 1.0, "cole_hopf"),
        (3.0, 10, 1, 2.0, "direct"),
        # The mesh is fine enough, but phi would lose its digits.
        (24.0, 80, 1, 1.0, "cole_hopf"),
        (25.0, 80, 1, 1.0, "direct"),
    ],
)
def test_auto(beta, n, degree, scale, expected):
    """f = scale x: h beta |grad f| is beta scale / (n degree), against 0.4."""
    evolution = viscous_evolution(
        meshes.interval(n), lambda x: scale * x[0], beta=beta, t=0.1, num_steps=1, degree=degree, route="auto"
    )
    assert (evolution.substitution is not None) == (expected == "cole_hopf")


def test_auto_sees_the_drift():
    given = {"beta": 3.0, "t": 0.1, "num_steps": 1, "route": "auto"}
    for slope, expected in ((0.2, True), (0.5, False)):
        evolution = viscous_evolution(
            meshes.interval(10), lambda x: x[0], drift_potential=lambda x, s=slope: s * x[0], **given
        )
        assert (evolution.substitution is not None) == expected


def test_cell_peclet():
    domain = meshes.unit_square(4)
    V = fem.functionspace(domain, ("Lagrange", 1))
    h = np.sqrt(2.0) / 4
    assert cell_peclet(lambda x: 3 * x[0] + 4 * x[1], V, beta=2.0) == pytest.approx(10.0 * h, rel=1e-12)
    W = fem.functionspace(domain, ("Lagrange", 2))
    assert cell_peclet(lambda x: 3 * x[0] + 4 * x[1], W, beta=2.0) == pytest.approx(5.0 * h, rel=1e-12)
    # One cell: other ranks own none.
    V = fem.functionspace(meshes.interval(1), ("Lagrange", 1))
    assert cell_peclet(lambda x: -3.0 * x[0], V, beta=0.5) == pytest.approx(1.5, rel=1e-12)
