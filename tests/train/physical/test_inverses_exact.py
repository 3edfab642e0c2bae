"""Inverse solves of Poisson's equation and of the heat equation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import ufl
from contract import COMM, close, everyone_has, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from problems import POINTS, cubic_reaction, reaction

import relax
from relax.train.inverses.heat import heat_inverse
from relax.train.inverses.poisson import poisson_inverse
from relax.train.physical import physical_gradient

LSHAPE = Path(__file__).resolve().parents[3] / "meshes" / "lshape.msh"


def whole_state(problem, **options):
    return relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space), **options)


def free_values(G, seed=0, k=3):
    """Random control vectors that vanish at clamped nodes: (k, size_in)."""
    V = G.problem.state.function_space
    inside = fem.Function(V)
    inside.x.array[:] = 1.0
    for bc in G.problem.bcs:
        inside.x.array[bc.dof_indices()[0]] = 0.0
    num_owned = V.dofmap.index_map.size_local
    mask = G.layout.join([inside.x.array[:num_owned]])
    return np.random.default_rng(seed).standard_normal((k, G.size_in)) * mask


# -- Poisson -----------------------------------------------------------------------------------------------------------


def conductive(mesh):
    return relax.pdes.poisson.source(mesh, conductivity=lambda x: 1.0 + x[0] ** 2, dirichlet={"left": 1.0})


def quadratic(mesh):
    return relax.pdes.poisson.source(mesh, degree=2)


def advective(mesh):
    """Not symmetric, with a reaction, natural boundary conditions, and a weight on the source."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    x = ufl.SpatialCoordinate(mesh)
    F = (ufl.dot(ufl.grad(u), ufl.grad(v)) + (3.0 * u.dx(0) + u - (1.0 + x[1]) * m - 2.0) * v) * ufl.dx
    return relax.Problem(residual=F, state=u, controls=[m], name="advective")


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("make", [relax.pdes.poisson.source, conductive, quadratic, advective])
def test_the_source_comes_back(make):
    """Solver accuracy, 1e-13, times the condition of the Laplacian, about 1e3 here."""
    with whole_state(make(relax.meshes.unit_square(5))) as G:
        inverse = poisson_inverse(G)
        x, truth = free_values(G), free_values(G, seed=1)
        y, target = G(x), G(truth)
        before = dict(G.counts)
        found = inverse(target - y)
        assert G.counts == before
        close(x + found, truth, 1e-9)
        close(found[1], inverse(target[1] - y[1]))
        everyone_has(found)
        inverse.close()


def test_on_an_unstructured_mesh_whatever_the_source_at_clamped_nodes():
    """The observations are met, by the least correction in L² that meets them: zero at clamped nodes."""
    with whole_state(relax.pdes.poisson.source(relax.meshes.read(LSHAPE))) as G:
        inverse = poisson_inverse(G)
        x, truth = np.random.default_rng(0).standard_normal((2, 1, G.size_in))
        dx = inverse(G(truth) - G(x))
        close(G(x + dx), G(truth), 1e-9)
        close(dx * (free_values(G, k=1) == 0.0), np.zeros_like(dx))
        V = G.problem.state.function_space
        other = truth - x
        lengths = []
        for values in (dx[0], other[0]):
            field = fem.Function(V)
            field.x.array[:] = G.layout.split(values)[0]
            lengths.append(relax.Functional(field**2 * ufl.dx).value(field)[0])
        assert lengths[0] < lengths[1]
        inverse.close()


def test_a_changed_conductivity_is_another_inverse():
    mesh = relax.meshes.unit_square(4)
    k = fem.Constant(mesh, 1.0)
    with whole_state(relax.pdes.poisson.source(mesh, conductivity=k)) as G:
        inverse, dy = poisson_inverse(G), free_values(G)
        first = inverse(dy)
        k.value = 3.0
        close(inverse(dy), 3.0 * first)
        inverse.close()


@pytest.mark.ranks(2)
@pytest.mark.parametrize("samples", [1, 4])
def test_poisson_over_teams_and_over_ranks_equals_one_process(samples):
    teams = relax.Teams(COMM, 1)
    maps = [
        whole_state(relax.pdes.poisson.source(relax.meshes.unit_square(4, comm=comm)))
        for comm in (MPI.COMM_SELF, teams.space, COMM)
    ]
    alone, shared, spread = (poisson_inverse(G, teams=t) for G, t in zip(maps, (None, teams, None), strict=True))
    dy = free_values(maps[0], k=samples)
    close(shared(dy), alone(dy), 1e-12)
    close(spread(dy), alone(dy))
    x = torch.zeros(samples, maps[0].size_in, dtype=torch.float64, requires_grad=True)
    physical_gradient(x, np.zeros_like(dy), dy, shared).backward()
    close(-x.grad, alone(dy), 1e-12)
    for inverse in (alone, shared, spread):
        inverse.close()
    for G in maps:
        G.close()
    teams.close()


