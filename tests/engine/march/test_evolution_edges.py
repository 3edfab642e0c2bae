"""Equations in time at their edges: corners where several ways through the steps meet, conditions, what is refused."""

from __future__ import annotations

from functools import cached_property
from importlib.util import find_spec

import evolutions
import numpy as np
import pytest
import ufl
from contract import LAYOUTS, Bench, close, raised_everywhere, same, values_of
from dolfinx import fem
from evolutions import STEPS, number
from mpi4py import MPI
from unsteady import HELD, all_same, levels, own_step, products, storage

from relax import (
    AtSteps,
    BadInput,
    BadProblem,
    Evolution,
    FieldValues,
    Functional,
    Newton,
    Problem,
    ReducedMap,
    Stack,
    TimeIntegral,
    check_map,
    control_values,
    meshes,
    theta_evolution,
)

COMM = MPI.COMM_WORLD
# Values and derivatives on any number of ranks: what the project promises.
RANKS = 1e-9


# -- where several ways meet -------------------------------------------------------------------------------------------


def many_looks(evolution):
    """Stacks of looks in stacks, at one step several times, at steps out of order, and an integral."""
    u = evolution.state
    values, square = FieldValues(u.function_space), ufl.inner(u, u)
    return Stack(
        [
            Stack([AtSteps(values, [evolution.num_steps, 0]), values]),
            TimeIntegral(Functional(square**2 * ufl.dx), 0.1),
            AtSteps(Stack([values, Functional(square * ufl.dx)]), [-1, 1]),
        ]
    )


class Corner:
    """What a bench needs to know of an evolution, in the place of a class that inherits a contract."""

    def __init__(self, make):
        self.make = make

    @staticmethod
    def domain(comm):
        return meshes.unit_square(2, comm=comm)

    observe = staticmethod(many_looks)


class CornerBench(Bench):
    """Two maps: one that holds all states, and one in the owned layout that holds few of them, where it can."""

    def __init__(self, make, comm=COMM):
        self.make = make
        super().__init__(Corner(make), comm)

    @cached_property
    def owned(self):
        schedules = find_spec("checkpoint_schedules") is not None
        held = storage("Revolve", self.problem.num_steps) if schedules else None
        return self.new_map(layout="owned", storage=held)


@pytest.fixture(scope="module", params=evolutions.CORNERS, ids=lambda make: make.__name__)
def corner(request):
    """The maps of one evolution."""
    bench = CornerBench(request.param)
    yield bench
    bench.close()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.slow
def test_derivatives_at_corners(corner, layout):
    m = corner.controls(1)[0]
    report = check_map(corner.replicated, m) if layout == "replicated" else check_map(corner.owned, corner.cut(m))
    assert report.failures == []


def test_it_is_the_march_of_its_single_steps(corner):
    """The states are those of the stationary map of a step, which knows of no matrices kept from step to step."""
    evolution = corner.problem
    values = FieldValues(evolution.state.function_space)
    m, position, rows = corner.controls(1)[0], 0, {}
    for control in evolution.controls:
        is_field = isinstance(control, fem.Function)
        dofs = control.function_space.dofmap if is_field else None
        size = (
            dofs.index_map.size_global * dofs.index_map_bs if is_field else int(np.prod(control.ufl_shape, dtype=int))
        )
        times = evolution.num_steps if evolution.is_per_step(control) else 1
        rows[id(control)] = m[position : position + times * size].reshape(times, size)
        position += times * size
    assert position == m.size
    expected = [values.value(evolution.state) for _ in corner.replicated.trajectory(m)]
    step = evolution.single_step
    u = values.value(evolution.initial_state)
    close(u, expected[0])
    with ReducedMap(step, values, solver=Newton(rtol=1e-14)) as S:
        for n in range(evolution.num_steps):
            if evolution.time is not None:
                evolution.time.value = evolution.time_at(n + 1)
            given = [rows[id(c)][n if evolution.is_per_step(c) else 0] for c in step.controls[1:]]
            u = S(np.concatenate([u, *given]))
            close(u, expected[n + 1])


