"""Equations in time: derivatives of every kind of control, times, observations, errors, and what is made how often."""

from __future__ import annotations

import evolutions
import numpy as np
import pytest
import torch
import ufl
from contract import MapContract, close, everyone_has, raised_everywhere, same
from dolfinx import fem
from evolutions import STEPS, bump

from relax import (
    AtSteps,
    BadInput,
    BadProblem,
    Evolution,
    FieldValues,
    Functional,
    Newton,
    PointValues,
    Problem,
    ReducedMap,
    SolutionLayer,
    SolveFailed,
    Stack,
    TimeIntegral,
    control_values,
    meshes,
    theta_evolution,
)


def several_looks(problem):
    """Fields at steps out of order, the initial state among them, and an integral over time of a quartic."""
    u = problem.state
    fields = AtSteps(FieldValues(u.function_space), [2, 0, -1])
    return Stack([fields, TimeIntegral(Functional(ufl.inner(u, u) ** 2 * ufl.dx), 0.05)])


class InTime(MapContract):
    """The contract of maps, on a trajectory seen at several steps."""

    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    observe = staticmethod(several_looks)


for _make in evolutions.ALL:
    # One class for each, so that pytest runs the whole contract on it.
    globals()[f"Test_{_make.__name__}"] = type(f"Test_{_make.__name__}", (InTime,), {"make": staticmethod(_make)})


def make(evolution=evolutions.heat, observe=lambda e: FieldValues(e.state.function_space), n=3, **options):
    problem = evolution(meshes.unit_square(n))
    return ReducedMap(problem, observe(problem), **options)


# -- what the steps are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [1.0, 0.5, 0.7])
def test_steps_are_those_of_the_theta_method(theta):
    """One mode of u_t = u'' + 3 t: dense linear algebra by hand on the same matrices."""
    mesh, dt, N = meshes.interval(6, (0.0, 1.0)), 0.1, 4
    V, u, v = evolutions.parts(mesh)
    t = evolutions.number(mesh, 0.0)
    R = (ufl.inner(ufl.grad(u), ufl.grad(v)) - 3.0 * t * v) * ufl.dx
    initial = fem.Function(V)
    evolution = theta_evolution(R, u, initial=initial, dt=dt, num_steps=N, theta=theta, time=t, start=1.0)
    G = ReducedMap(evolution, AtSteps(FieldValues(V), range(N + 1)))
    h, n = 1.0 / 6, 7
    K = (np.diag([1.0, *[2.0] * (n - 2), 1.0]) - np.eye(n, k=1) - np.eye(n, k=-1)) / h
    M = h * (np.diag([1 / 3, *[2 / 3] * (n - 2), 1 / 3]) + (np.eye(n, k=1) + np.eye(n, k=-1)) / 6)
    load = M @ np.ones(n)
    states = [np.sin(np.arange(n))]
    for step in range(1, N + 1):
        now, before = 1.0 + dt * step, 1.0 + dt * (step - 1)
        rhs = M @ states[-1] - (1 - theta) * dt * (K @ states[-1] - 3.0 * before * load) + theta * dt * 3.0 * now * load
        states.append(np.linalg.solve(M + theta * dt * K, rhs))
    close(G(states[0]), np.concatenate(states), 1e-12)
    assert float(t.value) == pytest.approx(1.0 + N * dt)


def test_midpoint_keeps_a_quadratic_invariant():
    """u_t = u × w(u): |u|² is kept by the midpoint rule to rounding, by the theta-method not."""
    mesh = meshes.unit_square(2)
    V, u, v = evolutions.parts(mesh, shape=(2,))
    R = (1.0 + u[0] ** 2) * (u[1] * v[0] - u[0] * v[1]) * ufl.dx(metadata={"quadrature_degree": 8})
    drift = {}
    for theta in ("midpoint", 0.5):
        initial = fem.Function(V)
        evolution = theta_evolution(R, u, initial=initial, dt=0.2, num_steps=10, theta=theta, name="turning")
        with ReducedMap(evolution, AtSteps(Functional(ufl.inner(u, u) * ufl.dx), [0, 10])) as G:
            y = G(control_values(G, lambda x: np.stack([1.0 + x[0], x[1]])))
            drift[theta] = abs(y[1] / y[0] - 1.0)
    assert drift["midpoint"] < 1e-9 and drift[0.5] > 1e-6


