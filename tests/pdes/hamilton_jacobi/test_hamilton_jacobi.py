"""Viscous Hamilton–Jacobi equations: the contract, a monotone step by hand, what is chosen, mistakes."""

import numpy as np
import pytest
from contract import MapContract, close, raised_everywhere
from dolfinx import fem
from unsteady import along_the_way

from relax import AtSteps, BadInput, FieldValues, ReducedMap, check_map, meshes, pdes
from relax.pdes.hamilton_jacobi import viscous, viscous_evolution

STEPS = {"t": 0.15, "num_steps": 3}


def hills(x):
    return 0.4 * np.sin(3.0 * x[0]) + 0.3 * np.cos(2.0 * x[1] + x[0])


class TestDirect(MapContract):
    make = staticmethod(lambda mesh: viscous_evolution(mesh, hills, beta=2.0, stabilisation=False, degree=2, **STEPS))
    domain = staticmethod(lambda comm: meshes.interval(4, comm=comm))
    observe = staticmethod(along_the_way)


class TestDirectStabilised(MapContract):
    """With a drift that is live."""

    @staticmethod
    def make(mesh):
        g = fem.Function(fem.functionspace(mesh, ("Lagrange", 1)), name="g")
        g.interpolate(lambda x: x[0] ** 2 - 0.5 * x[1])
        return viscous_evolution(mesh, hills, beta=50.0, drift_potential=g, stabilisation=True, **STEPS)

    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))


class TestColeHopf(MapContract):
    make = staticmethod(lambda mesh: viscous_evolution(mesh, hills, beta=2.0, route="cole_hopf", **STEPS))
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    observe = staticmethod(along_the_way)


class TestColeHopfLumped(MapContract):
    """With a drift that is live."""

    @staticmethod
    def make(mesh):
        g = fem.Function(fem.functionspace(mesh, ("Lagrange", 1)), name="g")
        g.interpolate(lambda x: 0.3 * x[0] ** 2)
        return viscous_evolution(mesh, hills, beta=6.0, drift_potential=g, route="cole_hopf", **STEPS)

    domain = staticmethod(lambda comm: meshes.interval(5, comm=comm))


class TestSteady(MapContract):
    make = staticmethod(lambda mesh: viscous(mesh, hills, beta=3.0, discount=2.0, stabilisation=False, degree=2))
    domain = staticmethod(lambda comm: meshes.unit_square(2, comm=comm))


class TestSteadyStabilised(MapContract):
    make = staticmethod(lambda mesh: viscous(mesh, 0.5, beta=40.0, discount=0.0, dirichlet={"left": 0.0, "top": 0.1}))
    domain = staticmethod(lambda comm: meshes.unit_square(4, comm=comm))


@pytest.mark.ranks(1, 2)
def test_check_map_on_tetrahedra():
    """Stabilised, because the cells ask for it."""
    evolution = viscous_evolution(meshes.unit_cube(2), hills, beta=30.0, **STEPS)
    with ReducedMap(evolution, FieldValues(evolution.state.function_space), layout="owned") as G:
        assert check_map(G).failures == []


# -- what it is --------------------------------------------------------------------------------------------------------


def test_stabilised_steps_on_a_line_are_those_of_engquist_and_osher():
    """(u_i - previous_i)/dt + ¼ (p_left² + p_right²) = ((nu² + (h p/4)²)^½ p)_x, mirrored at the ends.

    Without nu that is (u_i - previous_i)/dt + ½ (max(p_left, 0)² + min(p_right, 0)²) = 0.
    """
    n, beta, dt = 20, 200.0, 0.02
    h, nu = 1.0 / n, 1 / (2 * beta)
    evolution = viscous_evolution(
        meshes.interval(n), lambda x: 0.3 * np.sin(7.0 * x[0]), beta=beta, t=3 * dt, num_steps=3, stabilisation=True
    )
    field = FieldValues(evolution.state.function_space)
    with ReducedMap(evolution, AtSteps(field, range(4))) as G:
        states = G(G.present_control()).reshape(4, n + 1)[:, np.argsort(field.coordinates[:, 0])]
    for before, u in zip(states[:-1], states[1:], strict=True):
        p = np.diff(np.pad(u, 1, mode="reflect")) / h
        flux = np.sqrt(nu**2 + (h * p / 4) ** 2) * p
        left = (u - before) / dt + (p[:-1] ** 2 + p[1:] ** 2) / 4 - np.diff(flux) / h
        assert np.abs(left).max() < 1e-8
        # The viscosity takes h |p| / 4 in whole only where it is far above nu: what is left of nu is at most nu.
        upwind = (np.maximum(p[:-1], 0.0) ** 2 + np.minimum(p[1:], 0.0) ** 2) / 2
        between = (u - before) / dt + upwind
        assert (np.abs(between) <= nu * (np.abs(p[:-1]) + np.abs(p[1:])) / h + 1e-8).all()


def test_unstabilised_steps_are_galerkins():
    """One step of each rule against dense algebra by hand, on an interval."""
    n, beta, dt = 6, 3.0, 0.1
    h, ones, ends = 1.0 / n, np.ones(n), np.diag([0.5, *np.ones(n - 1), 0.5])
    M = h / 6 * (np.diag(ones, 1) + np.diag(ones, -1) + 4 * ends)
    K = 1 / h * (2 * ends - np.diag(ones, 1) - np.diag(ones, -1))

    def rate(u):
        squares = np.pad(np.diff(u) ** 2 / h / 2, 1)
        return (squares[:-1] + squares[1:]) / 2 + K @ u / (2 * beta)

    for theta in (1.0, 0.5, "midpoint"):
        evolution = viscous_evolution(
            meshes.interval(n), lambda x: np.sin(3.0 * x[0]), beta=beta, t=dt, num_steps=1, theta=theta,
            stabilisation=False,
        )  # fmt: skip
        field = FieldValues(evolution.state.function_space)
        with ReducedMap(evolution, field) as G:
            m = G.present_control()
            order = np.argsort(field.coordinates[:, 0])
            u, before = G(m)[order], m[order]
        spent = {1.0: rate(u), 0.5: (rate(u) + rate(before)) / 2, "midpoint": rate((u + before) / 2)}[theta]
        close(M @ (u - before), -dt * spent, 1e-9)


