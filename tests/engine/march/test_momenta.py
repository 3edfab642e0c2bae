"""The adjoint state of each step: against gradients of what is left of the run, and step by step."""

from __future__ import annotations

from dataclasses import replace

import evolutions
import numpy as np
import pytest
import ufl
from checkpoint_schedules import Revolve, SingleDiskStorageSchedule, SingleMemoryStorageSchedule
from contract import close, raised_everywhere, same
from dolfinx import fem

from relax import (
    AtSteps,
    BadInput,
    CheckFailed,
    FieldValues,
    ReducedMap,
    Stack,
    check_map,
    control_values,
    meshes,
    pdes,
    theta_evolution,
)
from relax.base.fem.layout import SpaceLayout

pytestmark = pytest.mark.ranks(1, 2, 3)

N = 4


def heat():
    return pdes.heat.evolution(
        meshes.unit_square(4), initial=evolutions.bump, dt=0.02, num_steps=N, controls=["initial", "source_per_step"]
    )


def burgers():
    return pdes.burgers.evolution(meshes.interval(12), initial=evolutions.bump, viscosity=0.05, dt=0.05, num_steps=N)


def schrodinger():
    return pdes.schrodinger.dipole(meshes.interval(10), num_steps=N, dt=0.05)


def viscous(route):
    return pdes.hamilton_jacobi.viscous_evolution(
        meshes.unit_square(4), evolutions.bump, beta=3.0, t=0.2, num_steps=N, route=route
    )


MAKES = {
    "heat": heat,
    "burgers": burgers,
    "schrodinger": schrodinger,
    "direct": lambda: viscous("direct"),
    "cole_hopf": lambda: viscous("cole_hopf"),
}


def looks(evolution):
    field = FieldValues(evolution.state.function_space)
    return Stack([field, AtSteps(field, [2])])


@pytest.mark.parametrize("name", MAKES)
def test_momenta_are_gradients_of_what_is_left(name):
    """p_n · du_n step by step to rounding; p_0 the gradient in u_0; the same with states that are made again."""
    evolution = MAKES[name]()
    with ReducedMap(evolution, looks(evolution)) as G:
        m, dy = G.present_control(), np.cos(np.arange(G.size_out))
        report = check_map(G)
        assert report.momentum_gap <= 1e-12
        with G.linearize(m) as lin:
            momenta = dict(lin.momenta(dy))
            gradient = lin.vjp(dy)
    assert list(momenta) == [4, 3, 2, 1, 0]
    if name != "schrodinger":
        close(momenta[0], gradient[: len(momenta[0])])
    close(momenta[4], dy[: len(momenta[4])])
    with ReducedMap(evolution, looks(evolution), storage=Revolve(N, 2)) as G, G.linearize(m) as lin:
        for n, momentum in lin.momenta(dy):
            same(momentum, momenta[n])


def test_a_run_that_starts_later():
    """p_2 is the gradient in the state of a run that starts there; the user may solve between two momenta."""
    evolution = burgers()
    V = evolution.state.function_space
    with ReducedMap(evolution, FieldValues(V)) as G:
        m, dy = G.present_control(), np.cos(np.arange(G.size_out))
        states = [SpaceLayout(V).gather(G.problem.state.x.array[: SpaceLayout(V).num_owned]) for _ in G.trajectory(m)]
        momenta = {}
        with G.linearize(m) as lin:
            for n, momentum in lin.momenta(dy):
                momenta[n] = momentum
                G(0.5 * m)
    with ReducedMap(replace(evolution, num_steps=2), FieldValues(V)) as G, G.linearize(states[2]) as lin:
        close(lin.vjp(dy), momenta[2])


@pytest.mark.parametrize("storage", [lambda: Revolve(N, 2), SingleMemoryStorageSchedule, SingleDiskStorageSchedule])
def test_other_products_on_the_way(storage):
    """States that a schedule holds serve two sweeps at once, and one after a sweep that was left."""
    evolution = burgers()
    with ReducedMap(evolution, FieldValues(evolution.state.function_space), storage=storage()) as G:
        dy = np.cos(np.arange(G.size_out))
        with G.linearize(G.present_control()) as lin:
            gradient, known, other = lin.vjp(dy), dict(lin.momenta(dy)), dict(lin.momenta(dy**2))
            for (n, p), (k, q) in zip(lin.momenta(dy), lin.momenta(dy**2), strict=True):
                same(p, known[n])
                same(q, other[k])
                same(lin.vjp(dy), gradient)
            left = lin.momenta(dy)
            next(left)
            same(lin.vjp(dy), gradient)