@pytest.mark.parametrize("name", ["heat", "burgers", "bilinear"])
def test_it_is_the_composition_of_its_steps(name):
    """A march of single steps as layers, ``previous`` among their controls, has the same value and gradient."""
    evolution = getattr(evolutions, name)(meshes.unit_square(3))
    V = evolution.state.function_space
    # The two start Newton's method elsewhere: solved to the last digit it does not matter.
    exact = Newton(rtol=1e-14)
    whole = ReducedMap(evolution, FieldValues(V), solver=exact)
    step = ReducedMap(evolution.single_step, FieldValues(V), solver=exact)
    layer = SolutionLayer(step)
    m = torch.tensor(
        whole.present_control() + 0.1 * np.random.default_rng(1).standard_normal(whole.size_in), requires_grad=True
    )
    n, position, pieces = step.size_out, 0, {}
    for control in evolution.controls:
        size = control.x.index_map.size_global * control.x.block_size if isinstance(control, fem.Function) else (
            int(np.prod(control.ufl_shape, dtype=int))
        )  # fmt: skip
        rows = STEPS if evolution.is_per_step(control) else 1
        pieces[id(control)] = m[position : position + rows * size].reshape(rows, size)
        position += rows * size
    u = pieces[id(evolution.initial_state)][0]
    others = evolution.single_step.controls[1:]
    for k in range(STEPS):
        parts = [pieces[id(c)][k if evolution.is_per_step(c) else 0] for c in others]
        u = layer(torch.cat([u, *parts]))
    w = torch.tensor(np.random.default_rng(2).standard_normal(n))
    (w @ u).backward()
    with whole.linearize(m.detach().numpy()) as lin:
        close(u.detach().numpy(), lin.value, 1e-12)
        close(m.grad.numpy(), lin.vjp(w.numpy()), 1e-12)


