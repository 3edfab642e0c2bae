"""What is seen of an evolution: at steps, in stacks, over time, by an observable of one's own; its trajectory."""

from __future__ import annotations

import evolutions
import numpy as np
import pytest
import ufl
from contract import close, same
from dolfinx import fem
from evolutions import STEPS, bump

from relax import (
    AtSteps,
    BadProblem,
    Evolution,
    FieldValues,
    Functional,
    Observable,
    Problem,
    ReducedMap,
    Stack,
    TimeIntegral,
    check_map,
    control_values,
    meshes,
    theta_evolution,
)
from relax.observe import Look


def make(evolution=evolutions.heat, observe=lambda e: FieldValues(e.state.function_space), n=3, **options):
    problem = evolution(meshes.unit_square(n))
    return ReducedMap(problem, observe(problem), **options)


def test_looks_at_steps():
    """In the order asked for; twice if asked twice; an observable of one state looks at the last one."""
    G = make(observe=lambda e: AtSteps(FieldValues(e.state.function_space), range(STEPS + 1)))
    m = control_values(G, bump)
    states = G(m).reshape(STEPS + 1, -1)
    close(states[0], m, 1e-15)
    V = G.problem.state.function_space
    picked = ReducedMap(G.problem, AtSteps(FieldValues(V), [2, -1, 0, 2]))
    same(picked(m).reshape(4, -1), states[[2, 3, 0, 2]])
    same(ReducedMap(G.problem, FieldValues(V))(m), states[-1])
    u = G.problem.state
    mean = Functional(u * ufl.dx)
    each = ReducedMap(G.problem, AtSteps(mean, range(STEPS + 1)))(m)
    integral = ReducedMap(G.problem, TimeIntegral(mean, 0.05))(m)
    assert integral == pytest.approx(0.05 * (each[1:-1].sum() + 0.5 * (each[0] + each[-1])), rel=1e-13)


def test_a_step_length_that_is_a_control():
    """The weights of an integral would have to be differentiated, and are not."""
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1))
    u, previous, v, dt = fem.Function(V), fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 0.1)
    F = ((u - previous) / dt * v + ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx
    step = Problem(residual=F, state=u, controls=[dt, previous])
    problem = Evolution(step=step, previous=previous, initial=fem.Function(V), num_steps=2)
    mean = Functional(u * ufl.dx)
    for observable in (TimeIntegral(mean, dt), Stack([mean, TimeIntegral(mean, dt)])):
        with pytest.raises(BadProblem, match="the dt of a TimeIntegral can be no control"):
            ReducedMap(problem, observable)
    ReducedMap(problem, TimeIntegral(mean, 0.1)).close()


def test_looks_in_stacks():
    """What each part sees by itself, one after the other: stacks in stacks, and one state beside several steps."""
    problem = evolutions.heat(meshes.unit_square(2))
    values, mean = FieldValues(problem.state.function_space), Functional(problem.state * ufl.dx)
    parts = [TimeIntegral(mean, 0.05), AtSteps(values, [1, 0]), values, AtSteps(Stack([mean, values]), [-1, 1])]
    G = ReducedMap(problem, Stack([parts[0], Stack([parts[1], Stack([parts[2]])]), parts[3]]))
    m = control_values(G, bump)
    same(G(m), np.concatenate([ReducedMap(problem, part)(m) for part in parts]))


class MeanVelocity(Observable):
    """(B(u_N) - B(u_0)) / (N dt): one's own look at several steps."""

    needs_steps = True

    def __init__(self, observable, dt):
        self.observable, self.dt = observable, dt
        self.size, self.is_linear = observable.size, observable.is_linear

    def value(self, u):
        raise NotImplementedError

    tangent = adjoint = value

    def looks(self, num_steps, start=0):
        over = 1.0 / (num_steps * self.dt)
        return [Look(num_steps, self.observable, start, over), Look(0, self.observable, start, -over)]


@pytest.mark.parametrize("how", ["alone", "in a stack"])
def test_an_observable_of_ones_own_that_looks(how):
    """A class with ``looks`` is all that it takes: value, derivatives, and its place beside others."""
    problem = evolutions.cubic(meshes.unit_square(2))
    square = Functional(problem.state**2 * ufl.dx)
    own = MeanVelocity(square, 0.05)
    G = ReducedMap(problem, own if how == "alone" else Stack([square, own]))
    ends = ReducedMap(problem, AtSteps(square, [0, -1]))
    m = G.present_control() + 0.3
    first, last = ends(m)
    velocity = (last - first) / (0.05 * problem.num_steps)
    close(G(m), [velocity] if how == "alone" else [last, velocity], 1e-12)
    check_map(G, m)
    with G.linearize(m) as point, ends.linearize(m) as witness:
        close(point.vjp(np.eye(G.size_out)[-1]), witness.vjp(np.array([-1.0, 1.0]) / (0.05 * problem.num_steps)), 1e-12)


def test_time_in_an_observable():
    """A functional with the time in it sees the time of each step, also after the steps have gone on."""
    mesh = meshes.unit_square(2)
    V, u, v = evolutions.parts(mesh)
    t = evolutions.number(mesh, -1.0)
    initial = fem.Function(V)
    R = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    evolution = theta_evolution(R, u, initial=initial, dt=0.25, num_steps=2, time=t, start=3.0)
    J = Functional(t * u * ufl.dx(domain=mesh))
    G = ReducedMap(evolution, AtSteps(J, [0, 1, 2]))
    y = G(np.ones(G.size_in))
    close(y, [3.0, 3.25, 3.5], 1e-12)
    with G.linearize(np.ones(G.size_in)) as lin:
        close(lin.matrix().sum(axis=1), y, 1e-12)


def test_trajectory():
    """The states one after the other, with their times."""
    G = make(evolutions.heat_sources, lambda e: AtSteps(FieldValues(e.state.function_space), range(STEPS + 1)))
    m = G.present_control()
    V, seen, times = FieldValues(G.problem.state.function_space), [], []
    for n, t in G.trajectory(m):
        assert n == len(seen)
        seen.append(V.value(G.problem.state))
        times.append(t)
    same(np.concatenate(seen), G(m))
    assert times == pytest.approx([0.2 + 0.05 * n for n in range(STEPS + 1)])
