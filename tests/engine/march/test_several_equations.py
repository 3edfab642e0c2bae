"""Steps of several equations, one after the other, and of several earlier states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import ufl
from contract import close
from dolfinx import fem

import relax
from relax import (
    AtSteps,
    BadInput,
    BadProblem,
    Evolution,
    ExpressionField,
    FieldValues,
    Functional,
    PointValues,
    Problem,
    ReducedMap,
    Stack,
    TimeIntegral,
)
from relax.base.la.linear import LinearSolver
from relax.problem import Combination

pytestmark = pytest.mark.ranks(1, 2, 3)
STEPS, SIZE = 3, 16
EXACT = relax.Newton(rtol=1e-13)


def splitting(*, initial=None, names=("diffusion", "reaction"), **options):
    """Diffusion, then a reaction with what has diffused, then the mean temperature that both leave: u*, u, T."""
    V = fem.functionspace(relax.meshes.unit_square(3), ("Lagrange", 1))
    Q = fem.functionspace(V.mesh, ("DG", 0))
    half, u, T, old, old_T = (fem.Function(W, name=n) for W, n in ((V, "half"), (V, "u"), (Q, "T"), (V, "p"), (Q, "q")))
    v, q = ufl.TestFunction(V), ufl.TestFunction(Q)
    kappa, rate = fem.Function(V, name="kappa"), fem.Constant(V.mesh, 0.7)
    k = 0.1
    diffuse = ((half - old) * v + k * ufl.exp(kappa) * ufl.inner(ufl.grad(half), ufl.grad(v)) - k * old_T * v) * ufl.dx
    react = ((u - half) * v + k * rate * u**3 * v) * ufl.dx
    average = (T - 0.5 * (u + half) - 0.1 * old_T) * q * ufl.dx
    problems = [
        Problem(residual=diffuse, state=half, controls=[kappa], bcs=[relax.clamp(V, lambda x: np.isclose(x[0], 0))],
                name=names[0]),
        Problem(residual=react, state=u, controls=[rate], name=names[1]),
        Problem(residual=average, state=T, controls=[]),
    ]  # fmt: skip
    u_0 = fem.Function(V, name="u_0")
    u_0.interpolate(lambda x: 1 + x[0] * x[1])
    start = [None, u_0, 0.5] if initial is None else initial
    options = {"num_steps": STEPS, "dt": k} | options
    return Evolution(step=problems, previous=[None, old, old_T], initial=start, **options)


def test_equals_one_map_after_the_other():
    """Each equation a problem of its own, its arguments handed on."""
    evolution = splitting()
    half, u, T = evolution.states
    old, old_T = evolution.previous[1:]
    V, Q = u.function_space, T.function_space
    G = ReducedMap(
        evolution, Stack([ExpressionField(u, V), ExpressionField(T, Q), ExpressionField(half, V)]), solver=EXACT
    )
    m = G.present_control()
    maps = [ReducedMap(p, FieldValues(p.state.function_space), solver=EXACT) for p in (
        Problem(residual=evolution.step[0].residual, state=half, bcs=evolution.step[0].bcs),
        Problem(residual=evolution.step[1].residual, state=u),
        Problem(residual=evolution.step[2].residual, state=T),
    )]  # fmt: skip
    values = ReducedMap(evolution, AtSteps(Stack([ExpressionField(u, V), ExpressionField(T, Q)]), [0]))(m)
    relax.fill(old, values[:SIZE])
    relax.fill(old_T, values[SIZE:])
    for _ in range(STEPS):
        seen = [of_one([]) for of_one in maps]
        relax.fill(old, seen[1])
        relax.fill(old_T, seen[2])
    close(G(m), np.concatenate([seen[1], seen[2], seen[0]]), 1e-11)


@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_derivatives(layout):
    """Of what is seen of all states, some beside each other, at steps and over time; in both layouts."""
    evolution = splitting()
    half, u, T = evolution.states
    seen = Stack([
        AtSteps(Functional((u * half + T**2) * ufl.dx), [1, -1]),
        TimeIntegral(Functional(u**2 * ufl.dx)),
        PointValues(T.function_space, [[0.3, 0.4]]),
    ])  # fmt: skip
    G = ReducedMap(evolution, seen, layout=layout)
    report = relax.check_map(G)
    assert report.adjoint_gap < 1e-12
    lin = G.linearize(G.present_control())
    before = dict(G.counts)
    lin.vjp(np.ones(G.size_out))
    assert G.counts["adjoint"] - before["adjoint"] == 3 * STEPS


def test_linear_steps_in_blocks_and_storage():
    """Two linear equations that share a batch's block solves; a schedule gives the same bits; factors are kept."""
    from checkpoint_schedules import Revolve

    V = fem.functionspace(relax.meshes.unit_square(3), ("Lagrange", 1))
    a, b, old, v, f = (fem.Function(V), fem.Function(V), fem.Function(V), ufl.TestFunction(V), fem.Function(V))
    first = ((a - old) * v + 0.1 * ufl.inner(ufl.grad(a), ufl.grad(v)) - f * v) * ufl.dx
    second = ((b - a) * v + 0.2 * ufl.inner(ufl.grad(b), ufl.grad(v))) * ufl.dx
    step = [Problem(residual=first, state=a, controls=[f]), Problem(residual=second, state=b)]
    evolution = Evolution(
        step=step, previous=[None, old], initial=[None, fem.Function(V)], num_steps=4, per_step=[f]
    )  # fmt: skip
    seen = AtSteps(ExpressionField(b, V), [2, 4])
    G = ReducedMap(evolution, seen)
    rows = np.random.default_rng(1).standard_normal((3, G.size_in))
    # Of G.size_in values u_0 comes first.
    close(G(rows), np.array([G(row) for row in rows]), 1e-11)
    lin, stored = G.linearize(rows[0]), ReducedMap(evolution, seen, storage=Revolve(4, 2)).linearize(rows[0])
    close(stored.vjp(np.ones(G.size_out)), lin.vjp(np.ones(G.size_out)), 1e-14)
    relax.check_map(G)


