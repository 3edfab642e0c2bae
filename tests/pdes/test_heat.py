"""The heat equation: the contract, orders in space and time, one factorisation, one step by hand."""

import numpy as np
import pytest
import ufl
from contract import COMM, BlocksOnRanks, MapContract, close
from dolfinx import fem
from unsteady import along_the_way, final_error, l2, last_state, orders

from relax import FieldValues, Functional, ReducedMap, check_map, meshes
from relax.base import parallel
from relax.base.la.linear import LinearSolver
from relax.errors import BadInput, BadProblem
from relax.pdes import heat

STEPS = {"dt": 0.05, "num_steps": 3}


def bump(x):
    return np.sin(2.0 * x[0]) + 0.5 * x[0] ** 2


# -- derivatives -------------------------------------------------------------------------------------------------------


class TestInitial(MapContract):
    make = staticmethod(lambda mesh: heat.evolution(mesh, initial=bump, source=1.0, **STEPS))
    domain = staticmethod(lambda comm: meshes.interval(6, comm=comm))


class TestSource(MapContract):
    """By backward Euler on tetrahedra, with one side clamped at 1."""

    make = staticmethod(
        lambda mesh: heat.evolution(
            mesh, initial=bump, source=bump, theta=1.0, dirichlet={"left": 1.0}, controls="source", **STEPS
        )
    )
    domain = staticmethod(lambda comm: meshes.unit_cube(1, comm=comm))
    observe = staticmethod(along_the_way)


class TestSourcePerStep(MapContract):
    make = staticmethod(lambda mesh: heat.evolution(mesh, degree=2, controls=["source_per_step"], **STEPS))
    domain = staticmethod(lambda comm: meshes.interval(4, comm=comm))
    observe = staticmethod(along_the_way)


def everything(mesh):
    """A source of its own in each step, then the initial state; fluxes and a conductivity that change with time."""
    t, x = fem.Constant(mesh, 0.0), ufl.SpatialCoordinate(mesh)
    return heat.evolution(
        mesh,
        initial=bump,
        source=1.0,
        conductivity=1.0 + x[0] * ufl.sin(t),
        dirichlet={"left": lambda x: x[1], "bottom": 0.0},
        neumann={"right": ufl.exp(-t)},
        controls=["source_per_step", "initial"],
        theta="midpoint",
        time=t,
        **STEPS,
    )


class TestEverything(BlocksOnRanks):
    make = staticmethod(everything)
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    observe = staticmethod(along_the_way)


@pytest.mark.ranks(1, 2)
def test_check_map_on_a_source_for_all_steps_and_the_initial_state():
    evolution = heat.evolution(meshes.unit_square(3), controls=["initial", "source"], **STEPS)
    with ReducedMap(evolution, along_the_way(evolution), layout="owned") as G:
        report = check_map(G)
    assert report.failures == []


# -- orders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degree", "sizes"), [(1, (8, 16)), (2, (4, 8))])
def test_order_in_space(degree, sizes):
    """u = sin(pi x) sin(pi y) exp(-2 pi^2 t). The error in time is below 2e-3 of that in space."""
    errors = []
    for n in sizes:
        domain = meshes.unit_square(n)
        x, t = ufl.SpatialCoordinate(domain), fem.Constant(domain, 0.0)
        exact = ufl.sin(ufl.pi * x[0]) * ufl.sin(ufl.pi * x[1]) * ufl.exp(-2 * ufl.pi**2 * t)
        evolution = heat.evolution(domain, initial=exact, dt=5e-4, num_steps=20, degree=degree, time=t)
        errors.append(final_error(evolution, exact, t))
    assert orders(errors) == pytest.approx(degree + 1, abs=0.15)


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
def test_order_in_space_with_fluxes(cell):
    """u = 1 + x exp(-t) cos(y), k = 1 + x: clamped on the left, fluxes elsewhere; refined in time alongside."""
    errors = []
    for n in (4, 8, 16):
        domain = meshes.unit_square(n, cell=cell)
        x, t = ufl.SpatialCoordinate(domain), fem.Constant(domain, 0.0)
        exact, k = 1 + x[0] * ufl.exp(-t) * ufl.cos(x[1]), 1 + x[0]
        source = -x[0] * ufl.exp(-t) * ufl.cos(x[1]) - ufl.div(k * ufl.grad(exact))
        evolution = heat.evolution(
            domain,
            initial=exact,
            source=source,
            conductivity=k,
            dirichlet={"left": 1.0},
            neumann={"right": k * exact.dx(0), "top": k * exact.dx(1)},
            dt=0.4 / n,
            num_steps=n,
            time=t,
        )
        errors.append(final_error(evolution, exact, t))
    assert orders(errors)[-1] == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize(("theta", "order"), [(1.0, 1.0), (0.5, 2.0), ("midpoint", 2.0)])