@pytest.mark.slow
def test_many_are_each_of_them(corner):
    """Enough directions for sparse matrices and block solves; batches of controls; axes against each other."""
    G = corner.replicated
    M, D, W = corner.controls(2), corner.directions(40), corner.seeds(5)
    with G.linearize(M[1]) as lin:
        close(lin.jvp(D)[-1], lin.jvp(D[-1]))
        close(lin.vjp(W)[-1], lin.vjp(W[-1]))
        close(lin.hvp(W[:3, None], D[None, :2])[2, 1], lin.hvp(W[2], D[1]))
        close(G(M), [G(m) for m in M])
        points = G.linearize_each(M)
        close(points[1].value, lin.value)
        close(points[1].vjp(W[0]), lin.vjp(W[0]))
    for point in points:
        point.close()


@pytest.mark.ranks(2, 3)
def test_the_same_numbers_as_on_one_rank(corner):
    """Each rank runs through it by itself, on MPI.COMM_SELF."""
    G, m, d, w = corner.replicated, corner.controls(1)[0], corner.directions(), corner.seeds()
    alone = CornerBench(corner.make, MPI.COMM_SELF)
    close(alone.start, corner.start, RANKS)
    with G.linearize(m) as lin, alone.replicated.linearize(m) as other:
        close(lin.value, other.value, RANKS)
        close(lin.vjp(w), other.vjp(w), RANKS)
        close(lin.jvp(d), other.jvp(d), RANKS)
        close(lin.hvp(w, d), other.hvp(w, d), RANKS)
    alone.close()


@pytest.mark.parametrize("held", HELD)
@pytest.mark.slow
def test_old_points_keep_their_parameters(corner, held):
    """A used point, and one that was not used before: as they were, whatever has changed; the next call sees it all."""
    if held == "Revolve":
        pytest.importorskip("checkpoint_schedules")
    G, whole = (corner.owned if held == "Revolve" else corner.replicated), corner.controls(1)[0]
    m = corner.cut(whole) if held == "Revolve" else whole
    live = [p for p in G.residual.registers.parameters if corner.is_live(p)]
    used, unused = G.linearize(m), G.linearize(m)
    expected, kept = products(used), [np.array(values_of(p)) for p in live]
    for parameter, values in zip(live, kept, strict=True):
        values_of(parameter)[...] = 1.3 * values
    changed = G(m)
    G(1.1 * m)
    all_same(products(used), expected)
    all_same(products(unused), expected)
    for parameter, values in zip(live, kept, strict=True):
        np.testing.assert_array_equal(values_of(parameter), 1.3 * values)
    with corner.new_map() as fresh:
        close(changed, fresh(whole))
    assert not live or np.abs(changed - used.value).max() > 1e-4
    for parameter, values in zip(live, kept, strict=True):
        values_of(parameter)[...] = values
    same(G(m), used.value)
    used.close()
    unused.close()


# -- conditions: jumps that no derivative sees -------------------------------------------------------------------------


def thermostat(mesh, num_steps=6):
    """Heats by s / 2 a step while the state before it is below 1.2."""
    _, u, v, previous = own_step(mesh)
    s = number(mesh, 1.0)
    F = (u - previous - 0.5 * s * ufl.conditional(ufl.lt(previous, 1.2), 1.0, 0.0)) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[s], name="thermostat")
    return Evolution(step=step, previous=previous, initial=0.0, num_steps=num_steps)


def test_a_condition_on_the_state_before():
    evolution = thermostat(meshes.unit_square(2))
    G = ReducedMap(evolution, levels(evolution.state, 6))
    close(G([1.0]), [0.0, 0.5, 1.0, 1.5, 1.5, 1.5, 1.5], 1e-13)
    close(G([[1.0], [2.5]]), [[0.0, 0.5, 1.0, 1.5, 1.5, 1.5, 1.5], [0.0, *[1.25] * 6]], 1e-13)
    with G.linearize([1.0]) as lin:
        # Three steps of heating, each of slope 1/2, and no threshold is reached exactly.
        slope = np.array([0.0, 0.5, 1.0, 1.5, 1.5, 1.5, 1.5])
        close(lin.jvp([1.0]), slope, 1e-13)
        close(lin.vjp(np.eye(7)), slope[:, None], 1e-13)
        close(lin.jvp([1.0]), (G([1.001]) - G([0.999])) / 0.002)