@pytest.mark.ranks(1)
def test_options_of_each_equation(monkeypatch):
    """A list has one for each; equations of one name are numbered."""
    G = ReducedMap(splitting(names=("pde", "pde")), Total(), options=["amg_cg", None, "direct"])
    prefixes = [s.operators.prefix for s in G.solution.system.systems]
    assert prefixes == ["relax_pde_1_", "relax_pde_2_", "relax_pde_3_"]
    assert G.solution.system.systems[0].operators.options["ksp_type"] == "cg"
    with pytest.raises(BadInput, match="3 equations"):
        ReducedMap(splitting(), Total(), options=["amg_cg"])


class Total(relax.Observable):
    """The sum of the values of whatever state it is shown."""

    size = 1

    def value(self, u):
        return np.array([u.function_space.mesh.comm.allreduce(u.x.array[: self._owned(u)].sum())])

    def tangent(self, u, du):
        return self.value(du)

    def adjoint(self, u, dy):
        return np.full(self._owned(u), dy[0])

    def _owned(self, u):
        return u.function_space.dofmap.index_map.size_local * u.function_space.dofmap.index_map_bs

    def check_state(self, state):
        if state.name != "u":
            raise BadProblem("not this one")


@pytest.mark.ranks(1, 2)
def test_what_does_not_fit():
    evolution = splitting()
    half, u, T = evolution.states
    problems, (_, old, old_T) = evolution.step, evolution.previous
    V = u.function_space

    def again(**changes):
        given = {"step": problems, "previous": [None, old, old_T], "initial": [None, 1.0, 0.5], "num_steps": 2}
        return Evolution(**given | changes)

    for changes, words in (
        ({"step": problems[::-1], "previous": [old_T, old, None], "initial": [0.5, 1.0, None]}, "solved for after it"),
        ({"previous": [None, old]}, "one entry for each"),
        ({"previous": old}, "a list with one entry"),
        ({"previous": [old, old, old_T]}, "the same Function"),
        ({"initial": [None, None, 0.5]}, r"initial\[1\]"),
        ({"initial": 1.0}, "one for each state"),
        ({"initial": [None, 1.0]}, "expected 3 of them"),
        ({"step": [problems[0], "react", problems[2]]}, "expected a relax.Problem"),
    ):
        with pytest.raises((BadProblem, BadInput), match=words):
            again(**changes)
    with pytest.raises(BadProblem, match="ExpressionValues"):
        ReducedMap(evolution, FieldValues(V))
    with pytest.raises(BadProblem, match="previous"):
        ReducedMap(evolution, Functional((u + old) * ufl.dx))
    with pytest.raises(BadProblem, match="several equations"):
        relax.train.one_step(evolution, control=problems[0].controls[0])
    G = ReducedMap(evolution, Functional(u * ufl.dx))
    with pytest.raises((BadProblem, BadInput), match="one equation|on one rank"):
        relax.SolutionLayer(G, dense=True)
    with pytest.raises(BadProblem, match="several equations"):
        relax.dual_weighted_residual(G.linearize(G.present_control()), [1.0])


