"""Flows through a loop of controller and physics, against autograd through the loop unrolled."""

from __future__ import annotations

import pytest
import torch
from checkpoint_schedules import Revolve, SingleDiskStorageSchedule
from contract import close
from loop_cases import CASES, FLOWS, SAME, Remembers, T, burgers, cart_pole, equal, mlp, squares, starts, unrolled

from relax import PointValues
from relax.train import ClosedLoop
from relax.train.closed_loop.loop import combined

pytestmark = pytest.mark.ranks(1, 2, 3)


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
