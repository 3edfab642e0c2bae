"""Schrödinger's equation in time: closed forms, conserved quantities, orders, derivatives of every kind of control."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, MapContract, raised_everywhere
from dolfinx import default_scalar_type, fem

from relax import (
    AtSteps,
    BadInput,
    BadProblem,
    FieldValues,
    Functional,
    IdentityPrior,
    ReducedMap,
    Stack,
    control_values,
    lbfgs,
    meshes,
)
from relax.base import parallel
from relax.pdes import schrodinger


def box(comm=COMM, n=8):
    return meshes.interval(n, (0.0, 1.0), comm=comm)


def wave(x):
    """Something without symmetry that is nearly zero at the walls."""
    return np.exp(-20.0 * (x[0] - 0.45) ** 2 + 3j * x[0])


def seen(problem):
    return Stack(
        [AtSteps(FieldValues(problem.state.function_space), [-1, 0]), AtSteps(_density(problem.state), [1, 2])]
    )


def _density(u):
    return Functional(ufl.inner(u, u) ** 2 * ufl.dx)


def in_controls(*controls, **options):
    def make(mesh):
        return schrodinger.evolution(
            mesh, lambda x: 8.0 * x[0], initial=wave, dt=0.02, num_steps=3, controls=controls, degree=1,
            name="_".join(controls), **options,
        )  # fmt: skip

    return make


class InTime(MapContract):
    domain = staticmethod(box)
    observe = staticmethod(seen)


class TestInitial(InTime):
    make = staticmethod(in_controls("initial"))


class TestPotential(InTime):
    make = staticmethod(in_controls("potential"))


class TestField(InTime):
    make = staticmethod(in_controls("field"))


class TestAllWithAbsorber(InTime):
    make = staticmethod(in_controls("field", "initial", "potential", absorber=lambda x: 2.0 * x[0] ** 2))


class TestInThePlane(InTime):
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    make = staticmethod(in_controls("potential", "field", direction=[0.6, -0.8]))


class TestInSpace(InTime):
    domain = staticmethod(lambda comm: meshes.unit_cube(2, comm=comm))
    make = staticmethod(in_controls("field", "initial", direction=2))


class TestDipole(InTime):
    @staticmethod
    def make(mesh):
        return schrodinger.dipole(mesh, num_steps=3, dt=0.1, degree=1, potential=1.0)


# -- closed forms ------------------------------------------------------------------------------------------------------


def cayley(rate, dt):
    """What one step of Crank–Nicolson makes of a mode exp(-rate t)."""
    return (1.0 - 0.5 * rate * dt) / (1.0 + 0.5 * rate * dt)


@pytest.mark.parametrize("degree", [1, 2])
def test_an_eigenstate_turns_its_phase(degree):
    """Of the discrete Hamiltonian, to rounding: no error of the mesh stands between."""
    mesh, dt, N = box(n=12), 0.07, 25
    found = schrodinger.eigenstates(mesh, lambda x: 5.0 * x[0], 3, degree=degree)
    for i in (0, 2):
        evolution = schrodinger.evolution(
            mesh, lambda x: 5.0 * x[0], initial=found.states[i], dt=dt, num_steps=N, degree=degree
        )
        overlaps = schrodinger.Overlaps(evolution.state.function_space, found.states)
        with ReducedMap(evolution, overlaps) as G:
            y = G(G.present_control()).reshape(3, 2) @ [1.0, 1j]
        expected = np.zeros(3, dtype=complex)
        expected[i] = cayley(1j * found.energies[i], dt) ** N
        np.testing.assert_allclose(y, expected, atol=1e-10)


def test_a_uniform_absorber_damps_every_mode_alike():
    """-i W with a constant W: the mode of energy E decays as exp(-(iE + W) t)."""
    mesh, dt, N, W = box(n=12), 0.05, 20, 0.8
    found = schrodinger.eigenstates(mesh, 0.0, 1)
    evolution = schrodinger.evolution(mesh, initial=found.states[0], dt=dt, num_steps=N, absorber=W)
    with ReducedMap(evolution, schrodinger.Overlaps(evolution.state.function_space, found.states)) as G:
        y = G(G.present_control()) @ [1.0, 1j]
    assert abs(y - cayley(1j * found.energies[0] + W, dt) ** N) < 1e-11


def test_an_absorbing_layer_takes_what_runs_into_it():
    """A packet that crosses the layer is gone; without the layer it comes back from the wall, whole."""
    mesh = meshes.interval(120, (-10.0, 10.0))
    layer = schrodinger.absorbing_layer(mesh, width=5.0, strength=4.0)
    left = {}
    for name, absorber in (("layer", layer), ("wall", 0.0)):
        evolution = schrodinger.evolution(
            mesh, initial=lambda x: np.exp(-(x[0] ** 2) + 4j * x[0]), dt=0.05, num_steps=100, absorber=absorber
        )
        with ReducedMap(evolution, AtSteps(schrodinger.norm(evolution.state), [0, -1])) as G:
            y = G(G.present_control())
            left[name] = y[1] / y[0]
    assert left["wall"] == pytest.approx(1.0, abs=1e-10) and left["layer"] < 0.01


def test_a_potential_that_changes_in_time_is_taken_at_the_middle_of_a_step():
    """V = a t, the same everywhere: a phase, and the norm stays."""
    mesh, dt, N, a = box(n=12), 0.1, 12, 3.0
    t = fem.Constant(mesh, default_scalar_type(0.0))
    found = schrodinger.eigenstates(mesh, 0.0, 1)
    evolution = schrodinger.evolution(mesh, a * t, initial=found.states[0], dt=dt, num_steps=N, time=t, start=0.4)
    with ReducedMap(evolution, schrodinger.Overlaps(evolution.state.function_space, found.states)) as G:
        y = G(G.present_control()) @ [1.0, 1j]
    middle = 0.4 + dt * (np.arange(N) + 0.5)
    assert abs(y - np.prod(cayley(1j * (found.energies[0] + a * middle), dt))) < 1e-11


@pytest.mark.parametrize("direction", [1, [0.0, 1.0]])
def test_a_field_pushes_against_itself(direction):
    """Ehrenfest: <y>(t) = <y>(0) - E t² / 2 for V = E y, away from the walls, whatever the shape."""
    mesh = meshes.rectangle((-4.0, -4.0), (4.0, 4.0), (14, 14))
    N, dt, E = 10, 0.1, 0.7
    evolution = schrodinger.evolution(
        mesh, initial=lambda x: np.exp(-(x[0] ** 2) - x[1] ** 2) * np.sqrt(2 / np.pi), dt=dt, num_steps=N,
        controls="field", direction=direction,
    )  # fmt: skip
    with ReducedMap(evolution, AtSteps(schrodinger.position(evolution.state), [0, -1])) as G:
        start, end = G(np.full(N, E)).reshape(2, 2)
    np.testing.assert_allclose(start, 0.0, atol=1e-3)
    np.testing.assert_allclose(end, [0.0, -0.5 * E], atol=4e-3)


def coherent(x, t, start=1.0):
    """The coherent state of V = x²/2: a Gaussian that swings as a classical particle does (Schrödinger 1926)."""
    phase = t / 2 + start * x * np.sin(t) - start**2 / 4 * np.sin(2 * t)
    return np.pi**-0.25 * np.exp(-((x - start * np.cos(t)) ** 2) / 2 - 1j * phase)


def free(x, t, width=0.5, k=2.0, start=-1.5):
    """A free Gaussian packet of this width and wave number, spreading."""
    z = 1 + 1j * t / (2 * width**2)
    shape = -((x - start - k * t) ** 2) / (4 * width**2 * z)
    return (2 * np.pi * width**2) ** -0.25 / np.sqrt(z) * np.exp(shape + 1j * k * (x - start) - 1j * k**2 * t / 2)


def error(u, exact):
    """The L2 norm of u - exact, the latter interpolated two degrees higher. Collective."""
    mesh = u.function_space.mesh
    W = fem.functionspace(mesh, ("Lagrange", 4, (2,)))
    there = fem.Function(W)
    there.interpolate(lambda x: np.array([exact(x).real, exact(x).imag]))
    square = fem.assemble_scalar(fem.form(ufl.inner(u - there, u - there) * ufl.dx))
    return float(np.sqrt(parallel.sum_over_ranks(mesh.comm, np.array([square]))[0]))


def error_after(mesh, potential, exact, T, N):
    evolution = schrodinger.evolution(mesh, potential, initial=lambda x: exact(x, 0.0), dt=T / N, num_steps=N)
    with ReducedMap(evolution, schrodinger.norm(evolution.state)) as G:
        G(G.present_control())
    return error(evolution.state, lambda x: exact(x, T))


PACKETS = {
    "coherent": (lambda x: 0.5 * x[0] ** 2, lambda x, t: coherent(x[0], t), 1.0, 6.0),
    "free": (0.0, lambda x, t: free(x[0], t), 0.6, 8.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKETS)
def test_order_in_the_mesh(name):
    """P2: the error falls as h³ (or a little faster, before it gets there), with steps far below it."""
    potential, exact, T, L = PACKETS[name]
    coarse, fine = (error_after(meshes.interval(n, (-L, L)), potential, exact, T, 1200) for n in (60, 120))
    assert 2.85 < np.log2(coarse / fine) < 4.3


@pytest.mark.parametrize("name", PACKETS)
def test_order_in_time(name):
    potential, exact, T, L = PACKETS[name]
    mesh = meshes.interval(320, (-L, L))
    coarse, fine = (error_after(mesh, potential, exact, T, N) for N in (30, 60))
    assert np.log2(coarse / fine) == pytest.approx(2.0, abs=0.1)


def test_a_coherent_state_in_the_plane():
    """A quarter of a period on a plane mesh: within what the orders promise of the closed form."""
    mesh = meshes.rectangle((-5.0, -5.0), (5.0, 5.0), (20, 20))

    def exact(x, t):
        return coherent(x[0], t, 1.0) * coherent(x[1], t, 0.5)

    potential = 0.5 * ufl.inner(ufl.SpatialCoordinate(mesh), ufl.SpatialCoordinate(mesh))
    assert error_after(mesh, potential, exact, np.pi / 2, 60) < 0.02


def test_the_norm_stays():
    """One factorisation, no drift: Crank–Nicolson is unitary in the discrete inner product."""
    mesh, N = box(n=16), 500
    evolution = schrodinger.evolution(mesh, lambda x: 50.0 * x[0], initial=wave, dt=0.01, num_steps=N)
    with ReducedMap(evolution, AtSteps(schrodinger.norm(evolution.state), range(N + 1))) as G:
        y = G(G.present_control())
    assert np.abs(np.diff(y) / y[0]).max() < 1e-12 and np.abs(y / y[0] - 1.0).max() < 1e-11


# -- control -----------------------------------------------------------------------------------------------------------


def test_a_field_takes_the_population_up():
    """From the ground state to the first excited one by L-BFGS on the adjoint, to nine tenths in a short pulse."""
    mesh = box(n=8)
    evolution = schrodinger.dipole(mesh, num_steps=40, dt=0.05)
    states = schrodinger.eigenstates(mesh, 0.0, 3)
    gap = states.energies[1] - states.energies[0]
    times = 0.05 * (np.arange(40) + 0.5)
    with ReducedMap(evolution, schrodinger.Populations(evolution.state.function_space, states.states)) as G:
        start = 5.0 * np.cos(gap * times)
        prior = IdentityPrior(G, std=30.0)
        found = lbfgs(G, np.array([0.0, 1.0, 0.0]), start, noise=0.05, prior=prior, rtol=1e-3, max_steps=60)
        before, reached = G(start), G(found.value)
    assert before[1] < 0.8 < 0.9 < reached[1]
    assert reached.sum() <= 1.0 + 1e-12


# -- what goes in ------------------------------------------------------------------------------------------------------


def test_wave_functions():
    """Complex values, two parts, one real part, Functions, UFL, numbers: the same pair."""
    mesh = box()
    V = fem.functionspace(mesh, ("Lagrange", 2, (2,)))
    real = fem.Function(fem.functionspace(mesh, ("Lagrange", 2)))
    real.interpolate(lambda x: x[0] ** 2)
    x = ufl.SpatialCoordinate(mesh)
    expected = schrodinger.wave_function(lambda x: x[0] ** 2 + 0j, V).x.array
    for same in (lambda x: x[0] ** 2, lambda x: np.stack([x[0] ** 2, 0 * x[0]]), real, x[0] ** 2):
        np.testing.assert_allclose(schrodinger.wave_function(same, V).x.array, expected, atol=1e-14)
    complex_one = schrodinger.wave_function(lambda x: 1j * x[0], V).x.array.reshape(-1, 2)
    np.testing.assert_allclose(complex_one[:, 1], V.tabulate_dof_coordinates()[:, 0], atol=1e-15)
    assert (schrodinger.wave_function(2.0 - 1j, V).x.array.reshape(-1, 2) == [2.0, -1.0]).all()
    copy = schrodinger.wave_function(schrodinger.wave_function(wave, V), V)
    np.testing.assert_allclose(copy.x.array, schrodinger.wave_function(wave, V).x.array, atol=1e-15)


@pytest.mark.ranks(1, 2)
def test_what_does_not_fit():
    mesh = box()
    good = {"initial": wave, "dt": 0.1, "num_steps": 2}
    for wrong in (
        {"controls": []}, {"controls": ["force"]}, {"controls": ["field", "field"]},
        {"direction": 1, "controls": "field"}, {"direction": [1.0, 0.0], "controls": "field"}, {"initial": "ground"},
        {"initial": ufl.SpatialCoordinate(mesh)[0] * ufl.as_vector([1.0, 2.0, 3.0])},
        {"controls": "potential", "time": fem.Constant(mesh, default_scalar_type(0.0))},
    ):  # fmt: skip
        raised_everywhere(BadInput, lambda wrong=wrong: schrodinger.evolution(mesh, **{**good, **wrong}))
    raised_everywhere(BadProblem, lambda: schrodinger.evolution(mesh, **{**good, "num_steps": 0}))
    raised_everywhere(BadInput, lambda: schrodinger.dipole(mesh, num_steps=2, dt=0.1, initial=0))
    raised_everywhere(BadInput, lambda: schrodinger.absorbing_layer(mesh, width=0.0, strength=1.0))
    evolution = schrodinger.evolution(mesh, **good)
    with ReducedMap(evolution, schrodinger.norm(evolution.state)) as G:
        assert control_values(G, evolution.initial_state).shape == (G.size_in,)