@pytest.mark.ranks(1, 2)
def test_a_control_of_two_equations():
    """It is named in both, or derivatives would see the one alone; an initial state of two states is one control."""
    V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
    a, b, old_a, old_b, m, u_0 = (fem.Function(V, name=n) for n in ("a", "b", "old_a", "old_b", "m", "u_0"))
    v = ufl.TestFunction(V)
    first = ((a - old_a) * v + 0.1 * a**3 * v - m * v) * ufl.dx
    second = ((b - old_b) * v + 0.1 * b**3 * v - a * m * u_0 * v) * ufl.dx

    def steps(*named):
        both = zip((first, second), (a, b), named, strict=True)
        step = [Problem(residual=F, state=u, controls=controls) for F, u, controls in both]
        return Evolution(step=step, previous=[old_a, old_b], initial=[u_0, u_0], num_steps=2)

    with pytest.raises(BadProblem, match=r"the control m stands in the problem of 'b', too"):
        steps([m], [u_0])
    evolution = steps([m], [m, u_0])
    assert [c.name for c in evolution.controls] == ["m", "u_0"]
    u_0.x.array[:] = m.x.array[:] = 0.5
    relax.check_map(ReducedMap(evolution, AtSteps(Functional((a * b + u_0 * b) * ufl.dx), [0, 2])))


@pytest.mark.ranks(1)
def test_equations_at_the_start_take_those_before_them():
    V = fem.functionspace(relax.meshes.unit_square(1), ("DG", 0))
    a, b, old_a, old_b, v = *(fem.Function(V, name=n) for n in ("a", "b", "old_a", "old_b")), ufl.TestFunction(V)
    step = [Problem(residual=(u - old) * v * ufl.dx, state=u) for u, old in ((a, old_a), (b, old_b))]

    def start(first, second):
        problems = [Problem(residual=F * v * ufl.dx, state=u) for F, u in ((first, old_a), (second, old_b))]
        evolution = Evolution(step=step, previous=[old_a, old_b], initial=problems, num_steps=1)
        return ReducedMap(evolution, AtSteps(Functional((a + 10 * b) * ufl.dx), [0, 1]))([])

    close(start(old_a - 2, old_b - 3 - old_a), [52.0, 52.0], 1e-14)
    with pytest.raises(BadProblem, match="'old_b', which is solved for after it"):
        start(old_a - 2 - old_b, old_b - 3)


@pytest.mark.ranks(1)
@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (lambda a: [(a, fem.Constant(a.function_space.mesh, 2.0))], "a weight that is a number"),
        (lambda a: [(a, "half")], "a weight that is a number"),
        (lambda a: [(a, np.nan)], "a weight that is a number"),
        (lambda a: [(a, lambda k: k / 0.1j)], "finite numbers"),
        (lambda a: [a], r"a pair \(x, weight\)"),
        (lambda a: [], "at least one pair"),
    ],
)
def test_doubtful_combinations(terms, words):
    V = fem.functionspace(relax.meshes.unit_square(1), ("DG", 0))
    a, b, old = fem.Function(V), fem.Function(V), fem.Function(V)
    problem = Problem(residual=(a - old) * ufl.TestFunction(V) * ufl.dx, state=a)
    with pytest.raises(BadProblem, match=words):
        evolution = Evolution(
            step=[problem, Combination(b, terms(a))], previous=[old, None], initial=[1.0, None], num_steps=1, dt=0.1
        )
        ReducedMap(evolution, ExpressionField(b, V))([])