def test_order_in_time(theta, order):
    """u = x (1 - x) cos(3 t), which is in the space of degree 2: all of the error is that of the steps."""
    domain = meshes.interval(4)
    x, t = ufl.SpatialCoordinate(domain)[0], fem.Constant(domain, 0.0)
    exact = x * (1 - x) * ufl.cos(3 * t)
    source = -3 * x * (1 - x) * ufl.sin(3 * t) + 2 * ufl.cos(3 * t)
    errors = [
        final_error(
            heat.evolution(
                domain, initial=exact, source=source, dt=1.0 / n, num_steps=n, theta=theta, degree=2, time=t
            ),
            exact,
            t,
        )
        for n in (20, 40, 80)
    ]
    assert orders(errors)[-1] == pytest.approx(order, abs=0.1)


# -- what it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [1.0, 0.5, 0.7])
def test_steps_by_hand(theta):
    """Linear elements on an interval, in dense matrices written down here; a source of its own in each step."""
    n, k, N = 8, 0.03, 3
    h, domain = 1.0 / n, meshes.interval(n)
    ones, inside = np.ones(n), slice(1, n)
    ends = np.diag([0.5, *np.ones(n - 1), 0.5])
    M = h / 6 * (np.diag(ones, 1) + np.diag(ones, -1) + 4 * ends)
    K = 1 / h * (2 * ends - np.diag(ones, 1) - np.diag(ones, -1))
    rng = np.random.default_rng(0)
    u, sources = rng.standard_normal(n + 1), rng.standard_normal((N, n + 1))
    u[[0, -1]] = 0.0
    evolution = heat.evolution(
        domain, conductivity=2.0, dt=k, num_steps=N, theta=theta, controls=("initial", "source_per_step")
    )
    field = FieldValues(evolution.state.function_space)
    order = np.argsort(field.coordinates[:, 0])
    with ReducedMap(evolution, field) as G:
        m = np.empty((N + 1, n + 1))
        m[:, order] = [u, *sources]
        y = G(m.ravel())[order]
    for s in sources:
        rhs = M @ u - (1 - theta) * k * 2.0 * K @ u + k * M @ s
        u = np.zeros(n + 1)
        u[inside] = np.linalg.solve((M + theta * k * 2.0 * K)[inside, inside], rhs[inside])
    close(y, u, 1e-12)


def test_one_source_for_all_steps_is_the_same_one_in_each():
    domain = meshes.unit_square(4)
    values = []
    for controls in ("source", "source_per_step", "initial"):
        evolution = heat.evolution(domain, source=bump, controls=controls, **STEPS)
        with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
            values.append(G(G.present_control()))
    close(values[1], values[0])
    close(values[2], values[0])


def test_what_flows_in_stays_in():
    """Nothing clamped: the integral of u grows by source and flux alone, to rounding."""
    domain = meshes.unit_square(4)
    evolution = heat.evolution(
        domain, initial=bump, source=2.0, dirichlet={}, neumann={"left": 3.0}, dt=0.1, num_steps=5
    )
    with ReducedMap(evolution, Functional(evolution.state * ufl.dx)) as G:
        start = parallel.sum_over_ranks(
            COMM, np.array([fem.assemble_scalar(fem.form(evolution.initial_state * ufl.dx))])
        )
        assert G(G.present_control()) - start == pytest.approx(0.5 * (2.0 + 3.0), rel=1e-12)


