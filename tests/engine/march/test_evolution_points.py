"""Equations in time: what is live and what a point keeps, trajectories left half-way, failures, closed maps."""

from __future__ import annotations

import pathlib
import pickle

import evolutions
import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere, same, values_of
from dolfinx import fem
from evolutions import STEPS, bump, number
from mpi4py import MPI
from unsteady import HELD, all_same, levels, own_step, products, storage

from relax import (
    AtSteps,
    BadInput,
    BadProblem,
    Evolution,
    FieldValues,
    Functional,
    Problem,
    ReducedMap,
    SolveFailed,
    TimeIntegral,
    check_map,
    control_values,
    meshes,
    theta_evolution,
)
from relax.problem.boundary import clamp

COMM = MPI.COMM_WORLD


# -- the initial state, elsewhere in the steps too ---------------------------------------------------------------------


def drawn_back(mesh, *, in_residual, on_boundary, named, **more):
    V, u, v = evolutions.parts(mesh)
    initial = fem.Function(V, name="initial")
    initial.interpolate(bump)
    R = (ufl.inner(ufl.grad(u), ufl.grad(v)) + 2.0 * u * v) * ufl.dx
    if in_residual:
        R += (initial**2 * ufl.inner(ufl.grad(u), ufl.grad(v)) - 2.0 * initial * v) * ufl.dx
    bcs = [clamp(V, "left", initial)] if on_boundary else []
    return theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=2, controls=[initial] if named else [], bcs=bcs,
        name=f"again_{in_residual:d}{on_boundary:d}", **more,
    )  # fmt: skip


@pytest.mark.parametrize(("in_residual", "on_boundary"), [(True, False), (False, True)])
def test_the_initial_state_need_not_be_named_twice(in_residual, on_boundary):
    """In the residual, or as a boundary value: named among the controls or not, it is one control."""
    found = []
    for named in (True, False):
        evolution = drawn_back(meshes.unit_square(2), in_residual=in_residual, on_boundary=on_boundary, named=named)
        with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
            assert G.size_in == G.size_out
            m = G.present_control()
            with G.linearize(m + 0.5) as lin:
                found.append([G(m), *products(lin)])
            # Both could be wrong alike.
            assert check_map(G).failures == []
    for a, b in zip(*found, strict=True):
        close(b, a)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("on_boundary", [False, True])
def test_an_evolution_wants_it_named(on_boundary):
    mesh = meshes.unit_square(2)
    V, u, v, previous = own_step(mesh)
    initial, s = fem.Function(V), number(mesh, 1.0)
    drawn = 0.0 if on_boundary else initial
    F = (u - previous - 0.1 * (s + drawn)) * v * ufl.dx
    bcs = [clamp(V, "left", initial)] if on_boundary else []
    given = {"previous": previous, "initial": initial, "num_steps": 2}
    named = Problem(residual=F, state=u, controls=[s, initial], bcs=bcs, name="named")
    assert Evolution(step=named, **given).controls == (s, initial)
    unnamed = Problem(residual=F, state=u, controls=[s], bcs=bcs, name="unnamed")
    raised_everywhere(BadProblem, lambda: Evolution(step=unnamed, **given))


@pytest.mark.parametrize("held", HELD)
def test_a_fixed_initial_state_that_stands_in_the_steps(held):
    """In the residual and on the boundary: live for the next run, an older point keeps its own."""
    mesh = meshes.unit_square(3)
    V, u, v = evolutions.parts(mesh)
    initial, c = fem.Function(V), number(mesh, 1.0)
    R = ((1.0 + initial**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) + c * (u - initial) * v) * ufl.dx
    evolution = theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=STEPS, controls=[c], initial_is_fixed=True,
        bcs=[clamp(V, "right", initial)], name="fixed_again",
    )  # fmt: skip
    G = ReducedMap(evolution, FieldValues(V), storage=storage(held))
    initial.interpolate(bump)
    used, unused = G.linearize([1.0]), G.linearize([1.0])
    expected = products(used)
    initial.interpolate(lambda x: 2.0 + x[1])
    now = initial.x.array.copy()
    changed = G([1.0])
    with ReducedMap(evolution, FieldValues(V)) as fresh:
        close(changed, fresh([1.0]))
    assert np.abs(changed - used.value).max() > 0.1
    all_same(products(used), expected)
    all_same(products(unused), expected)
    np.testing.assert_array_equal(initial.x.array, now)