def test_a_condition_on_a_number_per_step():
    """A rate of decay that is switched: u_n = u_{n-1} / (1 + 0.1 rate)."""
    mesh = meshes.unit_square(2)
    _, u, v, previous = own_step(mesh)
    c = number(mesh, 0.0)
    rate = ufl.conditional(ufl.gt(c, 0.5), 5.0, 1.0) + c
    step = Problem(residual=(u - previous + 0.1 * rate * u) * v * ufl.dx, state=u, controls=[c], name="switch")
    evolution = Evolution(step=step, previous=previous, initial=1.0, num_steps=4, per_step=[c])
    G = ReducedMap(evolution, levels(u, 4))
    for switches in ([0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.2, 1.0]):
        factors = 1.0 / (1.0 + 0.1 * (np.where(np.array(switches) > 0.5, 5.0, 1.0) + switches))
        expected = np.cumprod([1.0, *factors])
        close(G(switches), expected, 1e-13)
        with G.linearize(switches) as lin:
            # d u_N / d c_n = -0.1 u_N / (1 + 0.1 rate_n).
            close(lin.vjp(np.eye(5))[-1], -0.1 * expected[-1] * factors, 1e-12)


def test_a_condition_on_the_time():
    mesh = meshes.unit_square(2)
    _, u, v, previous = own_step(mesh)
    t, dt = number(mesh, 0.0), 0.1
    rate = ufl.conditional(ufl.gt(t, 0.25), 5.0, 1.0)
    step = Problem(residual=(u - previous + dt * rate * u) * v * ufl.dx, state=u, controls=[previous], name="later")
    G = ReducedMap(
        Evolution(step=step, previous=previous, initial=1.0, num_steps=4, time=t, dt=dt), levels(u, 4)
    )  # fmt: skip
    expected = np.cumprod([1.0, 1 / 1.1, 1 / 1.1, 1 / 1.5, 1 / 1.5])
    close(G(np.ones(G.size_in)), expected, 1e-13)
    with G.linearize(np.ones(G.size_in)) as lin:
        close(lin.jvp(np.ones(G.size_in)), expected, 1e-13)


def jump_in_previous(mesh):
    _, u, v, previous = own_step(mesh)
    F = (u - previous - 0.5 * ufl.conditional(ufl.lt(previous, 1.2), 1.0, 0.0)) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[previous], name="jump_previous")
    return Evolution(step=step, previous=previous, initial=0.0, num_steps=STEPS)


def jump_in_a_number(mesh):
    _, u, v, previous = own_step(mesh)
    c = number(mesh, 0.0)
    F = (u - previous - c - ufl.conditional(ufl.gt(c, 0.5), 1.0, 0.0)) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[c], name="jump_number")
    return Evolution(step=step, previous=previous, initial=0.0, num_steps=STEPS, per_step=[c])


def jump_in_a_field(mesh):
    V, u, v = evolutions.parts(mesh)
    s = fem.Function(V)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + u * v - (s + ufl.conditional(ufl.gt(s, 0.5), 1.0, 0.0)) * v) * ufl.dx
    return Problem(residual=F, state=u, controls=[s], name="jump_field")


@pytest.mark.parametrize("make", [jump_in_previous, jump_in_a_number, jump_in_a_field], ids=lambda make: make.__name__)
def test_a_condition_is_not_affine(make):
    """Samples on both sides of a jump do not go through one block solve, whatever the derivatives look like."""
    problem = make(meshes.unit_square(2))
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    M = np.array([[0.0], [0.4], [1.1]]) * np.ones(G.size_in)
    each = np.array([G(m) for m in M])
    # The middle one is no mean of the others.
    assert np.abs(each[1] - each[0] - 0.4 / 1.1 * (each[2] - each[0])).max() > 0.1
    close(G(M), each)
    close([lin.value for lin in G.linearize_each(M)], each)