def test_names_and_controls():
    evolution = viscous_evolution(meshes.interval(3), hills_on_a_line, beta=2.0, **STEPS)
    assert evolution.name == "hamilton_jacobi" and len(evolution.controls) == 1
    assert evolution.controls[0] is evolution.initial_state and evolution.time_at(3) == pytest.approx(0.15)
    problem = viscous(meshes.interval(3), 1.0, beta=2.0)
    assert problem.name == "hamilton_jacobi_steady" and [c.name for c in problem.controls] == ["cost"]
    assert pdes.hamilton_jacobi.viscous_evolution is viscous_evolution


def hills_on_a_line(x):
    return 0.4 * np.sin(3.0 * x[0])


def is_stabilised(problem):
    """Whether the upwind viscosity stands in the residual: diameters of cells do nowhere else."""
    return any(w.name == "cell_diameter" for w in problem.residual.coefficients() if isinstance(w, fem.Function))


def test_auto_stabilises_where_cells_ask_for_it():
    """f = x on ten cells: h beta |grad f| = beta / 10, against 2."""
    domain = meshes.interval(10)

    def made(beta, **options):
        return viscous_evolution(domain, lambda x: x[0], beta=beta, **STEPS, **options)

    assert is_stabilised(made(21.0).step) and not is_stabilised(made(19.0).step)
    assert is_stabilised(made(15.0, drift_potential=lambda x: 0.5 * x[0]).step)
    assert not is_stabilised(made(15.0, drift_potential=lambda x: 0.3 * x[0]).step)
    assert is_stabilised(made(41.0, degree=2).step) and not is_stabilised(made(39.0, degree=2).step)
    assert is_stabilised(made(1.0, stabilisation=True).step) and not is_stabilised(made(1e3, stabilisation=False).step)
    squares = meshes.unit_square(10, cell="quadrilateral")
    assert is_stabilised(viscous_evolution(squares, lambda x: x[0], beta=50.0, **STEPS).step)


def test_auto_stabilises_the_stationary_equation():
    """By the slopes (2 (max f - min(f, discount g)))^½: here sqrt(2 (1 - 0)) = sqrt(2), and 1 for the distance."""
    domain = meshes.interval(10)
    h_speed = 0.1 * np.sqrt(2.0)
    for factor, expected in ((1.1, True), (0.9, False)):
        beta = factor * 2.0 / h_speed
        assert is_stabilised(viscous(domain, lambda x: x[0], beta=beta)) == expected
        problem = viscous(domain, 0.5, beta=factor * 20.0, discount=0.0, dirichlet={"left": 0.0})
        assert is_stabilised(problem) == expected
        # What is paid at the end is far below what f would give.
        problem = viscous(domain, 1.0, beta=factor * 10.0, dirichlet={"left": -1.0})
        assert is_stabilised(problem) == expected


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"beta": 0.0}, "beta: expected a finite number above 0"),
        ({"beta": float("inf")}, "beta: expected a finite number above 0, got inf"),
        ({"beta": True}, "beta: expected"),
        ({"t": -1.0}, "t: expected a finite number above 0, got -1.0"),
        ({"t": "1"}, "t: expected"),
        ({"num_steps": 0}, "num_steps: expected a whole number of at least 1, got 0"),
        ({"num_steps": 2.0}, "num_steps"),
        ({"route": "colehopf"}, "route: expected 'direct', 'cole_hopf' or 'auto', got 'colehopf'"),
        ({"stabilisation": "yes"}, "stabilisation: expected True, False or 'auto', got 'yes'"),
        ({"f": lambda x: x[0] / 0.0}, "finite"),
        ({"f": [1.0, 2.0]}, "expected"),
        ({"drift_potential": float("nan")}, "finite"),
        ({"route": "cole_hopf", "beta": 1e3}, "Use route='direct'"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_bad_evolutions(options, match):
    given = {"f": lambda x: x[0], "beta": 2.0, **STEPS, **options}
    assert match in str(raised_everywhere(BadInput, lambda: viscous_evolution(meshes.interval(3), **given)))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("theta", [0.0, 1.5, "mid"])
@pytest.mark.parametrize("route", ["direct", "cole_hopf"])
def test_bad_theta(theta, route):
    error = raised_everywhere(
        Exception, lambda: viscous_evolution(meshes.interval(3), 1.0, beta=2.0, theta=theta, route=route, **STEPS)
    )
    assert "theta" in str(error)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"beta": -1.0}, "beta: expected a finite number above 0"),
        ({"discount": -1.0}, "discount: expected a finite number of at least 0"),
        ({"discount": 0.0}, "known up to a constant at most"),
        ({"stabilisation": None}, "stabilisation: expected True, False or 'auto', got None"),
        ({"dirichlet": {"lft": 0.0}}, "no facet tag 'lft'"),
        ({"dirichlet": {"left": [1.0, 2.0]}}, "expected a finite number"),
        ({"f": float("nan")}, "finite"),
    ],
)
def test_bad_stationary_problems(options, match):
    given = {"f": lambda x: x[0], "beta": 2.0, **options}
    assert match in str(raised_everywhere(BadInput, lambda: viscous(meshes.interval(3), **given)))
