"""Equations of several components: found one by one, evolved and refined together."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import close, everyone_has, raised_everywhere
from discovery_cases import error_of, heat, library_on, states_of
from dolfinx import fem
from mpi4py import MPI
from ufl import grad, inner

import relax
from relax import discovery, meshes
from relax.discovery import System, bumps, null_space, samples, unknown
from relax.discovery.seen import ScatteredValues
from relax.errors import BadInput, BadProblem

COMM = MPI.COMM_WORLD
PREY = {"u_t": 1.0, "lap": -0.05, "p": -1.0, "pq": 1.0}
PREDATOR = {"u_t": 1.0, "lap": -0.1, "q": 0.5, "pq": -1.0}


def species(domain, degree=2):
    return fem.functionspace(domain, ("Lagrange", degree, (2,)))


def terms_of(u, v, k):
    """Seven terms for the equation of one of two species."""
    p, q = u
    return {
        "u_t": u.dt[k] * v,
        "lap": -inner(grad(u[k]), grad(v)),
        "p": p * v,
        "q": q * v,
        "p^2": p**2 * v,
        "pq": p * q * v,
        "q^2": q**2 * v,
    }


def hunt(V, *, last, num_steps, prey=PREY, predator=PREDATOR, **more):
    """p_t = 0.05 Lap p + p - pq, q_t = 0.1 Lap q - q/2 + pq, insulated, as relax solves it."""
    state, w = fem.Function(V), ufl.TestFunction(V)
    (p, q), (v, z) = state, w
    rest = prey["lap"] * -inner(grad(p), grad(v)) + (prey["p"] * p + prey["pq"] * p * q) * v
    rest += predator["lap"] * -inner(grad(q), grad(z)) + (predator["q"] * q + predator["pq"] * p * q) * z
    x = ufl.SpatialCoordinate(V.mesh)
    y = x[1] if len(x) > 1 else 0.0
    start = [1 + 0.5 * ufl.sin(2 * x[0]) * ufl.cos(y), 0.8 + 0.5 * ufl.exp(-3 * (x[0] - 0.3) ** 2 - 3 * y**2)]
    return relax.theta_evolution(
        rest * ufl.dx, state, initial=ufl.as_vector(start), dt=last / num_steps, num_steps=num_steps, **more
    )


def states_from(evolution):
    with relax.ReducedMap(evolution, relax.FieldValues(evolution.state.function_space)) as G:
        return samples(G, G.present_control())


def found_in(V, data, *, noise=1e-4, tests=None, left_out=()):
    """The equations of prey and predator."""
    u, v = unknown(V), discovery.test(fem.functionspace(V.mesh, ("Lagrange", 1)))
    tests = bumps(3, 3) if tests is None else tests
    libraries = [{n: t for n, t in terms_of(u, v, k).items() if n not in left_out} for k in (0, 1)]
    return [null_space(library, data, noise=noise, tests=tests) for library in libraries]


@pytest.mark.ranks(1, 2, 3)
def test_reaction_and_diffusion_on_a_disk():
    """Both equations, and together, in either order, they go on as the species did."""
    V = species(meshes.disk(0.3))
    data = states_from(hunt(V, last=1.0, num_steps=40))[::2]
    prey, predator = found_in(V, data, tests=bumps(4, 4))
    assert set(prey.terms) == set(PREY) and set(predator.terms) == set(PREDATOR)
    assert error_of(prey, PREY) < 1e-3 and error_of(predator, PREDATOR) < 1e-3
    system = System([predator, prey])
    assert system.terms[:4] == tuple(f"{name} of u[1]" for name in predator.terms)
    assert system.coefficients.tolist() == [*predator.coefficients, *prey.coefficients]
    assert str(system) == f"{predator}\n{prey}" and system.by_name["pq of u[0]"] == prey.by_name["pq"]
    evolution = system.evolution(num_steps=20)
    with relax.ReducedMap(evolution, relax.FieldValues(V)) as G:
        close(G(G.present_control()), data[-1][1], 1e-3)
    free = [c for name, c in system.by_name.items() if not name.startswith("u_t")]
    assert evolution.controls[1].value.tolist() == free


@pytest.mark.ranks(1, 2)
def test_steps_are_those_of_the_system():
    """With one species held at a side: as written by hand; and the map's derivatives."""
    V = species(meshes.unit_square(4), 1)
    prey, predator = found_in(V, states_from(hunt(V, last=1.0, num_steps=20)), noise=0.01, left_out=("p^2", "q^2"))
    by_hand = hunt(
        V, last=1.0, num_steps=4, prey=dict.fromkeys(PREY, 0.0) | prey.by_name,
        predator=dict.fromkeys(PREDATOR, 0.0) | predator.by_name, bcs=[relax.clamp(V.sub(1), "left", 0.3)],
    )  # fmt: skip
    (_, start), *_, (_, end) = states_from(by_hand)
    system = System([predator, prey])
    evolution = system.evolution(num_steps=4, dirichlet={"left": [None, 0.3]}, initial=by_hand.initial_state)
    with relax.ReducedMap(evolution, relax.FieldValues(V)) as G:
        close(G(G.present_control()), end)
        relax.check_map(G)
    error = raised_everywhere(BadInput, lambda: system.evolution(dirichlet={"left": [0.3, None, None]}))
    assert "expected 2 values at 'left'" in str(error)


