"""Viscous Hamilton–Jacobi equations: large beta, large t, kinks, and slopes that do not overshoot."""

import numpy as np
import pytest
from contract import COMM
from dolfinx import fem
from landscapes import PLANES, ROUTES, both, final, hopf_lax, on_line, sheared
from scipy.special import log_ndtr
from unsteady import orders

from relax import AtSteps, FieldValues, ReducedMap, meshes
from relax.base import parallel
from relax.pdes.hamilton_jacobi import viscous_evolution
from relax.pdes.hamilton_jacobi.stabilisation import largest_slope

PI = np.pi


# -- large beta --------------------------------------------------------------------------------------------------------


def test_inviscid_limit_of_a_convex_function():
    """beta (u_beta - u_HL) -> ½ log(1 + t f''(y*)), y* + t f'(y*) = x, and the rest falls as 1/beta."""
    t, c, gaps = 0.5, 0.2, []
    domain = meshes.interval(120, (-2.4, 2.4))
    for beta in (10.0, 20.0, 40.0):
        evolution = viscous_evolution(
            domain, lambda x: x[0] ** 2 / 2 + c * x[0] ** 4 / 4, beta=beta, t=t, num_steps=100, degree=2,
            stabilisation=False,
        )  # fmt: skip
        u, x = on_line(evolution)
        u, x = u[np.abs(x) < 1.01], x[np.abs(x) < 1.01]
        y = x.copy()
        for _ in range(20):
            y -= (y + t * (y + c * y**3) - x) / (1 + t * (1 + 3 * c * y**2))
        limit = y**2 / 2 + c * y**4 / 4 + (x - y) ** 2 / (2 * t)
        gaps.append(np.abs(beta * (u - limit) - 0.5 * np.log(1 + t * (1 + 3 * c * y**2))).max())
    assert gaps[0] < 3e-3 and orders(gaps) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("route", ROUTES)