# -- what is live, and what a point keeps ------------------------------------------------------------------------------


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("kind", ["number", "field"])
def test_live_boundary_values(kind, held):
    """A boundary value that is no control may be changed between calls; an older point keeps its own."""
    mesh = meshes.unit_square(3)
    V, u, v = evolutions.parts(mesh)
    initial, b = fem.Function(V), number(mesh, 0.5) if kind == "number" else fem.Function(V)
    initial.interpolate(bump)
    values_of(b)[...] = 0.5
    R = (1.0 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    evolution = theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=5, bcs=[clamp(V, "left", b)], name=f"live_{kind}"
    )  # fmt: skip
    G = ReducedMap(evolution, AtSteps(FieldValues(V), [1, -1]), storage=storage(held, 5))
    m = G.present_control()
    used, unused = G.linearize(m), G.linearize(m)
    expected = products(used)
    values_of(b)[...] = 3.0
    changed = G(m)
    with ReducedMap(evolution, AtSteps(FieldValues(V), [1, -1])) as fresh:
        close(changed, fresh(m))
    # The four values on that side, at both looks.
    assert np.isclose(changed, 3.0, rtol=1e-12).sum() == 8
    all_same(products(used), expected)
    all_same(products(unused), expected)
    assert (values_of(b) == 3.0).all()


@pytest.mark.parametrize("held", HELD)
def test_a_dt_that_stands_in_no_form(held):
    """The times of an old point are its own, whatever the Constant ``dt`` holds by now."""
    mesh = meshes.unit_square(2)
    _, u, v, previous = own_step(mesh)
    t, dt = number(mesh, 0.0), number(mesh, 0.1)
    F = (u - previous + 0.1 * (1.0 + t) * u) * v * ufl.dx
    step = Problem(residual=F, state=u, controls=[previous], name="told_apart")
    G = ReducedMap(
        Evolution(step=step, previous=previous, initial=1.0, num_steps=STEPS, time=t, dt=dt),
        levels(u, STEPS), storage=storage(held),
    )  # fmt: skip

    def expected(length):
        return np.cumprod([1.0, *(1.0 / (1.0 + 0.1 * (1.0 + n * length)) for n in range(1, STEPS + 1))])

    m = np.ones(G.size_in)
    used, unused = G.linearize(m), G.linearize(m)
    before = products(used)
    close(used.value, expected(0.1), 1e-13)
    dt.value = 1.0
    all_same(products(unused), before)
    close(G(m), expected(1.0), 1e-13)
    all_same(products(used), before)
    close(used.jvp(m), expected(0.1), 1e-13)


@pytest.mark.ranks(1, 2)
def test_a_constant_as_the_length_of_an_integral():
    """TimeIntegral takes the evolution's own dt, as it is when the map is made."""
    evolution = evolutions.heat(meshes.unit_square(2))
    J = Functional(evolution.state**2 * ufl.dx)
    m = control_values(ReducedMap(evolution, J), bump)
    y = ReducedMap(evolution, TimeIntegral(J, evolution.dt))(m)
    same(y, ReducedMap(evolution, TimeIntegral(J, 0.05))(m))
    each = ReducedMap(evolution, AtSteps(J, range(STEPS + 1)))(m)
    close(y, [0.05 * (each.sum() - 0.5 * (each[0] + each[-1]))], 1e-13)
    for wrong in (number(evolution.mesh, 0.0), float("nan"), float("inf"), -1.0):
        raised_everywhere(BadInput, lambda wrong=wrong: TimeIntegral(J, wrong))