def readings(num, noise, seed):
    """Samples of both species at points and times scattered over (-2, 2) x (0, 4)."""
    rng = np.random.default_rng(seed)
    points, times = rng.uniform(-2.0, 2.0, (num, 1)), rng.uniform(0.0, 4.0, num)
    V = species(meshes.interval(20, (-2.0, 2.0)))
    with relax.ReducedMap(hunt(V, last=4.0, num_steps=80), ScatteredValues(V, points, 20.0 * times, 80)) as G:
        values = G(G.present_control()).reshape(num, 2)
    return points, times, values + noise * rng.standard_normal(values.shape)


@pytest.mark.ranks(1, 2)
def test_refine_from_scattered_samples_of_both():
    """On a coarser mesh, from samples with noise: the truth within three standard deviations."""
    V = species(meshes.interval(8, (-2.0, 2.0)))
    states = states_from(hunt(V, last=4.0, num_steps=40))[::2]
    system = System(found_in(V, states, noise=0.01, tests=bumps(4, 6), left_out=("p^2", "q^2")))
    result = system.refine(readings(150, 0.02, 0), noise=0.02, num_steps=20).raise_if_failed()
    everyone_has(result.coefficients)
    truth = {f"{n} of u[{k}]": c for k, of in enumerate((PREY, PREDATOR)) for n, c in of.items() if n != "u_t"}
    assert [name for name in system.terms if not name.startswith("u_t")] == list(truth)
    assert result.covariance.shape == (6, 6)
    assert (np.abs(result.coefficients - list(truth.values())) < 3.0 * result.std).all()
    assert (result.std < 0.05).all()


@pytest.mark.ranks(2, 3)
def test_the_same_on_any_number_of_ranks():
    """Coefficients, a last state and what is refined: as on one rank alone."""
    made = []
    for comm in (COMM, MPI.COMM_SELF):
        V = species(meshes.unit_square(4, comm=comm), 1)
        data = states_from(hunt(V, last=1.0, num_steps=12))
        system = System(found_in(V, data, noise=0.01, left_out=("p^2", "q^2")))
        evolution = system.evolution(num_steps=4)
        with relax.ReducedMap(evolution, relax.FieldValues(V)) as G:
            end = G(G.present_control())
        refined = system.refine(data[::4], noise=0.01, num_steps=2)
        made.append((system.coefficients, end, refined.coefficients, refined.std))
    for here, alone in zip(*made, strict=True):
        close(here, alone, 1e-6)


def no_systems(V, data):
    """(words of the message, what is given)."""
    both = found_in(V, data, noise=0.01, left_out=("p^2", "q^2"))
    u, v = unknown(V), discovery.test(fem.functionspace(V.mesh, ("Lagrange", 1)))
    p, q = u
    scalar = null_space(library_on(W := fem.functionspace(V.mesh, ("Lagrange", 1)), second=False),
                        states_of(W, heat, np.linspace(0.0, 1.0, 9)), noise=0.1, tests=bumps(3, 3))  # fmt: skip
    odd = {
        "of order 2 and": {"u_tt": u.dt.dt[0] * v, "p": p * v, "q": q * v},
        "components [0, 1]": {"sum": (u.dt[0] + u.dt[1]) * v, "p": p * v, "q": q * v},
        "of order 0": {"lap": -inner(grad(p), grad(v)), "p": p * v},
    }
    found = {words: null_space(terms, data, noise=0.01, tests=bumps(3, 3)) for words, terms in odd.items()}
    return [
        ("an equation of null_space for each", []),
        ("an equation of null_space for each", [both[0], {"u_t": 1.0}]),
        ("a single one goes into brackets", both[0]),
        ("components [0]", both[:1]),
        ("components [1, 1]", [both[1], both[1]]),
        ("in one u = unknown(V), got 2", [both[0], found_in(V, data, noise=0.01, left_out=("p^2", "q^2"))[1]]),
        ("of the same data", [both[0], found_in(V, data[:-1], noise=0.01, left_out=("p^2", "q^2"))[1]]),
        ("a vector u and a scalar test function", [scalar, scalar]),
        *((words, [each, both[1]]) for words, each in found.items()),
    ]


@pytest.mark.ranks(1, 2)
def test_what_is_no_system():
    V = species(meshes.unit_square(4), 1)
    data = states_from(hunt(V, last=1.0, num_steps=12))
    for words, equations in no_systems(V, data):
        error = raised_everywhere((BadInput, BadProblem), lambda given=equations: System(given))
        assert words in str(error), (words, str(error))
    prey, predator = found_in(V, data, noise=0.01, left_out=("p^2", "q^2"))
    assert "relax.discovery.System of all" in str(raised_everywhere(BadProblem, prey.evolution))
    if COMM.size > 1:
        mixed = [predator, prey] if COMM.rank else [prey, predator]
        assert "in the same order" in str(raised_everywhere(BadInput, lambda: System(mixed)))
