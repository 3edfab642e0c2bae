"""Burgers' equation: the contract, orders in space and time, a moving layer, fronts with and without SUPG."""

import numpy as np
import pytest
import ufl
from contract import COMM, BlocksOnRanks, MapContract, close
from dolfinx import fem, la
from unsteady import along_the_way, final_error, l2, last_state, orders

from relax import FieldValues, ReducedMap, check_map, meshes
from relax.base import parallel
from relax.errors import BadInput, BadProblem
from relax.pdes import burgers

STEPS = {"dt": 0.05, "num_steps": 3}


def wave(x):
    return np.sin(2.0 * x[0]) + 0.5


def swirl(x):
    return np.stack([np.cos(2.0 * x[1]), 0.5 - x[0]])


def swirl_in_space(x):
    return np.stack([np.cos(2.0 * x[1]), 0.5 - x[0], x[2]])


# -- derivatives -------------------------------------------------------------------------------------------------------


class TestInitial(MapContract):
    """By the midpoint rule, without stabilisation."""

    make = staticmethod(lambda mesh: burgers.evolution(mesh, initial=wave, viscosity=0.2, theta="midpoint", **STEPS))
    domain = staticmethod(lambda comm: meshes.interval(6, comm=comm))


class TestForce(MapContract):
    """One force for all steps, by backward Euler, stabilised, with a viscosity that varies."""

    make = staticmethod(
        lambda mesh: burgers.evolution(
            mesh,
            initial=wave,
            force=1.0,
            viscosity=lambda x: 0.02 + 0.01 * x[0],
            theta=1.0,
            supg=True,
            dirichlet={"left": 0.5},
            controls="force",
            **STEPS,
        )
    )
    domain = staticmethod(lambda comm: meshes.interval(5, comm=comm))
    observe = staticmethod(along_the_way)


class TestForcePerStep(MapContract):
    make = staticmethod(
        lambda mesh: burgers.evolution(mesh, initial=wave, viscosity=0.1, controls=["force_per_step"], **STEPS)
    )
    domain = staticmethod(lambda comm: meshes.interval(5, comm=comm))
    observe = staticmethod(along_the_way)


class TestEverything(BlocksOnRanks):
    """Two components, stabilised, a force of its own in each step and the initial state."""

    make = staticmethod(
        lambda mesh: burgers.evolution(
            mesh,
            initial=swirl,
            viscosity=0.02,
            force=[1.0, 0.0],
            dirichlet={"left": [0.5, 0.0]},
            supg=True,
            controls=["force_per_step", "initial"],
            **STEPS,
        )
    )
    domain = staticmethod(lambda comm: meshes.unit_square(2, comm=comm))


@pytest.mark.ranks(1, 2)
def test_check_map_on_tetrahedra():
    """Three components on a tiny mesh, stabilised because the cells ask for it."""
    domain = meshes.unit_cube(1)
    evolution = burgers.evolution(
        domain, initial=swirl_in_space, viscosity=0.1, dirichlet={"left": 0.0}, dt=0.1, num_steps=2,
        controls=["initial", "force"],
    )  # fmt: skip
    with ReducedMap(evolution, FieldValues(evolution.state.function_space), layout="owned") as G:
        report = check_map(G)
    assert report.failures == []


# -- orders ------------------------------------------------------------------------------------------------------------


def manufactured(domain, t, nu, growth):
    """A velocity that is zero on the boundary, growth(t) times a product of sines, and its force."""
    x = ufl.SpatialCoordinate(domain)
    dim = domain.geometry.dim
    shape = np.prod([ufl.sin(ufl.pi * x[i]) for i in range(dim)])
    time = ufl.variable(t)
    scale = growth(time)
    rate = ufl.diff(scale, time)
    if dim == 1:
        u, u_t = scale * shape, rate * shape
        convected = u * u.dx(0)
    else:
        pair = ufl.as_vector([1.0, -0.5]) * shape
        u, u_t = scale * pair, rate * pair
        convected = ufl.dot(ufl.grad(u), u)
    return u, u_t + convected - nu * ufl.div(ufl.grad(u))