class Crooked(FieldValues):
    """An adjoint by hand that is wrong."""

    def adjoint(self, u, dy):
        return 1.001 * super().adjoint(u, dy)


def test_an_adjoint_by_hand_is_found_out_at_its_step():
    evolution = heat()
    V = evolution.state.function_space
    with ReducedMap(evolution, Stack([FieldValues(V), AtSteps(Crooked(V), [2])])) as G:
        error = raised_everywhere(CheckFailed, lambda: check_map(G))
    assert error.report.momentum_step == 2 and "goes wrong at step 2" in str(error)


def test_the_values_of_a_rank():
    """Under the owned layout each rank gets its own."""
    evolution = heat()
    V, dy = evolution.state.function_space, None
    whole = []
    for layout in ("replicated", "owned"):
        with ReducedMap(evolution, FieldValues(V), layout=layout) as G:
            dy = np.cos(np.arange(G.size_out))
            with G.linearize(control_values(G, evolutions.bump, [1.0] * N)) as lin:
                momentum = dict(lin.momenta(dy))[1]
        whole.append(SpaceLayout(V).gather(momentum) if layout == "owned" else momentum)
    close(whole[1], whole[0])


def test_what_has_no_steps_has_no_momenta():
    problem = pdes.poisson.source(meshes.unit_square(3))
    with ReducedMap(problem, FieldValues(problem.state.function_space)) as G:
        assert check_map(G).momentum_gap is None
        with G.linearize(np.zeros(G.size_in)) as lin:
            error = raised_everywhere(BadInput, lambda: lin.momenta(np.ones(G.size_out)))
    assert "no steps" in str(error)
    evolution = heat()
    with (
        ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G,
        G.linearize(G.present_control()) as lin,
    ):
        raised_everywhere(BadInput, lambda: lin.momenta(np.ones((2, G.size_out))))


def pendulum(num_steps):
    """u'' = -sin u as two numbers, in one cell: autonomous and not linear."""
    domain = meshes.interval(1)
    V = fem.functionspace(domain, ("DG", 0, (2,)))
    u, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
    F = (-u[1] * v[0] + k * ufl.sin(u[0]) * v[1]) * ufl.dx
    return theta_evolution(
        F, u, initial=lambda x: np.array([1.0 + 0.0 * x[0], 0.5 + 0.0 * x[0]]), dt=5.0 / num_steps,
        num_steps=num_steps, controls=[k],
    )  # fmt: skip


def drift(evolution):
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        return check_map(G).hamiltonian_drift


@pytest.mark.ranks(1, 2)
def test_the_hamiltonian_of_midpoint_steps():
    """Constant to second order in the step, and up to rounding where the steps are linear."""
    drifts = []
    for n in (40, 80):
        swing = pendulum(n)
        with ReducedMap(swing, FieldValues(swing.state.function_space)) as G, G.linearize([1.0]) as lin:
            values = lin.hamiltonians(np.array([1.0, 0.3]))
        drifts.append(np.ptp(values) / np.abs(values).max())
    assert np.log2(drifts[0] / drifts[1]) == pytest.approx(2.0, abs=0.1)
    assert drift(pendulum(8)) > drifts[0]
    evolution = pdes.heat.evolution(
        meshes.unit_square(4), initial=evolutions.bump, dt=0.02, num_steps=5, controls=["initial"]
    )
    assert drift(evolution) <= 1e-10
    free = pdes.schrodinger.evolution(
        meshes.interval(12), initial=lambda x: np.sin(np.pi * x[0]) * np.exp(5j * x[0]), dt=0.02, num_steps=5
    )
    assert drift(free) <= 1e-10
    assert drift(heat()) is None, "a source of its own in each step"