# -- several earlier states --------------------------------------------------------------------------------------------


def decay(scheme, steps, *, times=None, n=2):
    """u_t = -u + m + cos(t), one number in space: (u, its exact value at t = 1) with m = 0 and u(0) = 1."""
    V = fem.functionspace(relax.meshes.unit_square(n), ("Lagrange", 1))
    u, v, t, m = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 0.0), fem.Function(V)
    lengths = {"dt": 1.0 / steps, "num_steps": steps} if times is None else {"times": times}
    R = (u - m - ufl.cos(t)) * v * ufl.dx
    start = fem.Function(V)
    start.x.array[:] = 1.0
    return relax.theta_evolution(R, u, initial=start, theta=scheme, controls=[m], time=t, **lengths)


@pytest.mark.parametrize("unequal", [False, True])
def test_bdf2_is_of_second_order(unequal):
    exact = 0.5 * (np.cos(1.0) + np.sin(1.0)) + 0.5 * np.exp(-1.0)
    errors = []
    for steps in (20, 40):
        x = np.linspace(0.0, 1.0, steps + 1)
        evolution = decay("bdf2", steps, times=x + 0.1 * np.sin(2 * np.pi * x) if unequal else None)
        G = ReducedMap(evolution, PointValues(evolution.state.function_space, [[0.5, 0.5]]))
        errors.append(abs(G(np.concatenate([np.ones(9), np.zeros(9)]))[0] - exact))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


def test_bdf2_has_derivatives_and_two_factors(monkeypatch):
    done, original = [], LinearSolver.factor
    monkeypatch.setattr(LinearSolver, "factor", lambda self, matrix: (done.append(1), original(self, matrix))[1])
    evolution = decay("bdf2", 5)
    V = evolution.state.function_space
    with ReducedMap(evolution, AtSteps(FieldValues(V), [1, 5])) as G:
        m = G.present_control()
        with G.linearize(m) as lin:
            lin.vjp(np.ones(G.size_out))
        assert len(done) == 2
        assert relax.check_map(G).adjoint_gap < 1e-12


def test_bdf2_follows_other_times():
    """The weights are those of the steps that an evolution has, also where it is made from another one."""
    times = np.array([0.0, 0.1, 0.4, 0.5])
    equal, there = decay("bdf2", 4), decay("bdf2", 3, times=times)
    m = np.concatenate([np.ones(9), np.zeros(9)])
    made = replace(decay("bdf2", 3, times=[0.0, 0.2, 0.3, 0.5]), times=times)
    seen = [ReducedMap(e, FieldValues(e.state.function_space))(m) for e in (there, made)]
    close(seen[1], seen[0], 1e-14)
    fewer = replace(equal, num_steps=2)
    early = AtSteps(FieldValues(equal.state.function_space), 2)
    close(ReducedMap(fewer, FieldValues(fewer.state.function_space))(m), ReducedMap(equal, early)(m), 1e-14)


def test_a_chain_of_three_steps():
    """u_n = u_{n-1} + u_{n-3}, by a combination, with u_n = u_0 before the start: whole numbers, and their gradient."""
    V = fem.functionspace(relax.meshes.unit_square(1), ("DG", 0))
    u, q, olds = fem.Function(V, name="u"), fem.Function(V, name="q"), [fem.Function(V) for _ in range(3)]
    c = fem.Constant(V.mesh, 1.0)
    problem = Problem(residual=(q - c * u) * ufl.TestFunction(V) * ufl.dx, state=q, controls=[c])
    evolution = Evolution(
        step=[Combination(u, [(olds[0], 1.0), (olds[2], 1.0)]), problem], previous=[olds, None],
        initial=[fem.Function(V), None], num_steps=6,
    )  # fmt: skip
    G = ReducedMap(evolution, AtSteps(Functional(q * ufl.dx), range(1, 7)))
    m = np.ones(G.size_in)
    close(G(m), [2, 3, 4, 6, 9, 13], 1e-14)
    close(G.linearize(m).vjp(np.eye(6)[5]), [6.5, 6.5, 13.0], 1e-14)
    relax.check_map(G)
