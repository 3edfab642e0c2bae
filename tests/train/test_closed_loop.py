"""Flows through a loop of controller and physics, against autograd through the loop unrolled."""

from __future__ import annotations

import copy

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import pytest
import torch
import ufl
from checkpoint_schedules import Revolve, SingleDiskStorageSchedule
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem
from mpi4py import MPI

from relax import BadInput, PointValues, SolveFailed, Teams, meshes, pdes
from relax.base.la.linear import LinearSolver
from relax.train import ClosedLoop, one_step
from relax.train.closed_loop.loop import combined

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD
FLOWS = ("full", "physics", "stop")
SAME = 1e-12
T = 5


def mlp(n, k, width=7):
    torch.manual_seed(3)
    layers = torch.nn.Linear(n, width), torch.nn.Tanh(), torch.nn.Linear(width, k)
    return torch.nn.Sequential(*layers).double()


class Remembers(torch.nn.Module):
    """A controller with a memory of one kind or another."""

    def __init__(self, n, k, kind="gru"):
        super().__init__()
        torch.manual_seed(4)
        self.cell = (torch.nn.GRUCell if kind == "gru" else torch.nn.LSTMCell)(n, 6).double()
        self.out = torch.nn.Linear(6, k).double()

    def forward(self, s, h=None):
        h = self.cell(s, h)
        return self.out(h[0] if isinstance(h, tuple) else h), h