def test_concave_kink(route):
    """f = -|x|: exp(-beta u) is a sum of two normal distributions; at the kink u is -t/2 - log(2 Phi((beta t)^½))/beta.

    Backward Euler, because f has a kink: the error is of the order of its steps and of h.
    """
    beta, t, gaps = 4.0, 0.4, []
    for n in (80, 160):
        evolution = viscous_evolution(
            meshes.interval(n, (-3.0, 3.0)), lambda x: -np.abs(x[0]), beta=beta, t=t, num_steps=n, theta=1.0,
            route=route, stabilisation=False,
        )  # fmt: skip
        u, x = on_line(evolution)
        above, below = log_ndtr(np.array([x + t, t - x]) * np.sqrt(beta / t))
        exact = -t / 2 - np.logaddexp(beta * x + above, -beta * x + below) / beta
        at_kink = -t / 2 - (np.log(2.0) + log_ndtr(np.sqrt(beta * t))) / beta
        assert exact[n // 2] == pytest.approx(at_kink, abs=1e-12)
        gaps.append(np.abs(u - exact)[np.abs(x) < 1.5].max())
    assert gaps[1] < 1.5e-3 and orders(gaps)[0] > 0.9


@pytest.mark.parametrize("beta", [1e3, 1e5])
def test_error_of_first_order_for_any_beta(beta):
    """Against the formula of Hopf and Lax, which at beta = 1e3 is off by some log(beta)/beta at the kink."""
    gaps = []
    for n in (64, 128, 256):
        u, x = on_line(viscous_evolution(meshes.interval(n), valley, beta=beta, t=0.2, num_steps=n // 2))
        gaps.append(np.abs(u - hopf_lax(valley, x, 0.2, (0.0, 1.0), 20_001)).max())
    assert gaps[-1] < 1.1e-2 and orders(gaps) == pytest.approx(1.0, abs=0.15)


# -- large t -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
def test_long_time(route):
    """u -> -(1/beta) log mean exp(-beta f), at the rate nu lambda, lambda = pi², of the slowest mode of the square.

    Backward Euler takes off (1 + dt nu lambda)^-1 a step.
    """
    beta, dt = 2.0, 0.1
    evolution = viscous_evolution(
        meshes.unit_square(16), lambda x: 0.3 * np.cos(PI * x[0]) + 0.2 * np.cos(2 * PI * x[1]), beta=beta, t=60 * dt,
        num_steps=60, route=route, theta=1.0, stabilisation=False,
    )  # fmt: skip
    field = FieldValues(evolution.state.function_space)
    with ReducedMap(evolution, AtSteps(field, [30, 40, 60])) as G:
        states = G(G.present_control()).reshape(3, -1)
    spread = np.ptp(states, axis=1)
    assert np.log(spread[0] / spread[1]) / 10 == pytest.approx(np.log(1 + dt * PI**2 / (2 * beta)), rel=0.01)
    z = (np.arange(400) + 0.5) / 400
    means = [np.mean(np.exp(-beta * a * np.cos(k * PI * z))) for a, k in ((0.3, 1), (0.2, 2))]
    level = -np.log(means[0] * means[1]) / beta
    # The direct route keeps the integral of exp(-beta u) to the order of its steps.
    assert states[2] == pytest.approx(level, abs=1e-5 if route == "cole_hopf" else 2e-2)


# -- slopes ------------------------------------------------------------------------------------------------------------


def valley(x):
    return 0.5 * np.cos(2 * PI * x[0])


def growth_of_slopes(evolution):
    """The most that the largest slope is above that at the start, over the steps."""
    u, V = evolution.state, evolution.state.function_space
    start = largest_slope(evolution.initial_state, V)
    with ReducedMap(evolution, FieldValues(V)) as G:
        return max(largest_slope(u, V) - start for n, _ in G.trajectory(G.present_control()) if n > 0)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "beta"), [(128, 400.0), (64, 1e3), (64, 1e5)])
def test_slopes_on_a_line(n, beta):
    """By Crank–Nicolson and Galerkin they grow where the kink forms; not on stabilised steps, for any cell Péclet
    number: 10, 50, 5000.
    """
    given = {"beta": beta, "t": 0.2, "num_steps": n // 2}
    assert growth_of_slopes(viscous_evolution(meshes.interval(n), valley, **given)) < 1e-9
    assert growth_of_slopes(viscous_evolution(meshes.interval(n), valley, stabilisation=False, **given)) > 0.08


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("beta", [50.0, 1e5])
@pytest.mark.parametrize("plane", PLANES)
def test_slopes_in_the_plane(plane, beta):
    given = {"beta": beta, "t": 0.2, "num_steps": 20}
    assert growth_of_slopes(viscous_evolution(PLANES[plane](), both, stabilisation=True, **given)) < 1e-9
    if plane == "lattice" and beta == 1e5:
        assert growth_of_slopes(viscous_evolution(PLANES[plane](), both, stabilisation=False, **given)) > 0.05


@pytest.mark.ranks(1, 2)
def test_slopes_of_a_plane_do_not_grow():
    """On unstructured cells of one size nothing is added where u is linear."""
    given = {"beta": 1e5, "t": 0.2, "num_steps": 4}
    assert growth_of_slopes(viscous_evolution(meshes.disk(0.1), lambda x: x[0], **given)) < 1e-5


def test_viscosity_goes_with_the_cells():
    """A kink in the fine part of a graded mesh, far from the coarse part, is as good as if all cells were fine."""
    gaps = []
    for graded in (False, True):
        domain = meshes.interval(200)
        if graded:
            x = domain.geometry.x
            x[:, 0] = np.where(x[:, 0] < 0.9, x[:, 0], 0.9 + 9.0 * (x[:, 0] - 0.9))
        evolution = viscous_evolution(domain, lambda x: np.abs(x[0] - 0.4), beta=1e5, t=0.1, num_steps=20)
        u, x = on_line(evolution)
        gaps.append(np.abs(u - np.maximum(np.abs(x - 0.4) - 0.05, (x - 0.4) ** 2 / 0.2))[x < 0.8].max())
    assert gaps[1] == pytest.approx(gaps[0], rel=1e-3)


def test_the_obtuse_mesh_is_one():
    """The largest angle of its cells."""
    V = fem.functionspace(sheared(20), ("Lagrange", 1))
    corners = V.tabulate_dof_coordinates()[V.dofmap.list][:, :, :2]
    cosines = [
        np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        for a, b in ((corners[:, i - 1] - corners[:, i], corners[:, i - 2] - corners[:, i]) for i in range(3))
    ]
    least = parallel.smallest(COMM, np.array([np.min(cosines, initial=1.0)]))[0]
    assert np.degrees(np.arccos(least)) > 120.0


def test_extremes_in_space():
    """Tetrahedra: least values do not fall and greatest do not rise."""
    domain = meshes.unit_cube(5)
    evolution = viscous_evolution(
        domain, lambda x: 0.5 * np.cos(PI * x[0]) * np.cos(2 * PI * x[1]) + 0.3 * np.cos(PI * x[2]), beta=1e5, t=0.3,
        num_steps=4,
    )  # fmt: skip
    with ReducedMap(evolution, AtSteps(FieldValues(evolution.state.function_space), range(5))) as G:
        levels = G(G.present_control()).reshape(5, -1)
    assert (np.diff(levels.min(axis=1)) >= -1e-12).all() and (np.diff(levels.max(axis=1)) <= 1e-12).all()


@pytest.mark.slow
def test_accuracy_where_cells_resolve_the_equation():
    """f = xᵀ Q x / 2, whose slopes are large for the cells near the corners alone: h beta |grad f| is 4.3 there."""
    Q, beta, t, n = np.array([[1.2, 0.5], [0.5, 0.6]]), 3.0, 0.25, 64
    u, x = final(
        viscous_evolution(
            meshes.rectangle((-4.0, -4.0), (4.0, 4.0), (n, n)),
            lambda x: np.einsum("in,ij,jn->n", x[:2], Q, x[:2]) / 2, beta=beta, t=t, num_steps=20,
        )
    )  # fmt: skip
    x, stretched = x[:, :2], np.eye(2) + t * Q
    exact = np.einsum("ni,ij,nj->n", x, Q @ np.linalg.inv(stretched), x) / 2
    exact += np.log(np.linalg.det(stretched)) / (2 * beta)
    assert np.abs(u - exact)[np.linalg.norm(x, axis=1) < 0.7].max() < 3e-3


@pytest.mark.slow
def test_error_in_the_plane():
    """A sum of two functions of one variable has the sum of their limits. Below its order of 1 on coarse meshes."""
    gaps = []
    for n in (20, 40):
        u, x = final(viscous_evolution(meshes.unit_square(n), both, beta=1e5, t=0.2, num_steps=n // 2))
        axis = np.unique(x[:, 0].round(9))
        one = hopf_lax(lambda y: both([y[0], 0.25 + 0 * y[0]]), axis, 0.2, (0.0, 1.0), 20_001)
        exact = one[np.searchsorted(axis, x[:, :2].round(9) - 1e-9)].sum(axis=1)
        gaps.append(np.abs(u - exact).max())
    assert gaps[1] < 0.08 and orders(gaps)[0] > 0.5
