"""Steps of evolutions in a loop: what they keep and know, teams; and what a loop refuses."""

from __future__ import annotations

import copy

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import pytest
import torch
import ufl
from contract import close, raised_everywhere
from dolfinx import fem
from loop_cases import COMM, SAME, T, burgers, cart_pole, dipole, equal, mlp, squares, starts

from relax import BadInput, SolveFailed, Teams, meshes, pdes
from relax.base.la.linear import LinearSolver
from relax.train import ClosedLoop, one_step

pytestmark = pytest.mark.ranks(1, 2, 3)


def test_the_adjoint_of_waves_keeps_its_length():
    """Crank–Nicolson steps are unitary: |λ_t| of "physics" stays, in the norm dual to that of ψ."""
    step = dipole(12)
    V = step.G.problem.state.function_space
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    M = fem_petsc.assemble_matrix(fem.form(ufl.inner(u, v) * ufl.dx))
    M.assemble()
    free = np.setdiff1d(np.arange(step.size_state), _replicated(V, step.G.residual.boundary.owned))
    dense = _dense(M, V)[np.ix_(free, free)]
    net = torch.nn.Sequential(mlp(step.size_state, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1).double())
    s = starts(step.size_state, 1)
    lengths = {"full": [], "physics": []}

    def watch(t, costates):
        for flow, costate in costates.items():
            row = costate[0].numpy()[free]
            lengths[flow].append(np.sqrt(row @ np.linalg.solve(dense, row)))

    loop = ClosedLoop(step, net, steps=20, losses={20: lambda s: (s[..., 3] ** 2).mean()})
    loop.gradients(s, watch=watch)
    # λ_T stands first, and the last is λ_0.
    assert np.ptp(lengths["physics"]) < 1e-10 * lengths["physics"][0]
    assert np.ptp(lengths["full"]) > 1e-3 * lengths["full"][0]


def _replicated(V, owned):
    """Numbers in the replicated order of some owned degrees of freedom of all ranks."""
    from relax.base.fem.layout import SpaceLayout

    layout = SpaceLayout(V)
    marks = np.zeros(layout.num_owned)
    marks[owned] = 1.0
    return np.flatnonzero(layout.gather(marks))


def _dense(M, V):
    from relax.base.fem.layout import SpaceLayout

    layout = SpaceLayout(V)
    x, y = M.createVecs()
    columns = []
    for row in np.eye(layout.size):
        x.array[:] = layout.spread(row)[: layout.num_owned]
        M.mult(x, y)
        columns.append(layout.gather(y.array_r.copy()))
    return np.array(columns)


def test_a_constant_operator_is_factored_once(monkeypatch):
    done, original = [], LinearSolver.factor
    monkeypatch.setattr(LinearSolver, "factor", lambda self, matrix: (done.append(1), original(self, matrix))[1])
    evolution = pdes.heat.evolution(meshes.interval(8), dt=0.02, num_steps=2, controls="source_per_step")
    step = one_step(evolution, control=evolution.per_step[0])
    net = mlp(9, 9)
    loop = ClosedLoop(step, net, steps=T, losses=squares)
    optimiser = torch.optim.Adam(net.parameters())
    for _ in range(3):
        optimiser.zero_grad()
        loop.backward(starts(9))
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    assert len(done) == 1


def test_a_step_knows_its_time_and_keeps_other_controls():
    mesh = meshes.interval(6)
    t = fem.Constant(mesh, 0.0)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, k, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, 1.0), fem.Constant(mesh, 0.0)
    from relax import theta_evolution

    R = (k * ufl.inner(ufl.grad(u), ufl.grad(v)) - (1.0 + t) * f * v) * ufl.dx
    evolution = theta_evolution(
        R, u, initial=0.0, dt=0.5, num_steps=3, theta=1, controls=[k, f], time=t, start=1.0, name="knows"
    )
    step = one_step(evolution, control=f, fixed={k: 0.0})
    s = torch.zeros(1, 7, dtype=torch.float64)
    after = [step(s, torch.ones(1, 1, dtype=torch.float64), n) for n in range(3)]
    for n in range(3):
        close(after[n].numpy(), 0.5 * (1.0 + 1.0 + 0.5 * (n + 1)) * np.ones((1, 7)), 1e-9)
    assert t.value == 0.0 and k.value == 1.0