@pytest.mark.ranks(1, 2)
def test_poisson_refuses_what_is_no_linear_source():
    mesh = relax.meshes.unit_square(3)
    problem = relax.pdes.poisson.source(mesh)
    V = problem.state.function_space
    for G, words in (
        (relax.ReducedMap(problem, relax.PointValues(V, POINTS)), "FieldValues"),
        (whole_state(cubic_reaction(mesh)), "affine"),
        (whole_state(reaction(mesh, V)), "affine"),
        (whole_state(relax.pdes.heat.evolution(mesh, dt=0.1, num_steps=2)), "stationary"),
    ):
        assert words in str(raised_everywhere(relax.BadInput, lambda G=G: poisson_inverse(G)))
        G.close()


# -- heat --------------------------------------------------------------------------------------------------------------

DT, STEPS = 2e-3, 10


def heat_map(comm=COMM, n=8, theta=1.0, **options):
    problem = relax.pdes.heat.evolution(
        relax.meshes.unit_square(n, comm=comm), dt=DT, num_steps=STEPS, theta=theta, **options
    )
    return whole_state(problem)


def of_modes(inverse, coefficients):
    """A field with these coefficients."""
    return np.asarray(coefficients) @ inverse.modes.functions[: np.shape(coefficients)[-1]]


@pytest.mark.parametrize("theta", [1.0, 0.5])
def test_modes_are_those_of_the_steps(theta):
    """Mass-orthonormal, slowest first, with the gains of the theta method for eigenvalues near 2 pi², 5 pi², 5 pi²."""
    with heat_map(n=16, theta=theta) as G:
        modes = heat_inverse(G, modes=6).modes
        k = len(modes.gains)
        assert k >= 6
        close(modes.functions @ modes.duals.T, np.eye(k), 1e-9)
        z = np.array([2.0, 5.0, 5.0]) * math.pi**2 * DT
        exact = ((1.0 - (1.0 - theta) * z) / (1.0 + theta * z)) ** STEPS
        # Linear elements: eigenvalues are too large by about (pi h)²/12 times their multiple of pi², 2 % at h = 1/16.
        np.testing.assert_allclose(modes.gains[:3], exact, rtol=0.05)
        assert (np.diff(modes.gains) < 1e-9).all()
        close(G(of_modes(heat_inverse(G, modes=6), np.eye(k)[:1])), modes.gains[0] * modes.functions[:1], 1e-8)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", ["probability", "wiener"])
def test_what_stands_out_of_the_noise_comes_back(kind):
    """Eight modes of one size, gains from 0.7 to 1e-2, errors of 1e-9: each comes back to (noise / signal)²."""
    with heat_map() as G:
        inverse = heat_inverse(G, modes=12, filter=kind, relative_noise=1e-9, signal=10.0)
        truth = of_modes(inverse, 1.0 + np.random.default_rng(0).uniform(size=(3, 8)))
        start = of_modes(inverse, np.random.default_rng(1).uniform(size=(3, 8)))
        found = start + inverse(G(truth) - G(start))
        close(found, truth, 1e-6)
        everyone_has(found)


def test_the_filters_are_their_formulas():
    """One mode at a time, against the formulas written out: signal, noise, and in between."""
    noise, size = 1e-3, 2.0
    with heat_map(n=6) as G:
        options = {"modes": 4, "signal": size, "noise": noise, "relative_noise": 0.0}
        found = {kind: heat_inverse(G, filter=kind, **options) for kind in ("probability", "wiener")}
        modes = found["wiener"].modes
        for k in range(4):
            g, n = modes.gains[k], noise * np.linalg.norm(modes.duals[k])
            for a in (1e-2 * n, 1.0 * n, 3.0 * n, 1e3 * n):
                signal, errors = (math.exp(-0.5 * (a / w) ** 2) for w in (g * size, n))
                p = signal / (signal + errors)
                action = 0.0 if 0.5 < p < 0.68 else 2.0 * p - 1.0
                r = a * modes.functions[k]
                close(found["probability"](r), a * g**-action * modes.functions[k], 1e-7)
                wiener = a * g * size**2 / (g**2 * size**2 + n**2)
                close(found["wiener"](r), wiener * modes.functions[k], 1e-7)