def cart_pole(s, c):
    """x, v, θ, w of a cart with one pole."""
    x, v, angle, w = s.unbind(-1)
    sine, cosine = angle.sin(), angle.cos()
    push = (c[..., 0] + 0.05 * w**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    pulled = push - 0.05 * turn * cosine / 1.1
    v, w = v + 0.05 * pulled, w + 0.05 * turn
    return torch.stack([x + 0.05 * v, v, angle + 0.05 * w, w], -1)


def linear(s, c):
    matrix = 0.3 * torch.sin(torch.arange(16.0, dtype=s.dtype)).reshape(4, 4) + torch.eye(4, dtype=s.dtype)
    return s @ matrix + c @ torch.ones(2, 4, dtype=s.dtype)


def burgers():
    evolution = pdes.burgers.evolution(
        meshes.interval(8), initial=0.0, viscosity=0.05, dt=0.05, num_steps=2, controls="force_per_step", supg=False
    )
    return one_step(evolution, control=evolution.per_step[0])


def dipole(n=6):
    evolution = pdes.schrodinger.dipole(meshes.interval(n), dt=0.05, num_steps=2, degree=1)
    return one_step(evolution, control=evolution.per_step[0])


def starts(n, batch=3):
    torch.manual_seed(5)
    return torch.randn(batch, n, dtype=torch.float64)


CASES = {
    "linear": (lambda: linear, 4, 2),
    "cart-pole": (lambda: cart_pole, 4, 1),
    "burgers": (burgers, 9, 9),
    "dipole": (dipole, 14, 1),
}


def squares(s):
    return (s**2).mean(0).sum()


def unrolled(step, net, s, flow, losses, observe=lambda s: s):
    """J and its gradient by autograd through all steps, with what a flow leaves out detached."""
    h, total = None, 0.0
    for t in range(T):
        seen = observe(s if flow == "full" else s.detach())
        answer = net(seen) if h is None else net(seen, h)
        c, h = answer if isinstance(answer, tuple) else (answer, None)
        if flow == "stop":
            s = s.detach()
            if h is not None:
                h = tuple(x.detach() for x in h) if isinstance(h, tuple) else h.detach()
        s = step(s, c)
        total = total + losses(t + 1, s, c)
    return total.item(), torch.autograd.grad(total, list(net.parameters()))


def equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        close(a.numpy(), b.numpy(), SAME)
        everyone_has(a.numpy())


@pytest.mark.parametrize("case", CASES)
def test_flows_are_those_of_autograd(case):
    """All in one sweep, each in its own, and with states that are made again; a loss at each step, and at two."""
    make, n, k = CASES[case]
    step, net, s = make(), mlp(n, k), starts(n)
    loop = ClosedLoop(step, net, steps=T, losses=squares)
    found = loop.gradients(s, FLOWS)
    for flow in FLOWS:
        loss, expected = unrolled(step, net, s, flow, lambda t, s, c: squares(s))
        equal(found[flow], expected)
        equal(loop.gradients(s, [flow])[flow], expected)
        if flow != "stop":
            for _ in range(2):  # the loop unrolled comes after what it is compared with
                equal(loop.gradients(s)[flow], expected)
                equal(loop.gradients(s, [flow])[flow], expected)
            assert all(known == (case != "burgers") for known in loop._unrolls.values())
        assert loop.report.loss == pytest.approx(loss, rel=SAME)
    table = {2: squares, T: lambda s, c: squares(s) + 0.3 * squares(c)}
    again = ClosedLoop(step, net, steps=T, losses=table, storage=Revolve(T, 2))
    for flow in FLOWS:
        costs = {2: lambda s, c: squares(s), T: table[T]}
        _, expected = unrolled(step, net, s, flow, lambda t, s, c, costs=costs: costs[t](s, c) if t in costs else 0.0)
        equal(again.gradients(s, [flow])[flow], expected)


def test_combined_is_physics_where_the_signs_agree():
    net, s = mlp(4, 1), starts(4)
    loop = ClosedLoop(cart_pole, net, steps=T, losses={T: squares})
    flows = loop.gradients(s)
    kept = [torch.where(p * f > 0, p, 0.0) for p, f in zip(flows["physics"], flows["full"], strict=True)]
    loss = loop.backward(s)
    equal([p.grad for p in net.parameters()], kept)
    loop.backward(s)
    equal([p.grad for p in net.parameters()], [2.0 * g for g in kept])
    whole = [torch.cat([g.ravel() for g in flows[flow]]) for flow in ("full", "physics")]
    assert loop.report.loss == float(loss) and loop.report.norms["full"] == pytest.approx(float(whole[0].norm()))
    assert loop.report.cosine == pytest.approx(float(torch.cosine_similarity(*whole, dim=0)))
    assert loop.report.kept == pytest.approx(float((whole[0].sign() == whole[1].sign()).double().mean()))
    zero = torch.zeros(2)
    assert combined([torch.tensor([0.0, 2.0])], [torch.tensor([1.0, 0.0])])[0].equal(zero)


def test_one_step_has_one_flow():
    net, s = mlp(4, 1), starts(4)
    flows = ClosedLoop(cart_pole, net, steps=1, losses=squares).gradients(s, FLOWS)
    equal(flows["physics"], flows["full"])
    equal(flows["stop"], flows["full"])


def mixed(s, c):
    return cart_pole(s - 0.1 * s.mean(0), c)


@pytest.mark.parametrize(("step", "layer"), [(mixed, torch.nn.Tanh()), (cart_pole, torch.nn.BatchNorm1d(7).double())])
def test_samples_that_know_of_each_other(step, layer):
    """By the step, or by the controller: no batch is taken twice then."""
    net, s = torch.nn.Sequential(mlp(4, 7), layer, torch.nn.Linear(7, 1).double()), starts(4)
    loop = ClosedLoop(step, net, steps=T, losses=squares)
    for flow in ("full", "physics"):
        expected = unrolled(step, net, s, flow, lambda t, s, c: squares(s))[1]
        equal(loop.gradients(s)[flow], expected)
        equal(loop.gradients(s, [flow])[flow], expected)


def physics_is_right(loop, step, net, s):
    for flow in ("full", "physics"):
        expected = unrolled(step, net, s, flow, lambda t, s, c: squares(s))[1]
        equal(loop.gradients(s)[flow], expected)
        equal(loop.gradients(s, [flow])[flow], expected)


def without_last_layer(*layers):
    net = torch.nn.Sequential(mlp(4, 7), *layers, torch.nn.Linear(7, 1).double())
    torch.nn.init.zeros_(net[-1].weight)
    torch.nn.init.zeros_(net[-1].bias)
    return net


def test_a_controller_that_does_nothing_yet_hides_nothing():
    """Its values and its derivatives in s are zero, with and without others; later they are not."""
    for step, layers in ((cart_pole, [torch.nn.BatchNorm1d(7).double()]), (mixed, [torch.nn.Tanh()])):
        net, s = without_last_layer(*layers), starts(4)
        loop = ClosedLoop(step, net, steps=T, losses=squares)
        physics_is_right(loop, step, net, s)
        torch.nn.init.ones_(net[-1].weight)
        physics_is_right(loop, step, net, s)
    norm = torch.nn.BatchNorm1d(7).double().eval()
    net = torch.nn.Sequential(mlp(4, 7), norm, torch.nn.Linear(7, 1).double())
    loop = ClosedLoop(cart_pole, net, steps=T, losses=squares)
    physics_is_right(loop, cart_pole, net, s)
    norm.train()
    physics_is_right(loop, cart_pole, net, s)


def test_steps_and_controllers_for_one_batch():
    """A mass and a target for each sample; the number of samples in a step; one that others enter later."""
    mass, s = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64), starts(4)

    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(5, 1)

        def forward(self, s):
            return self.net(torch.cat([s, mass], -1))

    for step, net in (
        (lambda s, c: cart_pole(s, mass * c), mlp(4, 1)),
        (cart_pole, Told()),
        (lambda s, c: cart_pole(s, c / len(s)), mlp(4, 1)),
        (lambda s, c: cart_pole(s - 0.01 * s.detach().sum(0), c), mlp(4, 1)),
    ):
        physics_is_right(ClosedLoop(step, net, steps=T, losses=squares), step, net, s)