@pytest.mark.ranks(2)
def test_teams_are_summed_before_signs_are_compared():
    teams = Teams(COMM, 1)
    net, s = mlp(4, 1), starts(4, 4)
    whole = ClosedLoop(cart_pole, net, steps=T, losses=lambda s: (s**2).sum() / 4)
    whole.backward(s)
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    loop = ClosedLoop(cart_pole, net, steps=T, losses=lambda s: (s**2).sum() / 4, teams=teams)
    loss = loop.backward(s[teams.mine(4)])
    equal([p.grad for p in net.parameters()], expected)
    assert float(loss) == pytest.approx(whole.report.loss, rel=SAME)
    # What fails in one team fails in all.
    sick = ClosedLoop(
        cart_pole, net, steps=T, losses=lambda s: s.sum() * (1.0 if COMM.rank < COMM.size - 1 else np.nan), teams=teams
    )
    assert "is nan" in str(raised_everywhere(SolveFailed, lambda: sick.backward(s[teams.mine(4)])))
    step = burgers()
    if COMM.size > 1:
        error = raised_everywhere(BadInput, lambda: ClosedLoop(step, mlp(9, 9), steps=T, losses=squares, teams=teams))
        assert "teams.space" in str(error)
    teams.close()


def test_what_one_step_does_not_take_is_said():
    step, s, c = burgers(), starts(9), torch.ones(3, 9, dtype=torch.float64)
    short = s[:, : 9 - COMM.rank] if COMM.size > 1 else s[:, :8]
    for given, words in (
        ((short, c), "expected a state"),
        ((s, c[0]), "same leading axes"),
        ((s, c[:2]), "same leading axes"),
        ((s.numpy(), c), "state: expected a tensor"),
        ((s, c.long()), "control: expected a tensor"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda given=given: step(*given)))
    assert copy.deepcopy(step).G is step.G
    evolution = pdes.heat.evolution(meshes.interval(4), dt=0.02, num_steps=2, controls="source_per_step")
    error = raised_everywhere(BadInput, lambda: one_step(evolution, control=evolution.per_step[0], fixed=[1.0]))
    assert "{control: values}" in str(error)


class Answers(torch.nn.Module):
    """A controller that says anything."""

    def __init__(self, net, answer):
        super().__init__()
        self.net, self.answer = net, answer

    def forward(self, s):
        return self.answer(s)


def test_what_does_not_fit_is_said():
    net, s = mlp(4, 1), starts(4)
    for change, words in (
        ({"losses": {T + 1: squares}}, "keys, got 6"),
        ({"losses": {}}, "at least one"),
        ({"losses": 3.0}, "expected a function of the state"),
        ({"steps": 0}, "steps: expected"),
        ({"storage": 3}, "checkpoint_schedules"),
        ({"observe": "x"}, "expected a function or a matrix"),
        ({"observe": np.ones((2, 3))}, r"for states \(3, 4\), got \(2, 3\)"),
    ):
        with pytest.raises(BadInput, match=words):
            ClosedLoop(cart_pole, net, **{"steps": T, "losses": squares, **change}).backward(s)
    for answer in (lambda s: (s[:, :1], torch.tensor(0)), lambda s: s.argmax(-1, keepdim=True), lambda s: [s]):
        with pytest.raises(BadInput, match="memory, all of floating point numbers"):
            ClosedLoop(cart_pole, Answers(net, answer), steps=T, losses=squares).backward(s)
    for flows in ((), "full"):
        with pytest.raises(BadInput, match="flows: expected a list"):
            ClosedLoop(cart_pole, net, steps=T, losses=squares).gradients(s, flows)
    for step, loss, words in (
        (lambda s, c: s[..., :2], squares, "of the shape of the one before"),
        (cart_pole, lambda s: s**2, "expected one number at t = 1"),
    ):
        with pytest.raises(BadInput, match=words):
            ClosedLoop(step, net, steps=T, losses=loss).backward(s)
    with pytest.raises(BadInput, match="'full', 'physics', 'stop' or 'combined'"):
        ClosedLoop(cart_pole, net, steps=T, losses=squares).backward(s, "all")
    with pytest.raises(SolveFailed, match="at t = 5 of 5 is nan"):
        ClosedLoop(cart_pole, net, steps=T, losses={T: lambda s: (s.sum() - torch.inf) * 0.0}).backward(s)