def test_noise_is_not_blown_up():
    """Errors of 1 % of the data: the plain inverse multiplies them by 1/gain, up to 1e4; the filters do not."""
    with heat_map() as G:
        plain = heat_inverse(G, modes=30, filter="wiener", relative_noise=1e-12)
        smallest = np.abs(plain.modes.gains).min()
        assert smallest < 1e-3
        truth = of_modes(plain, np.random.default_rng(0).standard_normal((20, 30)))
        clean = G(truth)
        level = 0.01 * np.abs(clean).max()
        data = clean + level * np.random.default_rng(1).standard_normal(clean.shape)
        errors = [
            np.linalg.norm(inverse(data) - truth) / np.linalg.norm(truth)
            for inverse in (
                plain,
                heat_inverse(G, modes=30, noise=level, relative_noise=0.0),
                heat_inverse(G, modes=30, noise=level, relative_noise=0.0, filter="wiener"),
            )
        ]
        assert errors[0] > 2.0 and errors[1] < 1.2 and errors[2] < 1.0
        assert errors[2] < errors[1]


def test_a_prior_gives_the_signal():
    """S_k² = (M phi_k)ᵀ C (M phi_k): of white noise with C = s² M⁻¹ that would be s²; here by a dense covariance."""
    with heat_map(n=5) as G:
        prior = relax.SmoothnessPrior(G.problem.controls[0].function_space, length=0.5, std=2.0)
        modes = heat_inverse(G, modes=4, signal=prior).modes
        C = prior.covariance(np.eye(G.size_in))
        close(modes.signal**2, np.diag(modes.duals @ C @ modes.duals.T))
        prior.close()


def test_natural_boundary_conditions_have_a_mean_mode():
    with heat_map(dirichlet={}) as G:
        inverse = heat_inverse(G, modes=5)
        assert inverse.modes.gains[0] == pytest.approx(1.0, abs=1e-9)
        dy = np.full((1, G.size_out), 3.0)
        close(inverse(dy), dy, 1e-7)


@pytest.mark.ranks(2)
def test_heat_over_teams_and_over_ranks_equals_one_process():
    teams = relax.Teams(COMM, 1)
    maps = [heat_map(comm) for comm in (MPI.COMM_SELF, teams.space, COMM)]
    alone, shared, spread = (heat_inverse(G, modes=10, teams=t) for G, t in zip(maps, (None, teams, None), strict=True))
    dy = free_values(maps[0], k=4)
    close(shared(dy), alone(dy), 1e-12)
    # Bases of clusters may be turned, which the filters see only where modes of one eigenvalue have other amplitudes:
    # full inversion does not.
    truth = of_modes(alone, np.ones((1, 3)))
    close(spread(maps[0](truth)), truth, 1e-5)
    for G in maps:
        G.close()
    teams.close()


@pytest.mark.ranks(1, 2)
def test_heat_refuses_what_is_no_initial_state():
    mesh = relax.meshes.unit_square(3)
    heat = relax.pdes.heat.evolution(mesh, dt=0.1, num_steps=2)
    V = heat.state.function_space
    source = relax.pdes.heat.evolution(mesh, dt=0.1, num_steps=2, controls="source")
    for G, words in (
        (whole_state(relax.pdes.poisson.source(mesh)), "evolution"),
        (whole_state(source), "initial state"),
        (relax.ReducedMap(heat, relax.PointValues(V, POINTS)), "FieldValues"),
        (relax.ReducedMap(heat, relax.AtSteps(relax.FieldValues(V), 1)), "last state"),
    ):
        assert words in str(raised_everywhere(relax.BadInput, lambda G=G: heat_inverse(G)))
        G.close()
    with relax.ReducedMap(heat, relax.AtSteps(relax.FieldValues(V), -1)) as G:
        for words, options in (
            ("modes", {"modes": 0}),
            ("noise", {"relative_noise": 0.0}),
            ("modes", {"modes": 2.0}),
            ("'sharp'", {"filter": "sharp"}),
            *(("signal: expected", {"signal": s}) for s in (-1.0, math.nan, math.inf, True, "a", np.ones(2), None)),
            *(
                ("noise: expected", {word: s})
                for word in ("noise", "relative_noise")
                for s in (-1, math.inf, True, "a")
            ),
            ("prior", {"signal": relax.IdentityPrior(3, std=1.0)}),
        ):
            assert words in str(raised_everywhere(relax.BadInput, lambda o=options: heat_inverse(G, **o)))
        exact = heat_inverse(G, modes=2, signal=2.0, noise=1.0)(np.ones(G.size_out))
        for number in (np.int64, np.float32, np.array, torch.tensor):
            found = heat_inverse(G, modes=2, signal=number(2), noise=number(1))(np.ones(G.size_out))
            np.testing.assert_array_equal(found, exact)
        inverse = heat_inverse(G, modes=100)
        assert "at most 4" in str(raised_everywhere(relax.BadInput, lambda: inverse(np.zeros(G.size_out))))