@pytest.mark.slow
@pytest.mark.parametrize("supg", [False, True])
@pytest.mark.parametrize(
    ("dim", "degree", "sizes"), [(1, 1, (16, 32)), (1, 2, (8, 16)), (2, 1, (8, 16)), (2, 2, (4, 8))]
)
def test_order_in_space(dim, degree, sizes, supg):
    """Crank–Nicolson is exact to a tenth of the error in space; the cell Péclet number is above 1 where stabilised."""
    nu = 0.005 if supg else 0.2
    errors = []
    for n in sizes:
        domain = meshes.interval(n) if dim == 1 else meshes.unit_square(n)
        t = fem.Constant(domain, 0.0)
        exact, force = manufactured(domain, t, nu, lambda t: 1 + t)
        evolution = burgers.evolution(
            domain, initial=exact, viscosity=nu, force=force, degree=degree, supg=supg, time=t, dt=0.02, num_steps=10
        )
        assert burgers.cell_peclet(evolution.initial_state, nu) > 1.0 or not supg
        errors.append(final_error(evolution, exact, t))
    assert orders(errors) == pytest.approx(degree + 1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("supg", [False, True])
@pytest.mark.parametrize(("theta", "order"), [(1.0, 1.0), (0.5, 2.0), ("midpoint", 2.0)])
def test_order_in_time(theta, order, supg):
    """u = x (1 - x) cos(3 t), which is in the space of degree 2: all of the error is that of the steps."""
    domain = meshes.interval(4)
    x, t = ufl.SpatialCoordinate(domain)[0], fem.Constant(domain, 0.0)
    exact, nu = x * (1 - x) * ufl.cos(3 * t), 0.05
    force = -3 * x * (1 - x) * ufl.sin(3 * t) + exact * exact.dx(0) + 2 * nu * ufl.cos(3 * t)
    given = {"initial": exact, "force": force, "viscosity": nu, "degree": 2, "supg": supg, "time": t}
    errors = [
        final_error(burgers.evolution(domain, dt=1.0 / n, num_steps=n, theta=theta, **given), exact, t)
        for n in (40, 80, 160)
    ]
    assert orders(errors)[-1] == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("nu", [1e-3, 0.05, 0.5], ids=["advection", "both", "diffusion"])
def test_stabilisation_by_hand(nu):
    """On a line of cells of length h, from p = 1 to u = 1 + c x: -h tau (c + dt c²) at each node between."""
    h, dt, c = 0.1, 0.2, 0.7
    residuals = []
    for supg in (True, False):
        one = burgers.evolution(meshes.interval(10), viscosity=nu, dt=dt, num_steps=1, theta=1, supg=supg)
        one.previous.interpolate(lambda x: np.ones(x.shape[1]))
        one.state.interpolate(lambda x: 1.0 + c * x[0])
        found = fem.assemble_vector(fem.form(one.step.residual))
        found.scatter_reverse(la.InsertMode.add)
        V = one.state.function_space
        inner = np.setdiff1d(np.arange(V.dofmap.index_map.size_local), one.bcs[0].dof_indices()[0])
        residuals.append(found.array[inner])
    tau = (4.0 / h**2 + (12.0 * nu / h**2) ** 2) ** -0.5
    np.testing.assert_allclose(residuals[0] - residuals[1], -h * tau * (c + dt * c**2), rtol=1e-9)


@pytest.mark.parametrize("dim", [1, 2])
def test_stabilisation_vanishes_at_the_solution(dim):
    """u = (1 + t) x (1 - x): backward Euler and degree 2 hold it exactly, with SUPG too, at a high Péclet number."""
    domain = meshes.interval(3) if dim == 1 else meshes.unit_square(2)
    x, t, nu = ufl.SpatialCoordinate(domain), fem.Constant(domain, 0.0), 1e-3
    shape = x[0] * (1 - x[0])
    u = (1 + t) * shape if dim == 1 else ufl.as_vector([(1 + t) * shape, 0 * x[0]])
    convected = u * u.dx(0) if dim == 1 else ufl.dot(ufl.grad(u), u)
    u_t = shape if dim == 1 else ufl.as_vector([shape, 0 * x[0]])
    force = u_t + convected - nu * ufl.div(ufl.grad(u))
    evolution = burgers.evolution(
        domain, initial=u, viscosity=nu, force=force, dirichlet={"left": 0.0, "right": 0.0}, theta=1.0, degree=2,
        supg=True, time=t, dt=0.1, num_steps=4,
    )  # fmt: skip
    assert final_error(evolution, u, t) < 1e-9


def test_moving_layer():
    """u = c - a tanh(a (x - c t) / (2 nu)), by Cole and Hopf; the ends stay at c ± a to rounding."""
    c, a, nu, end = 0.5, 1.0, 0.025, 0.5
    errors = []
    for n in (50, 100):
        domain = meshes.interval(n, (-1.0, 1.5))
        x, t = ufl.SpatialCoordinate(domain)[0], fem.Constant(domain, 0.0)
        exact = c - a * ufl.tanh(a * (x - c * t) / (2 * nu))
        evolution = burgers.evolution(
            domain, initial=exact, viscosity=nu, dirichlet={"left": c + a, "right": c - a}, supg=False, time=t,
            dt=end / n, num_steps=n,
        )  # fmt: skip
        errors.append(final_error(evolution, exact, t))
    # The layer, 4 nu / a = 0.1 wide, is two cells of the coarse mesh. Observed: 3.8e-3 on the fine one.
    assert errors[1] < 5e-3 and orders(errors) == pytest.approx(2.0, abs=0.15)


# -- fronts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("theta", "galerkin", "stabilised"), [(1.0, 0.4, 0.01), (0.5, 0.5, 0.06)])
@pytest.mark.parametrize("degree", [1, 2])
def test_fronts_do_not_overshoot(theta, degree, galerkin, stabilised):
    """-sin(pi x) steepens to a shock a fifth of a cell thick; |u| <= 1 for ever in the exact solution.

    Observed overshoots, Galerkin and SUPG: 0.445 and 0.000 (backward Euler), 0.623 and 0.051 (Crank–Nicolson).
    """
    most = {}
    for supg in (False, True):
        evolution = burgers.evolution(
            meshes.interval(32, (-1.0, 1.0)), initial=lambda x: -np.sin(np.pi * x[0]), viscosity=0.01 / np.pi,
            degree=degree, theta=theta, supg=supg, dt=0.05, num_steps=20,
        )  # fmt: skip
        with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
            values = [np.max(np.abs(evolution.state.x.array), initial=0) for _ in G.trajectory(G.present_control())]
        most[supg] = parallel.largest(COMM, max(values)) - 1.0
    assert most[True] < stabilised
    if degree == 1:
        assert most[False] > galerkin
    else:
        assert most[False] > 0.09 > most[True]


def test_auto_stabilises_where_cells_ask_for_it():
    """By the largest |u| at the start, boundary values included, and by the degree, which makes cells finer."""
    domain = meshes.interval(10)
    x = ufl.SpatialCoordinate(domain)[0]

    def is_stabilised(viscosity, degree=1, **options):
        options = {"initial": 2 * x, "dirichlet": {"right": 2.0}, **options}
        made = burgers.evolution(domain, viscosity=viscosity, degree=degree, **STEPS, **options)
        without = burgers.evolution(domain, viscosity=viscosity, degree=degree, supg=False, **STEPS, **options)
        return len(made.step.residual.integrals()) > len(without.step.residual.integrals())

    # |u| h / (2 nu) = 0.1 / nu.
    assert is_stabilised(0.09) and not is_stabilised(0.11)
    assert is_stabilised(0.04, degree=2) and not is_stabilised(0.06, degree=2)
    assert is_stabilised(0.09, initial=0.0) and not is_stabilised(0.11, initial=0.0)
    # The mean viscosity of the cells is least at the left, 0.09, or 0.11.
    assert is_stabilised(0.085 + 0.1 * x) and not is_stabilised(0.105 + 0.1 * x)
    assert is_stabilised(lambda x: 0.085 + 0.1 * x[0])


@pytest.mark.ranks(1, 2)
def test_cell_peclet():
    domain = meshes.unit_square(4)
    u = fem.Function(fem.functionspace(domain, ("Lagrange", 1, (2,))))
    u.interpolate(lambda x: np.stack([3.0 * x[0], 4.0 * x[0]]))
    # |u| = 5 at the right, the diameter of a cell is sqrt(2)/4.
    assert burgers.cell_peclet(u, 0.1) == pytest.approx(5.0 * np.sqrt(2.0) / 4.0 / 0.2, rel=1e-12)
    # One cell: other ranks own none.
    u = fem.Function(fem.functionspace(meshes.interval(1), ("Lagrange", 2)))
    u.interpolate(lambda x: -3.0 * x[0])
    assert burgers.cell_peclet(u, lambda x: x[0]) == pytest.approx(1.5, rel=1e-12)


# -- what it is --------------------------------------------------------------------------------------------------------


def test_one_force_for_all_steps_is_the_same_one_in_each():
    values = []
    for controls in ("force", "force_per_step", "initial"):
        evolution = burgers.evolution(
            meshes.unit_square(3), force=swirl, viscosity=0.1, controls=controls, supg=True, **STEPS
        )
        values.append(last_state(evolution).x.array.copy())
    np.testing.assert_allclose(values[1], values[0], atol=1e-12)
    np.testing.assert_allclose(values[2], values[0], atol=1e-12)


def test_components_and_names():
    for domain, shape in ((meshes.interval(3), ()), (meshes.unit_square(2), (2,)), (meshes.unit_cube(1), (3,))):
        evolution = burgers.evolution(domain, viscosity=1.0, controls=["force_per_step", "initial"], **STEPS)
        force, initial = evolution.controls
        assert evolution.state.ufl_shape == force.ufl_shape == initial.ufl_shape == shape
        assert (evolution.name, force.name, initial.name) == ("burgers", "force_per_step", "initial")
        assert evolution.is_per_step(force) and not evolution.is_per_step(initial)


def test_a_uniform_flow_stays():
    """Nothing clamped, nothing to convect or to diffuse."""
    domain = meshes.unit_square(2)
    evolution = burgers.evolution(domain, initial=[1.0, 2.0], viscosity=0.01, dirichlet={}, supg=True, **STEPS)
    assert l2(last_state(evolution) - ufl.as_vector([1.0, 2.0]), domain) < 1e-12


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"controls": ["forces"]}, "did you mean 'force'"),
        ({"controls": ["force", "force_per_step"]}, "one of them"),
        ({"viscosity": 0.0}, "above 0"),
        ({"supg": "yes"}, "supg"),
        ({"dirichlet": {"lft": 0.0}}, "no facet tag 'lft'"),
        ({"initial": [1.0, 2.0, 3.0]}, "expected a finite number"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(BadInput, match=match):
        burgers.evolution(meshes.unit_square(2), **{**STEPS, "viscosity": 1.0, **options})


def test_bad_steps():
    with pytest.raises(BadProblem, match="theta"):
        burgers.evolution(meshes.interval(2), viscosity=1.0, theta=2.0, supg=True, **STEPS)


def test_time_where_it_cannot_be():
    domain = meshes.interval(2)
    t = fem.Constant(domain, 0.0)
    with pytest.raises(BadInput, match="without time"):
        burgers.evolution(domain, viscosity=1.0, force=ufl.sin(t), controls="force", time=t, **STEPS)


@pytest.mark.parametrize("supg", [True, False])
def test_boundary_values_that_change_with_time(supg):
    """u = (1 + t) x, which the elements and backward Euler have without an error."""
    domain = meshes.interval(4)
    t, x = fem.Constant(domain, 0.0), ufl.SpatialCoordinate(domain)
    force, sides = (1.0 + (1.0 + t) ** 2) * x[0], {"left": 0.0, "right": 1.0 + t}
    equation = burgers.evolution(
        domain, viscosity=1.0, initial=x[0], dirichlet=sides, force=force, theta=1.0, supg=supg, time=t, **STEPS
    )
    V = equation.state.function_space
    G = ReducedMap(equation, FieldValues(V))
    end = 1.0 + STEPS["dt"] * STEPS["num_steps"]
    expected = fem.Function(V)
    expected.interpolate(lambda x: end * x[0])
    close(G(G.present_control()), FieldValues(V).value(expected))