def test_a_check_leaves_everything_as_found():
    evolution = evolutions.heat_sources(meshes.unit_square(2))
    registers = [evolution.state, evolution.previous, evolution.time, *evolution.controls]
    for i, register in enumerate(registers):
        values_of(register)[...] = 7.0 + i
    with ReducedMap(evolution, FieldValues(evolution.state.function_space)) as G:
        m = np.zeros(G.size_in)
        counts = dict(G.counts)
        check_map(G, m)
        assert G.counts == counts
    for i, register in enumerate(registers):
        assert (values_of(register) == 7.0 + i).all()


# -- trajectories left half-way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bilinear", "heat_sources", "burgers"])
def test_trajectories_in_turns(name):
    """Two at once, one that is left, and one that goes on after other calls: each sees its own states."""
    evolution = getattr(evolutions, name)(meshes.unit_square(2))
    values = FieldValues(evolution.state.function_space)
    G = ReducedMap(evolution, AtSteps(values, range(STEPS + 1)))
    m = G.present_control() + 0.1
    other = m + 0.2
    w = np.ones(G.size_out)
    y, z = (G(control).reshape(STEPS + 1, -1) for control in (m, other))
    for (n, _), _ in zip(_watched(G, m, values, y), _watched(G, other, values, z), strict=True):
        assert n <= STEPS
    left = _watched(G, m, values, y)
    next(left)
    next(left)
    same(G(other), z.ravel())
    with G.linearize(other) as lin:
        gradient = lin.vjp(w)
        assert next(left)[0] == 2
        same(lin.vjp(w), gradient)
    assert [n for n, _ in left] == [3]
    left = G.trajectory(m)
    next(left)
    left.close()
    same(G(other), z.ravel())


def _watched(G, m, values, expected):
    """A trajectory, each of its states compared while it is there."""
    for n, time in G.trajectory(m):
        same(values.value(G.problem.state), expected[n])
        yield n, time


# -- what fails half-way -----------------------------------------------------------------------------------------------


class Fragile(FieldValues):
    """Values that cannot be had the second time they are asked for, or whose adjoint cannot."""

    breaks, asked = "", 0

    def value(self, u):
        self.asked += 1
        if self.breaks == "value" and self.asked == 2:
            raise ValueError("the user's own")
        return super().value(u)

    def adjoint(self, u, dy):
        self.asked += 1
        if self.breaks == "adjoint" and self.asked == 2:
            raise ValueError("the user's own")
        return super().adjoint(u, dy)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("held", HELD)
def test_failures_leave_the_map_as_good_as_before(held):
    """An observable that raises, Newton's method that fails: points and map give the same bits afterwards."""
    evolution = evolutions.burgers(meshes.unit_square(2))
    fragile = Fragile(evolution.state.function_space)
    G = ReducedMap(evolution, AtSteps(fragile, [1, 2, 3]), storage=storage(held))
    m, w = G.present_control(), np.ones(G.size_out)
    lin = G.linearize(m)
    expected = products(lin)
    calls = {
        "value": [lambda: G(m), lambda: G.linearize(m)],
        "adjoint": [lambda: lin.vjp(w), lambda: lin.hvp(w, m)],
    }
    for fragile.breaks, actions in calls.items():
        for action in actions:
            fragile.asked = 0
            raised_everywhere(ValueError, action)
    fragile.breaks = ""
    raised_everywhere(SolveFailed, lambda: G(np.full(G.size_in, 1e200)))
    all_same(products(lin), expected)
    same(G(m), lin.value)


def disk(move):
    return pytest.importorskip("checkpoint_schedules").SingleDiskStorageSchedule(move_data=move)


