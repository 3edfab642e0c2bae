"""Equations found in data: exact fields, samples with noise, what cannot be told, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from contract import close, raised_everywhere
from discovery_cases import (
    HAMILTON_JACOBI,
    burgers,
    error_of,
    heat,
    library_on,
    line,
    scattered,
    states_of,
    viscous,
    viscous_in_plane,
    wave,
)
from dolfinx import fem
from mpi4py import MPI
from ufl import SpatialCoordinate, div, dx, exp, grad, inner

import relax
from relax import discovery, meshes
from relax.discovery import FieldPosterior, bumps, null_space, samples, unknown
from relax.discovery.library import Library
from relax.discovery.weak import WeakMatrix
from relax.errors import BadInput, BadProblem, PointsOutsideMesh

COMM = MPI.COMM_WORLD
ON_LINE = {
    "viscous": (viscous, (-2.0, 2.0), 2.0, HAMILTON_JACOBI),
    "heat": (heat, (0.0, 1.0), 1.0, {"u_t": 1.0, "lap": -0.1}),
    "burgers": (burgers, (0.0, 1.0), 1.0, {"u_t": 1.0, "lap": -0.1, "u u_x": 1.0}),
    "wave": (wave, (0.0, 1.0), 1.0, {"u_tt": 1.0, "lap": -2.25}),
}
ON_DISK = {
    "viscous": (viscous_in_plane, 0.5, HAMILTON_JACOBI),
    "heat": (heat, 1.0, {"u_t": 1.0, "lap": -0.1}),
}


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("name", ON_LINE)
def test_exact_fields_on_a_line(name):
    field, ends, last, truth = ON_LINE[name]
    V = line(ends=ends)
    found = null_space(library_on(V), states_of(V, field, np.linspace(0.0, last, 81)), noise=1e-4)
    assert set(found.terms) == set(truth)
    assert error_of(found, truth) < 1e-3 and found.by_name == pytest.approx(truth, rel=1e-3)
    assert found.is_zero and found.is_identifiable
    assert [len(names) for _, names in found.path] == [8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("name", ON_DISK)
def test_exact_fields_on_an_unstructured_disk(name):
    field, last, truth = ON_DISK[name]
    V = fem.functionspace(meshes.disk(0.2), ("Lagrange", 2))
    data = states_of(V, field, np.linspace(0.0, last, 21))
    found = null_space(library_on(V, second=False), data, noise=1e-5, tests=bumps(5, 4))
    assert set(found.terms) == set(truth)
    assert error_of(found, truth) < 1e-3 and found.by_name == pytest.approx(truth, rel=2e-3)


@pytest.mark.parametrize(
    ("level", "seed"),
    [pytest.param(a, b, marks=[pytest.mark.slow] * (b > 0)) for a in (0.01, 0.032, 0.1) for b in range(3)],
)
def test_scattered_samples_with_noise(level, seed):
    """The right terms; e as of the specification, and mu as it is where the noise is what it is said to be."""
    V = line(ends=(-2.0, 2.0))
    data, noise = scattered(viscous, [-2.0, 0.0], [2.0, 2.0], level, seed)
    found = null_space(library_on(V), data, noise=noise)
    assert set(found.terms) == set(HAMILTON_JACOBI)
    assert error_of(found, HAMILTON_JACOBI) < 0.05
    assert 0.25 < found.path[0][0] < 3.0 and found.is_zero


@pytest.mark.ranks(2, 3)
def test_the_same_on_any_number_of_ranks():
    """A field from samples, its draws, and the equation: as on one rank alone."""
    made = []
    for comm in (COMM, MPI.COMM_SELF):
        V = fem.functionspace(meshes.unit_square(6, comm=comm), ("Lagrange", 1))
        data, noise = scattered(heat, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], 0.02, 3, num=150)
        field = FieldPosterior(V, data, noise=noise, times=np.linspace(0.0, 1.0, 5))
        found = null_space(library_on(V, second=False), data, noise=noise, tests=bumps(3, 3))
        made.append((field.mean, field.sample(2, seed=5), found.mu, found.coefficients, found.terms))
    for here, alone in zip(*made, strict=True):
        if isinstance(here, tuple):
            assert here == alone
        else:
            assert np.allclose(here, alone, rtol=1e-6, atol=1e-8)


@pytest.mark.ranks(1, 2)
def test_two_equations_at_once_are_not_identifiable():
    """exp(-t) sin x satisfies u_t = -u, u_t = u_xx, and any mean of the two."""
    V = line(ends=(0.0, 3.0))
    u, v = unknown(V), discovery.test(V)
    terms = {"u_t": u.dt * v, "lap": u * div(grad(v)), "u": u * v, "u^2": u**2 * v}
    data = states_of(V, lambda x, t: np.exp(-t) * np.sin(x[0]), np.linspace(0.0, 1.0, 21))
    found = null_space(terms, data, noise=1e-4)
    assert len(found.terms) == 2 and len(found.rivals) == 2 and not found.is_identifiable
    assert "not identifiable" in str(found)


def test_a_library_that_lacks_a_term_is_not_zero():
    V = line()
    u, v = unknown(V), discovery.test(V)
    terms = {"u_t": u.dt * v, "u": u * v, "u^2": u**2 * v}
    found = null_space(terms, states_of(V, heat, np.linspace(0.0, 1.0, 21)), noise=1e-5)
    assert not found.is_zero and "not zero within the noise" in str(found)


@pytest.mark.ranks(1, 2)
def test_vector_states_and_sources():
    """u_t = 0.1 Lap u - 0.5 (u_2, -u_1) + (1, 0) exp(x): a rotation and a source, one test function for both."""
    V = fem.functionspace(meshes.interval(32, (0.0, 1.0)), ("Lagrange", 2, (2,)))
    evolved = fem.Function(V)
    evolved.interpolate(lambda x: np.array([np.sin(3 * x[0]), np.cos(2 * x[0])]))
    state, w, x = fem.Function(V), discovery.test(V), SpatialCoordinate(V.mesh)
    turned = lambda u, v: u[1] * v[0] - u[0] * v[1]  # noqa: E731
    weak = (0.1 * inner(grad(state), grad(w)) + 0.5 * turned(state, w) - exp(x[0]) * w[0]) * dx
    steps = relax.theta_evolution(weak, state, initial=evolved, dt=0.01, num_steps=60)
    G = relax.ReducedMap(steps, relax.FieldValues(V))
    u, v = unknown(V), discovery.test(V)
    terms = {
        "u_t": inner(u.dt, v),
        "lap": -inner(grad(u), grad(v)),
        "turned": turned(u, v),
        "u": inner(u, v),
        "|u|^2 u": inner(u, u) * inner(u, v),
        "source": exp(x[0]) * v[0],
    }
    found = null_space(terms, samples(G, G.present_control()), noise=1e-6, tests=bumps(6, 6))
    assert found.by_name == pytest.approx({"u_t": 1.0, "lap": -0.1, "turned": 0.5, "source": -1.0}, rel=2e-3)
    G.close()


@pytest.mark.ranks(1, 2, 3)
def test_bumps_stay_clear_of_the_boundary():
    """By parts nothing is left at the boundary: each way to write a term gives the same, but for the quadrature."""
    domain = meshes.unit_square(12)
    domain.geometry.x[:, 0] += 0.1 * np.sin(5 * domain.geometry.x[:, 1])
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, v = unknown(V), discovery.test(V)
    terms = {"lap": -inner(grad(u), grad(v)), "lap v": u * div(grad(v)), "u_y": u.dx(1) * v, "u v_y": -u * v.dx(1)}
    times = np.linspace(0.0, 1.0, 9)
    matrix = WeakMatrix(Library(terms), bumps(4, 3), times)
    states = states_of(V, lambda x, t: np.exp(x[0] * t) * np.cos(3 * x[1]), times)
    (A,) = matrix(np.array([[values for _, values in states]]))
    for first, second in ((0, 1), (2, 3)):
        assert np.abs(A[:, first]).max() > 1e-3
        close(A[:, second], A[:, first], 2e-3)


@pytest.mark.ranks(1, 3)
def test_a_rank_without_cells():
    V = line(2)
    data = states_of(V, lambda x, t: np.exp(-t) * (1 + x[0]), np.linspace(0.0, 1.0, 21))
    u, v = unknown(V), discovery.test(V)
    found = null_space({"u_t": u.dt * v, "u": u * v}, data, noise=1e-4, tests=bumps(2, 4))
    assert found.by_name == pytest.approx({"u_t": 1.0, "u": 1.0}, rel=1e-3)


def test_sensors_that_stay():
    """Readings of ten sensors in turn: lengths of the prior are not those of one of them."""
    V, places, times = line(8), np.linspace(0.05, 0.95, 10), np.linspace(0.0, 1.0, 399)
    points, at = np.tile(places, len(times))[:, None], np.repeat(times, len(places))
    field = FieldPosterior(V, (points, at, heat(points.T, at)), noise=0.01, times=times[::40])
    assert 0.1 < field.components[0].lengths.space < 2.0
    with pytest.raises(BadInput, match="different points"):
        FieldPosterior(V, (0.0 * points, at, heat(points.T, at)), noise=0.01, times=times[::40])


def test_third_derivatives():
    """A bump has them: -∫u v_xxx = ∫u_x v_xx."""
    V = line()
    u, v = unknown(V), discovery.test(V)
    terms = {"by v": -u * v.dx(0).dx(0).dx(0), "by both": u.dx(0) * v.dx(0).dx(0)}
    times = np.linspace(0.0, 1.0, 9)
    (A,) = WeakMatrix(Library(terms), bumps(4, 3), times)(np.array([[u for _, u in states_of(V, heat, times)]]))
    close(A[:, 0], A[:, 1], 1e-3)


def test_no_bump_within_the_domain():
    """The middle of the box around a bent one is outside of it."""
    domain = meshes.unit_square(8)
    domain.geometry.x[:, 1] += 4.0 * domain.geometry.x[:, 0] ** 2
    V = fem.functionspace(domain, ("Lagrange", 1))
    data = states_of(V, heat, np.linspace(0.0, 1.0, 9))
    with pytest.raises(BadInput, match="none of"):
        null_space(library_on(V), data, noise=0.1, tests=bumps(1, 3))


def bad_libraries(V):
    """(words of the message, a library)."""
    u, v = unknown(V), discovery.test(V)
    other, w = unknown(V), discovery.test(fem.functionspace(V.mesh, ("Lagrange", 1)))
    fine = {"u": u * v}
    return [
        ("expected a table", [u * v]),
        ("at least two terms", fine),
        ("without * dx", fine | {"a": u * v * dx}),
        ("linear in test", fine | {"a": u * v * v}),
        ("test(V) in it", fine | {"a": u * u}),
        ("UFL scalar", fine | {"a": grad(u)}),
        ("one test function", fine | {"a": u.dt * w}),
        ("one u = unknown", fine | {"a": other.dt * v}),
        ("linear in the time derivative", fine | {"a": u * u.dt * v}),
        ("no other u", fine | {"a": u.dt**2 * v}),
        ("takes 2 derivatives of 'u'", fine | {"a": div(grad(u)) * v}),
        ("derivatives in time", fine | {"a": u.dt.dt.dt * v}),
        ("at most 16", {str(i): u * v for i in range(17)}),
        ("['u', 'a'] add up to zero", fine | {"a": u * v, "lap": -inner(grad(u), grad(v))}),
        ("finite for all fields", fine | {"a": v / (u - u)}),
        ("not zero", fine | {"a": 0.0 * u.dx(0) * v + (u - u) * v}),
    ]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.ranks(1, 2)
def test_libraries_that_are_none():
    V = line(cells=8)
    data = states_of(V, heat, np.linspace(0.0, 1.0, 9))
    for words, library in bad_libraries(V):
        error = raised_everywhere((BadInput, BadProblem), lambda lib=library: null_space(lib, data, noise=0.1))
        assert words in str(error)


def bad_data(V):
    """(words of the message, data)."""
    (t, u), *rest = states_of(V, heat, np.linspace(0.0, 1.0, 9))
    (x, times, values), _ = scattered(heat, [0.0, 0.0], [1.0, 1.0], 0.1, 0, num=20)
    return [
        ("expected states", 3.0),
        ("nodal values of shape", [(t, u[:-1]), *rest]),
        ("times that increase", [(2.0, u), *rest]),
        ("at least 4 times", rest[:3]),
        ("finite", [(t, np.nan * u), *rest]),
        ("a time and 1 values", (x, times[:-1], values)),
        ("different times", (x, 0.0 * times, values)),
        ("outside the mesh", (x + 0.5, times, values)),
        ("finite", (x, times, values / 0.0)),
    ]


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.ranks(1, 2)
def test_data_that_are_none():
    V = line(cells=8)
    for words, data in bad_data(V):
        error = raised_everywhere((BadInput, PointsOutsideMesh), lambda d=data: null_space(library_on(V), d, noise=0.1))
        assert words in str(error)
    data = states_of(V, heat, np.linspace(0.0, 1.0, 9))
    for words, more in (
        ("noise", {"noise": 0.0}),
        ("tests", {"noise": 0.1, "tests": 8}),
        ("posterior.mean", {"noise": 0.1, "posterior": Constant(3)}),
        ("a number for each", {"noise": 0.1, "tests": bumps(4, 4, 4, 4)}),
    ):
        error = raised_everywhere(BadInput, lambda m=more: null_space(library_on(V), data, **m))
        assert words in str(error)


@pytest.mark.ranks(2)
def test_arguments_are_rank_0s():
    """Another noise, seed or number of tests on a rank is not taken; another kind of data is refused on all."""
    V = line(cells=8)
    data = states_of(V, heat, np.linspace(0.0, 1.0, 9))
    other = {"noise": -1.0, "seed": 7, "tests": 5} if COMM.rank else {"noise": 0.01, "seed": 0, "tests": bumps(6, 6)}
    assert len(set(COMM.allgather(null_space(library_on(V), data, **other).mu))) == 1
    samples_here, _ = scattered(heat, [0.0, 0.0], [1.0, 1.0], 0.1, 0, num=20)
    mixed = samples_here if COMM.rank else data
    error = raised_everywhere(BadInput, lambda: null_space(library_on(V), mixed, noise=0.1))
    assert "the same kind" in str(error)


class Constant:
    """A posterior of a vector of ones that is known."""

    def __init__(self, size):
        self.mean = np.ones(size)

    def sample(self, num, *, seed=0):
        return np.ones((num, len(self.mean)))


@pytest.mark.ranks(1, 2)
def test_a_posterior_of_ones_own():
    """Draws that differ by little in one direction: as errors of the states that are correlated."""
    V = line()
    times = np.linspace(0.0, 1.0, 21)
    data = states_of(V, heat, times)

    class Wave(Constant):
        mean = np.concatenate([u for _, u in data])

        def __init__(self):
            pass

        def sample(self, num, *, seed=0):
            shape = np.concatenate([u for _, u in states_of(V, burgers, times)])
            return self.mean + 1e-3 * np.random.default_rng(seed).standard_normal((num, 1)) * shape

    found = null_space(library_on(V), data, noise=1e-3, posterior=Wave())
    assert found.by_name == pytest.approx({"u_t": 1.0, "lap": -0.1}, rel=1e-3)


def test_noise_of_states_moves_squares():
    """The mean of |grad(u + e)|² is not |grad u|²: with errors at the nodes the equation is the same all the same."""
    V = line(ends=(-2.0, 2.0), cells=16)
    times = np.linspace(0.0, 2.0, 161)
    data = states_of(V, viscous, times)
    rng = np.random.default_rng(0)
    noisy = [(t, u + 0.02 * rng.standard_normal(len(u))) for t, u in data]
    u, v = unknown(V), discovery.test(V)
    terms = {"u_t": u.dt * v, "lap": u * div(grad(v)), "|grad|^2": inner(grad(u), grad(u)) * v}
    found = null_space(terms, noisy, noise=0.02)
    assert error_of(found, HAMILTON_JACOBI) < 0.1