@pytest.mark.ranks(1, 2)
def test_a_condition_on_the_new_state_is_refused():
    mesh = meshes.unit_square(2)
    _, u, v, previous = own_step(mesh)
    F = (u - previous - 0.1 * ufl.conditional(ufl.lt(u, 1.0), 1.0, 0.0)) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[previous], name="jump_state")
    evolution = Evolution(step=step, previous=previous, initial=0.0, num_steps=2)
    error = raised_everywhere(BadProblem, lambda: ReducedMap(evolution, levels(u, 2)))
    assert "smooth" in str(error)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_observables_of_what_is_no_state():
    """``previous`` has no place in an observable; the initial state, a control and a parameter have."""
    mesh = meshes.unit_square(2)
    V, u, v, previous = own_step(mesh)
    g, target = number(mesh, 1.0), fem.Function(V)
    F = (u - previous - g) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[previous, g], name="observed")
    evolution = Evolution(step=step, previous=previous, initial=0.0, num_steps=2)
    J = Functional((u - previous) ** 2 * ufl.dx(domain=mesh))
    for observable in (J, AtSteps(J, [0, 1, 2]), TimeIntegral(J, 0.1), Stack([J, AtSteps(J, 1)])):
        raised_everywhere(BadProblem, lambda observable=observable: ReducedMap(evolution, observable))
    target.x.array[:] = 1.0
    for beside, seen in ((target, [1.0, 0.0, 1.0]), (evolution.initial_state, [0.0, 1.0, 4.0]), (g, [1.0, 0.0, 1.0])):
        G = ReducedMap(evolution, AtSteps(Functional((u - beside) ** 2 * ufl.dx(domain=mesh)), [0, 1, 2]))
        close(G(np.append(np.zeros(G.size_in - 1), 1.0)), seen, 1e-12)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("wrong", [0.0, -0.1, float("nan"), float("inf"), "a", None, "vector", "negative"])
def test_lengths_that_are_none(wrong):
    """As numbers and as Constants, of the theta-method and of a step of one's own."""
    mesh = meshes.unit_square(2)
    V, u, v, previous = own_step(mesh)
    constants = {"vector": lambda: fem.Constant(mesh, np.array([0.1, 0.2])), "negative": lambda: number(mesh, -1.0)}
    dt = constants.get(wrong, lambda: wrong)()
    raised_everywhere(BadProblem, lambda: theta_evolution(u * v * ufl.dx, u, initial=0.0, dt=dt, num_steps=2))
    step = Problem(residual=(u - previous) * v * ufl.dx, state=u, controls=[previous], name="lengths")
    given = {"step": step, "previous": previous, "initial": 0.0, "num_steps": 2}
    time = {"time": number(mesh, 0.0)} if wrong is None else {}
    raised_everywhere(BadProblem, lambda: Evolution(**given, **time, dt=dt))
    raised_everywhere(BadProblem, lambda: Evolution(**given, dt=0.1, start=float("nan")))


@pytest.mark.ranks(1, 2)
def test_a_list_that_could_be_entries_or_steps():
    """As many entries as steps: a flat list is refused, everything that says which is taken."""
    mesh = meshes.unit_square(2)
    V, u, v, previous = own_step(mesh)
    q = fem.Constant(mesh, np.zeros(STEPS))
    F = (u - previous - sum(q[i] for i in range(STEPS))) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[q], name="entries")
    G = ReducedMap(
        Evolution(step=step, previous=previous, initial=0.0, num_steps=STEPS, per_step=[q]), FieldValues(V)
    )  # fmt: skip
    for flat in ([1.0, 2.0, 3.0], (1.0, 2.0, 3.0), np.arange(3.0)):
        raised_everywhere(BadInput, lambda flat=flat: control_values(G, flat))
    raised_everywhere(BadInput, lambda: control_values(G, [1.0, 2.0]))
    table = np.arange(9.0).reshape(3, 3)
    same(control_values(G, table), table.ravel())
    same(control_values(G, [list(row) for row in table]), table.ravel())
    same(control_values(G, lambda x: table[1]), np.tile(table[1], 3))
    same(control_values(G, [[1.0], lambda x: [2.0, 2.0, 2.0], [3.0]]), np.repeat([1.0, 2.0, 3.0], 3))
    same(control_values(G, 4.0), np.full(9, 4.0))