def test_one_factorisation_serves_everything(monkeypatch):
    """All steps of all runs, gradients and Hessian actions; a new conductivity costs one more."""
    factored = []
    factor = LinearSolver.factor
    monkeypatch.setattr(LinearSolver, "factor", lambda self, matrix: factored.append(1) or factor(self, matrix))
    k = fem.Constant(domain := meshes.unit_square(4), 1.0)
    evolution = heat.evolution(domain, conductivity=k, controls=["initial", "source_per_step"], dt=0.05, num_steps=6)
    rng = np.random.default_rng(0)
    with ReducedMap(evolution, along_the_way(evolution)) as G:
        M, w = rng.standard_normal((4, G.size_in)), rng.standard_normal(G.size_out)
        G(M)
        for m in M:
            with G.linearize(m) as lin:
                lin.vjp(w), lin.jvp(M), lin.hvp(w, M[0])
        assert len(factored) == 1
        assert G.counts["forward"] >= 8 * 6 and G.counts["adjoint"] >= 2 * 4 * 6
        k.value = 2.0
        G(M)
    assert len(factored) == 2


def test_controls_states_names():
    domain = meshes.unit_square(2)
    given = fem.Function(fem.functionspace(domain, ("Lagrange", 1)))
    given.x.array[:] = 3.0
    evolution = heat.evolution(domain, initial=given, controls=["source_per_step", "initial"], degree=2, **STEPS)
    source, initial = evolution.controls
    assert (evolution.name, source.name, initial.name) == ("heat", "source_per_step", "initial")
    assert evolution.is_per_step(source) and not evolution.is_per_step(initial)
    assert source.function_space == initial.function_space == evolution.state.function_space
    np.testing.assert_allclose(initial.x.array, 3.0, rtol=1e-14)
    assert heat.evolution(domain, initial=given, controls="source", **STEPS).controls[0].name == "source"
    last_state(evolution)
    assert (given.x.array == 3.0).all()


def test_without_time_to_act_nothing_changes():
    """A field that solves the equation stays, whatever the steps."""
    domain = meshes.unit_square(3)
    x = ufl.SpatialCoordinate(domain)
    exact = 1 + x[0] + 2 * x[1]
    sides = dict.fromkeys(("left", "right", "bottom", "top"), exact)
    evolution = heat.evolution(domain, initial=exact, dirichlet=sides, dt=10.0, num_steps=2)
    assert l2(last_state(evolution) - exact, domain) < 1e-12


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"controls": ["sorce"]}, "did you mean 'source'"),
        ({"controls": []}, "at least one"),
        ({"controls": ["initial", "initial"]}, "each once"),
        ({"controls": ["source", "source_per_step"]}, "one of them"),
        ({"conductivity": -1.0}, "above 0"),
        ({"neumann": {"left": 1.0}}, "or say dirichlet={}"),
        ({"dirichlet": {"left": 0.0}, "neumann": {"left": 1.0}}, "left"),
        ({"dirichlet": {"lft": 0.0}}, "no facet tag 'lft'"),
        ({"initial": float("nan")}, "finite"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(BadInput, match=match):
        heat.evolution(meshes.unit_square(2), **STEPS, **options)


@pytest.mark.parametrize("options", [{"dt": 0.0}, {"dt": -1.0}, {"num_steps": 0}, {"theta": 0.0}, {"theta": "mid"}])
def test_bad_steps(options):
    with pytest.raises(BadProblem):
        heat.evolution(meshes.unit_square(2), **{**STEPS, **options})


def test_time_where_it_cannot_be():
    domain = meshes.unit_square(2)
    t = fem.Constant(domain, 0.0)
    with pytest.raises(BadInput, match="without time"):
        heat.evolution(domain, source=ufl.sin(t), controls="source_per_step", time=t, **STEPS)


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_boundary_values_that_change_with_time(theta):
    """u = 1 + x² + 3 y² + 1.2 t, which the elements and the steps have without an error, from a time that is not 0."""
    domain = meshes.unit_square(2)
    t, x = fem.Constant(domain, 0.0), ufl.SpatialCoordinate(domain)
    exact = 1.0 + x[0] ** 2 + 3.0 * x[1] ** 2 + 1.2 * t
    sides = dict.fromkeys(["left", "right", "bottom", "top"], exact)
    t.value = 0.3
    equation = heat.evolution(
        domain, initial=exact, source=-6.8, dirichlet=sides, degree=2, theta=theta, time=t, start=0.3, **STEPS
    )
    V = equation.state.function_space
    G = ReducedMap(equation, FieldValues(V))
    seen = G(G.present_control())
    expected = fem.Function(V)
    expected.interpolate(lambda x: 1.0 + x[0] ** 2 + 3.0 * x[1] ** 2 + 1.2 * 0.45)
    close(seen, FieldValues(V).value(expected))