def test_a_third_argument_is_the_time_where_it_says_so():
    net, s = mlp(4, 1), starts(4)
    expected = ClosedLoop(lambda s, c: cart_pole(s, 0.05 * c), net, steps=T, losses=squares).gradients(s, FLOWS)
    for step in (lambda s, c, dt=0.05: cart_pole(s, dt * c), lambda s, c, t: cart_pole(s, (0.05 + 0 * t) * c)):
        found = ClosedLoop(step, net, steps=T, losses=squares).gradients(s, FLOWS)
        for flow in FLOWS:
            equal(found[flow], expected[flow])
    seen = []
    step = lambda s, c, t=7: (seen.append(t), cart_pole(s, c))[1]  # noqa: E731
    ClosedLoop(step, net, steps=2, losses=squares).gradients(s, ["stop"])
    assert seen == [0, 1]


class Summed(torch.nn.Module):
    """Two parameters whose sum alone counts."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.ones(4, 1, dtype=torch.float64)) for _ in range(2))

    def forward(self, s):
        return s @ (self.a + self.b)


def test_parameters_have_gradients_of_their_own():
    net, s = Summed(), starts(4)
    loop = ClosedLoop(cart_pole, net, steps=T, losses=squares)
    for flow in ("full", "physics", "stop", "combined"):
        net.zero_grad()
        loop.backward(s, flow)
        net.zero_grad()
        loop.backward(s, flow)
        once = net.a.grad.clone()
        loop.backward(s, flow)
        equal([net.a.grad, net.b.grad], [2.0 * once, 2.0 * once])


def test_losses_and_steps_without_gradient():
    net, s = mlp(4, 1), starts(4)
    for step, loss in ((cart_pole, lambda s: torch.tensor(1.0)), (lambda s, c: 1.1 * s, squares)):
        for flows in (["full"], ["physics"], FLOWS[:2], FLOWS):
            loop = ClosedLoop(step, net, steps=T, losses=loss)
            assert all(not g.any() for total in loop.gradients(s, flows).values() for g in total)
            assert loop.report.loss > 0.0


class Keeps(torch.nn.Module):
    """All that it has seen, in a tuple of one tensor of another precision."""

    def __init__(self):
        super().__init__()
        self.net = mlp(4, 1)

    def forward(self, s, h=None):
        h = (s[None].float(),) if h is None else (torch.cat([h[0], s[None].float()]),)
        return self.net(s) + h[0].mean((0, 2)).double()[:, None], h


@pytest.mark.parametrize("storage", [lambda: None, lambda: Revolve(T, 2), SingleDiskStorageSchedule])
def test_a_memory_that_grows(storage):
    net, s = Keeps(), starts(4)
    found = ClosedLoop(cart_pole, net, steps=T, losses=squares, storage=storage()).gradients(s, FLOWS)
    for flow in FLOWS:
        for a, b in zip(found[flow], unrolled(cart_pole, net, s, flow, lambda t, s, c: squares(s))[1], strict=True):
            close(a.numpy(), b.numpy(), 1e-6)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_memory_is_carried(kind):
    net, s = Remembers(4, 1, kind), starts(4)
    for storage in (None, Revolve(T, 2)):
        found = ClosedLoop(cart_pole, net, steps=T, losses=squares, storage=storage).gradients(s, FLOWS)
        for flow in FLOWS:
            equal(found[flow], unrolled(cart_pole, net, s, flow, lambda t, s, c: squares(s))[1])


def test_what_the_controller_sees():
    """A matrix, a function, sensors on the mesh: the same."""
    step, s = burgers(), starts(9)
    sensors = PointValues(step.G.problem.state.function_space, [(0.3,), (0.72,)])
    matrix = step.seen_by(sensors)
    net = mlp(2, 9)
    expected = unrolled(step, net, s, "full", lambda t, s, c: squares(s), lambda s: s @ torch.as_tensor(matrix).T)[1]
    for observe in (sensors, matrix, lambda s: s @ torch.as_tensor(matrix).T):
        found = ClosedLoop(step, net, steps=T, losses=squares, observe=observe).gradients(s, ["full"])
        equal(found["full"], expected)


def test_states_that_are_made_again_draw_the_same_numbers():
    """Dropout, in memory and on disk; and the generator goes on as if nobody had drawn."""
    net = torch.nn.Sequential(mlp(4, 6), torch.nn.Dropout(0.4), torch.nn.Linear(6, 1).double())
    s, found = starts(4), []
    for storage in (Revolve(T, 2), SingleDiskStorageSchedule(), Revolve(T, 4)):
        loop = ClosedLoop(cart_pole, net, steps=T, losses=squares, storage=storage)
        torch.manual_seed(1)
        found.append([*loop.gradients(s)["full"], torch.rand(3)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_compiled_controllers_take_a_sweep_a_flow():
    net, s = mlp(4, 1), starts(4)
    expected = ClosedLoop(cart_pole, net, steps=T, losses=squares).gradients(s, FLOWS)
    seen = []
    loop = ClosedLoop(cart_pole, torch.compile(net, backend="aot_eager"), steps=T, losses=squares)
    found = loop.gradients(s, FLOWS, watch=lambda t, costates: seen.append(t))
    for flow in FLOWS:
        equal(found[flow], expected[flow])
    assert seen == [5, 4, 3, 2, 1, 0]


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