@pytest.mark.slow
def test_as_a_layer():
    """SolutionLayer takes an evolution like any other map: reverse and forward over reverse, batches."""
    G = make(evolutions.burgers, lambda e: AtSteps(PointValues(e.state.function_space, [[0.3, 0.4]]), [1, -1]), n=2)
    layer = SolutionLayer(G)
    M = torch.tensor(np.random.default_rng(0).uniform(-0.3, 0.3, (2, G.size_in)) + G.present_control())
    assert torch.autograd.gradcheck(layer, M.requires_grad_(), eps=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(layer, M, eps=1e-5, atol=1e-6)


# -- controls ----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_the_order_of_controls():
    """The initial state first, then the step's controls in their order, values per step one after the other."""
    G = make(evolutions.burgers)
    initial, nu, f = G.problem.controls
    assert initial is G.problem.initial_state and G.problem.per_step == (f,)
    n = G.size_out
    assert G.size_in == n + 1 + STEPS * n
    m = control_values(G, bump, 7.0, [1.0, 2.0, lambda x: 3.0 + x[0]])
    same(m[:n], control_values(make(), bump))
    assert m[n] == 7.0 and (m[n + 1 : n + 1 + n] == 1.0).all() and (m[2 * n + 1 : 3 * n + 1] == 2.0).all()
    same(control_values(G, bump, 7.0, 2.0)[n + 1 :], np.full(STEPS * n, 2.0))
    raised_everywhere(BadInput, lambda: control_values(G, bump, 7.0, [1.0, 2.0]))
    heating = make(evolutions.heating)
    assert control_values(heating, [0.5, 1.5], np.arange(3.0)).tolist() == [0.5, 1.5, 0.0, 1.0, 2.0]


def test_previous_among_the_controls_is_the_initial_state():
    """However it is spelt: previous as control, a Function as initial, or both; a fixed one is none."""
    mesh = meshes.unit_square(3)
    V, u, v = evolutions.parts(mesh)
    previous, s = fem.Function(V), evolutions.number(mesh, 1.0)
    F = ((u - previous) * v + 0.1 * ufl.inner(ufl.grad(u), ufl.grad(v)) - 0.1 * s * v) * ufl.dx
    given = fem.Function(V)
    given.interpolate(bump)

    def value(controls, initial, **kept):
        previous.interpolate(bump)
        step = Problem(residual=F, state=u, controls=controls, name="spelt")
        evolution = Evolution(step=step, previous=previous, initial=initial, num_steps=2, **kept)
        with ReducedMap(evolution, FieldValues(V)) as G:
            return G.size_in, G(G.present_control())

    n = FieldValues(V).size
    spelt = [
        value([previous], bump), value([previous], given), value([previous], previous), value([s], given),
        value([s, previous], bump), value([s], bump), value([s], given, initial_is_fixed=True),
    ]  # fmt: skip
    assert [size for size, _ in spelt] == [n, n, n, n + 1, n + 1, 1, 1]
    for _, y in spelt[1:]:
        close(y, spelt[0][1], 1e-13)


def test_a_fixed_initial_state_is_live():
    """Its values when a run begins count; a linearisation point keeps its own."""
    mesh = meshes.unit_square(3)
    V, u, v = evolutions.parts(mesh)
    given, s = fem.Function(V), evolutions.number(mesh, 1.0)
    R = (ufl.inner(ufl.grad(u), ufl.grad(v)) - s * u * v) * ufl.dx
    evolution = theta_evolution(
        R, u, initial=given, dt=0.1, num_steps=2, controls=[s], initial_is_fixed=True, name="fixed_start"
    )
    G = ReducedMap(evolution, FieldValues(V))
    given.interpolate(bump)
    lin = G.linearize([1.0])
    gradient = lin.vjp(np.ones(G.size_out))
    given.x.array[:] = 0.0
    assert (G([1.0]) == 0.0).all()
    same(lin.vjp(np.ones(G.size_out)), gradient)
    assert abs(gradient[0]) > 1e-3


# -- errors ------------------------------------------------------------------------------------------------------------


def blowing_up(mesh):
    """u_t = u² from 1 / 0.35: infinite between the steps 3 and 4 of length 0.1."""
    V, u, v = evolutions.parts(mesh)
    initial = fem.Function(V, name="initial")
    return theta_evolution(
        -(u**2) * v * ufl.dx, u, initial=initial, dt=0.1, num_steps=8, theta=1, name="blow_up", start=2.0
    )


@pytest.mark.ranks(1, 2)
def test_a_failed_step_says_where():
    G = make(blowing_up)
    error = raised_everywhere(SolveFailed, lambda: G(np.full(G.size_in, 1.0 / 0.35)))
    assert "blow_up: step" in str(error) and "of 8 (time 2." in str(error)
    everyone_has(np.frombuffer(str(error)[:40].encode(), dtype=np.uint8))
    # The map is as good as before.
    y = G(np.full(G.size_in, 0.5))
    assert np.isfinite(y).all()


@pytest.mark.ranks(1, 2)
def test_nan_says_where():
    mesh = meshes.unit_square(3)
    V, u, v = evolutions.parts(mesh)
    t = evolutions.number(mesh, 0.0)
    R = (u - ufl.sqrt(0.25 - t)) * v * ufl.dx
    evolution = theta_evolution(R, u, initial=fem.Function(V), dt=0.1, num_steps=5, theta=1, time=t, name="root")
    G = ReducedMap(evolution, FieldValues(V))
    error = raised_everywhere(SolveFailed, lambda: G.linearize(np.zeros(G.size_in)))
    assert "root: step 3 of 5 (time 0.3)" in str(error)


@pytest.mark.ranks(1, 2)
def test_looks_that_do_not_fit():
    problem = evolutions.heat(meshes.unit_square(2))
    values = FieldValues(problem.state.function_space)
    raised_everywhere(BadProblem, lambda: ReducedMap(problem, AtSteps(values, [STEPS + 1])))
    raised_everywhere(BadProblem, lambda: ReducedMap(problem.single_step, AtSteps(values, [0])))
    raised_everywhere(BadInput, lambda: AtSteps(values, []))
    raised_everywhere(BadInput, lambda: AtSteps(values, [0.5]))
    raised_everywhere(BadInput, lambda: AtSteps(AtSteps(values, [0]), [0]))
    raised_everywhere(BadInput, lambda: TimeIntegral(values, 0.0))
    raised_everywhere(BadInput, lambda: ReducedMap(problem.single_step, values, storage=object()))
    raised_everywhere(BadInput, lambda: ReducedMap(problem, values, storage=object()))
    raised_everywhere(BadInput, lambda: ReducedMap(problem.single_step, values).trajectory(np.zeros(16)))


@pytest.mark.ranks(1, 2)
def test_evolutions_that_do_not_fit():
    mesh = meshes.unit_square(2)
    V, u, v = evolutions.parts(mesh)
    previous, other, s = fem.Function(V), fem.Function(V), evolutions.number(mesh, 1.0)
    F = ((u - previous) - s) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[s], name="step")
    good = {"step": step, "previous": previous, "initial": 0.0, "num_steps": 2}
    Evolution(**good)
    elsewhere = fem.Function(fem.functionspace(mesh, ("Lagrange", 2)))
    bad = [
        {"step": F}, {"previous": other}, {"previous": u}, {"previous": elsewhere}, {"num_steps": 0},
        {"num_steps": 2.5}, {"num_steps": True}, {"initial": elsewhere}, {"initial": u}, {"per_step": [other]},
        {"per_step": [s, s]}, {"time": s, "dt": 0.1}, {"time": evolutions.number(mesh, 0.0)}, {"dt": 0.0},
        {"dt": float("nan")}, {"time": 0.5, "dt": 0.1},
    ]  # fmt: skip
    for wrong in bad:
        raised_everywhere(BadProblem, lambda wrong=wrong: Evolution(**{**good, **wrong}))
    R, theta = u * v * ufl.dx, {"initial": 0.0, "dt": 0.1, "num_steps": 2}
    for wrong in ({"theta": 0.0}, {"theta": 1.5}, {"theta": "mid"}, {"dt": -1.0}):
        raised_everywhere(BadProblem, lambda wrong=wrong: theta_evolution(R, u, **{**theta, **wrong}))
    raised_everywhere(BadProblem, lambda: theta_evolution(u * ufl.dx, u, **theta))


def test_a_dt_that_is_changed():
    """A Constant as dt stays live: new operators, new times."""
    G = make(evolutions.heat)
    m = G.present_control()
    y = G(m)
    k = G.problem.dt
    k.value = 0.5 * float(k.value)
    twice = make(lambda mesh: evolutions.heat(mesh, name="heat_again"))
    twice.problem.dt.value = float(k.value)
    same(G(m), twice(m))
    assert np.abs(G(m) - y).max() > 1e-4
    assert G.problem.time_at(2) == pytest.approx(0.05)


def test_points_of_a_batch_are_counted():
    """States that are held for a batch of affine runs are counted as those of a single one are."""
    with make() as G:
        G.linearize_each(np.stack([G.present_control()] * 3))
        assert G.counts["stored"] == STEPS + 1


def test_a_parameter_that_is_changed_right_after_a_point_was_made():
    """No other run in between: the point has the parameters of its own run all the same."""
    G = make(evolutions.heat)
    lin = G.linearize(G.present_control())
    w = np.ones(G.size_out)
    gradient = lin.vjp(w)
    G.problem.dt.value = 3.0 * float(G.problem.dt.value)
    same(lin.vjp(w), gradient)
    assert float(G.problem.dt.value) == pytest.approx(0.15)