@pytest.mark.ranks(1, 2)
def test_a_file_that_cannot_be_removed(monkeypatch):
    """On one rank alone: nobody waits for it, and the gradient is what it is."""
    evolution = evolutions.heat(meshes.unit_square(2))
    values = FieldValues(evolution.state.function_space)
    with ReducedMap(evolution, values) as G, ReducedMap(evolution, values, storage=disk(True)) as H:
        m, w = G.present_control(), np.ones(G.size_out)
        lin = H.linearize(m)
        tried = []

        def refuse(self, *args, **options):
            tried.append(self)
            raise PermissionError(13, "stale file handle")

        if COMM.rank == COMM.size - 1:
            monkeypatch.setattr(pathlib.Path, "unlink", refuse)
        found = lin.vjp(w), lin.vjp(w)
        monkeypatch.undo()
        assert bool(tried) == (COMM.rank == COMM.size - 1)
        with G.linearize(m) as kept:
            same(found[0], kept.vjp(w))
            same(found[1], kept.vjp(w))


@pytest.mark.ranks(1, 2)
def test_a_file_that_cannot_be_read(monkeypatch):
    """On one rank alone: every rank is told, and the next sweep starts anew."""
    evolution = evolutions.heat(meshes.unit_square(2))
    with ReducedMap(evolution, FieldValues(evolution.state.function_space), storage=disk(False)) as G:
        lin, w = G.linearize(G.present_control()), np.ones(G.size_out)
        gradient = lin.vjp(w)

        def refuse(*args, **options):
            raise OSError(5, "input/output error")

        if COMM.rank == COMM.size - 1:
            monkeypatch.setattr(pickle, "load", refuse)
        error = raised_everywhere(BadInput, lambda: lin.vjp(w))
        monkeypatch.undo()
        assert "cannot be read back" in str(error)
        same(lin.vjp(w), gradient)


@pytest.mark.parametrize("held", HELD)
def test_hessian_actions_go_in_small_blocks(held):
    """A record with the tangents of k directions is 1 + k states; no call has all 40 of them at once."""
    N = 5
    evolution = evolutions.heat(meshes.unit_square(2), num_steps=N, name="blocks")
    u = evolution.state
    with ReducedMap(evolution, Functional(u**4 * ufl.dx), storage=storage(held, N)) as G:
        m = G.present_control()
        D = np.random.default_rng(5).standard_normal((40, G.size_in))
        slots = N + 1 if held == "all states" else 2
        with G.linearize(m) as lin:
            lin.vjp(np.ones((3, 1)))
            assert G.counts["stored"] == slots
            rows = lin.hvp([1.0], D)
            assert slots < G.counts["stored"] <= slots * 11
            close(rows[[0, 17, 39]], [lin.hvp([1.0], d) for d in D[[0, 17, 39]]])


# -- closed maps -------------------------------------------------------------------------------------------------------


def calls_of(G, m):
    """What solves."""
    M = np.stack([m, m])
    found = [lambda: G(m), lambda: G(M), lambda: G.linearize(m), lambda: G.linearize_each(M)]
    return [*found, lambda: list(G.trajectory(m))] if isinstance(G.problem, Evolution) else found


def calls_at(lin, m):
    """What solves at a point."""
    w = np.ones(lin.value.size)
    return [lambda: lin.jvp(m), lambda: lin.vjp(w), lambda: lin.hvp(w, m), lambda: lin.jvp(np.eye(m.size))]


def refuse_all(calls):
    for call in calls:
        assert "closed" in str(raised_everywhere(BadInput, call))


@pytest.mark.parametrize("name", ["heat_source_alone", "bilinear", "burgers"])
@pytest.mark.parametrize("single", [False, True], ids=["evolution", "single step"])
def test_a_closed_map_says_so(name, single):
    """On every rank, whether it has solved before or not; closing it again does no harm."""
    evolution = getattr(evolutions, name)(meshes.unit_square(2))
    problem = evolution.single_step if single else evolution
    G, idle = (ReducedMap(problem, FieldValues(problem.state.function_space)) for _ in range(2))
    m = G.present_control() + 0.1
    idle.close()
    refuse_all(calls_of(idle, m))
    idle.close()
    lin = G.linearize(m)
    products(lin)
    for _ in range(2):
        G.close()
        refuse_all([*calls_of(G, m), *calls_at(lin, m)])
