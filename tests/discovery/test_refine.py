"""The equation found as an evolution, and its coefficients by maximum likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import close, everyone_has, raised_everywhere
from discovery_cases import PI, burgers, heat, library_on, line, scattered, states_of, viscous, wave
from dolfinx import fem
from mpi4py import MPI
from ufl import div, grad, inner

import relax
from relax import Result, discovery, meshes
from relax.discovery import bumps, null_space, unknown
from relax.discovery.seen import ScatteredValues
from relax.errors import BadInput, BadProblem

COMM = MPI.COMM_WORLD


def found_in(field, library=library_on, *, last=1.0, V=None):
    V = line(16) if V is None else V
    return null_space(library(V), states_of(V, field, np.linspace(0.0, last, 41)), noise=1e-4)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(("field", "value"), [(burgers, 0.0), (wave, [0.0, 0.0])], ids=["burgers", "wave"])
def test_evolution_goes_on_as_the_field(field, value):
    """From its first state the equation found gives the last one; its controls are the coefficients."""
    found = found_in(field)
    evolution = found.evolution(num_steps=80, dirichlet={"left": value, "right": value})
    V = found.library.space
    shown = relax.FieldValues(evolution.state.function_space)
    with relax.ReducedMap(evolution, shown) as G:
        end = G(G.present_control())
    assert [c.value.tolist() for c in evolution.controls[1:]] == [
        [x for i, x in enumerate(found.coefficients) if i != found.leading]
    ]
    (_, last), *_ = states_of(V, field, np.array([1.0]))
    close(end.reshape(len(last), -1)[:, 0], last, 2e-2)
    few = found.evolution(num_steps=4, dirichlet={"left": value, "right": value})
    with relax.ReducedMap(few, relax.FieldValues(few.state.function_space)) as G:
        relax.check_map(G)


def test_damped_wave():
    """u_tt + 2 u_t = u_xx: u_t beside u_tt is the second part of the state."""
    rate = np.sqrt(PI**2 - 1.0)

    def field(x, t):
        return np.exp(-t) * np.cos(rate * t) * np.sin(PI * x[0]) + 0.3 * np.exp(-t) * np.cos(
            np.sqrt(4 * PI**2 - 1.0) * t
        ) * np.sin(2 * PI * x[0])

    found = found_in(field)
    assert found.by_name == pytest.approx({"u_tt": 1.0, "u_t": 2.0, "lap": -1.0}, rel=1e-2)
    evolution = found.evolution(num_steps=80, dirichlet={"left": [0.0, 0.0], "right": [0.0, 0.0]})
    with relax.ReducedMap(evolution, relax.FieldValues(evolution.state.function_space)) as G:
        end = G(G.present_control()).reshape(-1, 2)[:, 0]
    (_, last), *_ = states_of(found.library.space, field, np.array([1.0]))
    assert np.abs(end - last).max() < 0.02


@pytest.mark.ranks(1, 2)
def test_evolution_on_another_mesh():
    """What was found on a line goes on, with another start, on a finer line."""
    found = found_in(heat)
    finer = meshes.interval(40, (0.0, 1.0))
    evolution = found.evolution(finer, initial=lambda x: np.cos(PI * x[0]), num_steps=50)
    with relax.ReducedMap(evolution, relax.PointValues(evolution.state.function_space, [[0.25]])) as G:
        close(G(G.present_control()), [np.exp(-0.1 * PI**2) * np.cos(0.25 * PI)], 1e-3)
    raised_everywhere(BadInput, lambda: found.evolution(finer))


def test_a_term_with_the_time_in_it_does_not_go_on():
    V = line(cells=8)
    u, v, t = discovery.unknown(V), discovery.test(V), fem.Constant(V.mesh, 1.0)
    library = {"u_t": u.dt * v, "t lap": -t * inner(grad(u), grad(v))}
    found = discovery.null_space(library, states_of(V, heat, np.linspace(0.0, 1.0, 9)), noise=0.01)
    with pytest.raises(BadProblem, match="the number that it held"):
        found.evolution(time=t)


@pytest.mark.ranks(1, 2)
def test_refine_in_other_units():
    """In thousandths of a metre coefficient and deviation are a millionth of what they are in metres."""
    made = []
    for unit in (1.0, 1e-3):
        V = fem.functionspace(meshes.interval(8, (0.0, unit)), ("Lagrange", 1))
        rng = np.random.default_rng(0)
        decaying = lambda x, t, L=unit: np.exp(-0.1 * PI**2 * t) * np.cos(PI * x[0] / L)  # noqa: E731
        exact = states_of(V, decaying, np.linspace(0.0, 1.0, 6))
        data = [(t, u + 0.02 * rng.standard_normal(len(u))) for t, u in exact]
        u, v = unknown(V), discovery.test(V)
        found = null_space({"u_t": u.dt * v, "lap": -inner(grad(u), grad(v))}, data, noise=0.02, tests=bumps(3, 3))
        result = found.refine(data, noise=0.02).raise_if_failed()
        made.append([result.coefficients[0] / unit**2, result.std[0] / unit**2])
    assert made[1] == pytest.approx(made[0], rel=1e-2)


@pytest.mark.ranks(1, 2)
def test_refine_states():
    """States with errors at the nodes: the truth within three standard deviations, which are in proportion to them."""
    V = fem.functionspace(meshes.interval(8), ("Lagrange", 1))
    rng = np.random.default_rng(0)
    decaying = lambda x, t: np.exp(-0.1 * PI**2 * t) * np.cos(PI * x[0])  # noqa: E731
    exact, noise = states_of(V, decaying, np.linspace(0.0, 1.0, 6)), 0.02
    data = [(t, u + noise * rng.standard_normal(len(u))) for t, u in exact]
    u, v = unknown(V), discovery.test(V)
    found = null_space({"u_t": u.dt * v, "lap": -inner(grad(u), grad(v))}, data, noise=noise, tests=bumps(3, 3))
    result = found.refine(data, noise=noise).raise_if_failed()
    assert isinstance(result, Result) and result.covariance.shape == (1, 1)
    everyone_has(result.coefficients)
    assert abs(result.coefficients[0] + 0.1) < 3.0 * result.std[0] < 0.05
    quieter = found.refine(data, noise=0.5 * noise)
    assert quieter.std[0] == pytest.approx(0.5 * result.std[0], rel=0.1)


@pytest.mark.slow
def test_refine_samples():
    """Viscous Hamilton-Jacobi at 10 % noise, its values at the ends known."""
    V = line(16, ends=(-2.0, 2.0))
    data, noise = scattered(viscous, [-2.0, 0.0], [2.0, 2.0], 0.1, 0, num=400)
    found = null_space(library_on(V), data, noise=noise)
    t, x = fem.Constant(V.mesh, 0.0), ufl.SpatialCoordinate(V.mesh)
    ends = x[0] ** 2 / (1 + 4 * t) + 0.5 * ufl.ln(1 + 4 * t)
    result = found.refine(data, noise=noise, dirichlet={"left": ends, "right": ends}, time=t, num_steps=80)
    truth = [{"lap": -1.0, "|grad|^2": 1.0}[name] for name in found.terms if name != "u_t"]
    assert result.status in (relax.Status.converged, relax.Status.relative)
    assert (np.abs(result.coefficients - truth) < 3.0 * result.std).all()
    assert (result.std < 0.1).all()


@pytest.mark.ranks(1, 2)
def test_scattered_values():
    """Between steps a cubic: exact for one, and the derivatives are its own."""
    V = line(4)
    evolution = relax.theta_evolution(
        -4.0 * fem.Constant(V.mesh, 1.0) * ufl.TestFunction(V) * ufl.dx, fem.Function(V), initial=fem.Function(V),
        dt=0.1, num_steps=10,
    )  # fmt: skip
    steps = np.array([0.0, 0.3, 4.71, 9.99, 10.0])
    seen = ScatteredValues(V, np.linspace(0.0, 1.0, 5)[:, None], steps, 10)
    with relax.ReducedMap(evolution, seen) as G:
        close(G(np.ones(G.size_in)), 1.0 + 0.4 * steps)
        relax.check_map(G)
    with pytest.raises(BadProblem, match="10 steps"):
        seen.looks(9)


@pytest.mark.ranks(1, 2)
def test_what_does_not_evolve():
    """A term with two derivatives of v, no derivative in time, times that are not those of the data: said in words."""

    def by_second(V):
        u, v = unknown(V), discovery.test(V)
        return {"u_t": u.dt * v, "lap": u * div(grad(v)), "u^3": u**3 * v}

    def of_space(V):
        u, v = unknown(V), discovery.test(V)
        return {"lap": -inner(grad(u), grad(v)), "u": u * v, "u^3": u**3 * v}

    error = raised_everywhere(BadProblem, found_in(heat, by_second).evolution)
    assert "'lap' takes two derivatives" in str(error)
    still = found_in(lambda x, t: np.exp(-t) * np.sin(PI * x[0]), of_space)
    assert "no derivative in time" in str(raised_everywhere(BadProblem, still.evolution))
    found = found_in(heat)
    later = states_of(found.library.space, heat, np.linspace(0.0, 2.0, 9))
    assert "expected times from 0 to 1" in str(raised_everywhere(BadInput, lambda: found.refine(later, noise=0.1)))
