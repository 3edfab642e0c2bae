"""HalfInverse over teams: the step of one process, from samples and meshes that are shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import COMM, everyone_has, raised_everywhere
from half_inverse_cases import by_hand, data, flat, mlp, squares
from mpi4py import MPI

from relax import HalfInverse, PointValues, ReducedMap, SolutionLayer, Teams, meshes
from relax.errors import BadInput, NotConverged
from relax.pdes import poisson

SAMPLES = 7


@pytest.fixture(params=[1, COMM.size] if COMM.size > 1 else [1], ids=lambda n: f"{n} per solve")
def teams(request):
    found = Teams(COMM, request.param)
    yield found
    found.close()


def steps_over(teams, net, x, target, *, steps=1, lr=0.01, **settings):
    """This team's samples only; the loss is a mean over all."""
    optimizer = HalfInverse(net.parameters(), lr=lr, teams=teams, **settings)
    mine = teams.mine(len(x))

    def closure():
        y = net(x[mine])
        return y, squares(target[mine])(y) / len(x)

    losses = [float(optimizer.step(closure)) for _ in range(steps)]
    return optimizer, losses


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "gram"},
        {"method": "svd"},
        {"method": "krylov"},
        {"method": "gram", "power": 1.0, "damping": 0.01},
        {"method": "gram", "batch_invariant": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("widths", [(4, 9, 3), (4, 1, 3)], ids=["output side", "parameter side"])
def test_the_step_of_one_process(teams, widths, settings):
    x, target = data(SAMPLES, 4, 3)
    net, alone = mlp(*widths), mlp(*widths)
    optimizer, losses = steps_over(teams, net, x, target, **settings)
    with_one = Teams(MPI.COMM_SELF, 1)
    reference, wanted = steps_over(with_one, alone, x, target, **settings)
    with_one.close()
    np.testing.assert_allclose(flat(net.parameters()), flat(alone.parameters()), rtol=0, atol=1e-10)
    np.testing.assert_allclose(losses, wanted, rtol=1e-13)
    a, b = optimizer.report, reference.report
    assert a.kept == b.kept and a.predicted == pytest.approx(b.predicted, rel=1e-9)
    np.testing.assert_allclose(a.singular_values, b.singular_values, rtol=0, atol=1e-7 * b.singular_values[0])
    everyone_has(flat(net.parameters()))


@pytest.mark.ranks(1, 2)
def test_the_first_weights_are_those_of_rank_0(teams):
    x, target = data(SAMPLES, 4, 3)
    net = mlp(4, 9, 3, seed=COMM.rank)
    steps_over(teams, net, x, target, steps=3, lr=0.3)
    everyone_has(flat(net.parameters()))
    if COMM.size > 1:
        error = raised_everywhere(BadInput, lambda: HalfInverse(mlp(4, 5 + COMM.rank, 3).parameters(), teams=teams))
        assert "expected the same parameters on each rank" in str(error)


@pytest.mark.ranks(1, 2)
def test_parameters_that_do_not_train_are_those_of_rank_0(teams):
    """Each rank would differentiate a network of its own."""
    x, target = data(SAMPLES, 4, 3)
    net = mlp(4, 9, 3, seed=COMM.rank)
    net[0].requires_grad_(False)
    steps_over(teams, net, x, target, lr=0.3)
    everyone_has(flat(net.parameters()))


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("params", "settings", "words"),
    [
        (
            lambda net: net.parameters(),
            {"lr": -1.0},
            "lr: expected a finite number of at least 0",
        ),
        (lambda net: net.parameters(), {"method": "qr"}, "got 'qr'"),
        (lambda net: net.parameters(), {"metric": "mass"}, "made of numbers"),
        (lambda net: [torch.nn.Parameter(p.detach() + 0j) for p in net.parameters()], {}, "expected real parameters"),
        (lambda net: [], {}, "an empty list"),
        (lambda net: [{"params": [p]} for p in net.parameters()], {}, "as many groups"),
        (lambda net: torch.nn.LazyLinear(3).parameters(), {}, "call a lazy network once"),
    ],
)
def test_what_is_wrong_on_one_rank_is_refused_on_all(teams, params, settings, words):
    net = mlp(4, 9, 3)
    wrong = COMM.rank == COMM.size - 1
    make = lambda: HalfInverse(params(net) if wrong else net.parameters(), teams=teams, **(settings if wrong else {}))  # noqa: E731
    assert words in str(raised_everywhere(BadInput, make))


@pytest.mark.ranks(1, 2)
def test_samples_that_know_of_each_other(teams):
    """Batch normalisation over a team's samples: every row takes a sweep, on every team."""
    x, target = data(SAMPLES, 4, 3)
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    net = net.double()
    optimizer, _ = steps_over(teams, net, x, target)
    assert not optimizer.report.by_layers
    everyone_has(flat(net.parameters()))


@pytest.mark.ranks(1, 2)
def test_sub_batches_are_each_teams_own(teams):
    x, target = data(SAMPLES, 4, 3)
    net, start = mlp(4, 9, 3), mlp(4, 9, 3)
    optimizer, _ = steps_over(teams, net, x, target, sub_batches=1)
    bounds = np.linspace(0, SAMPLES, teams.batch.size + 1).round().astype(int)
    wanted = 0.0
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        part = slice(int(first), int(last))
        mean = lambda y, part=part: squares(target[part])(y) / SAMPLES  # noqa: E731
        wanted = wanted + by_hand(start, x[part], mean)
    np.testing.assert_allclose(flat(start.parameters()) - flat(net.parameters()), 0.01 * wanted, atol=1e-9)
    assert optimizer.report.kept == 3 * SAMPLES and len(optimizer.report.singular_values) == 3 * SAMPLES


def poisson_layer(comm):
    mesh = meshes.unit_square(6, comm=comm)
    problem = poisson.source(mesh)
    points = np.array([[0.3, 0.4], [0.7, 0.2], [0.55, 0.8]])
    return SolutionLayer(ReducedMap(problem, PointValues(problem.state.function_space, points)))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("options", [None, "amg_cg"])
@pytest.mark.parametrize("pde", [poisson.source, poisson.diffusion])
def test_solves_keep_samples_apart(teams, pde, options):
    """A direction of zeros has an adjoint of zeros, to the bit, by any solver and beside any other direction."""
    problem = pde(meshes.unit_square(6, comm=teams.space))
    points = np.array([[0.3, 0.4], [0.7, 0.2], [0.55, 0.8]])
    with ReducedMap(problem, PointValues(problem.state.function_space, points), options=options) as G:
        x, target = data(SAMPLES, 3, 3)
        net = torch.nn.Sequential(mlp(3, 8, G.size_in), SolutionLayer(G))
        for method in ("gram", "svd"):
            optimizer, _ = steps_over(teams, net, x, target, method=method)
            assert optimizer.report.by_layers


@pytest.mark.slow
@pytest.mark.ranks(1, 2, 3)
def test_physics_on_meshes_over_teams(teams):
    """A network to a source of a Poisson problem, seen at three points: 20 steps as on one process."""
    layer, alone = poisson_layer(teams.space), poisson_layer(MPI.COMM_SELF)
    x, target = data(SAMPLES, 3, 3)
    net, single = (torch.nn.Sequential(mlp(3, 8, layer.size_in), which) for which in (layer, alone))
    for settings in ({}, {"method": "krylov"}):
        _, losses = steps_over(teams, net, x, 0.05 * target, steps=20, lr=5.0, **settings)
        with_one = Teams(MPI.COMM_SELF, 1)
        _, wanted = steps_over(with_one, single, x, 0.05 * target, steps=20, lr=5.0, **settings)
        with_one.close()
        np.testing.assert_allclose(flat(net.parameters()), flat(single.parameters()), rtol=0, atol=1e-8)
        assert losses[-1] < 0.7 * losses[0] and losses == pytest.approx(wanted, rel=1e-8)
    everyone_has(flat(net.parameters()))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", [ZeroDivisionError, NotConverged, BadInput])
def test_a_closure_that_fails_on_one_rank(teams, kind):
    x, target = data(SAMPLES, 4, 3)
    net = mlp(4, 9, 3)
    optimizer = HalfInverse(net.parameters(), teams=teams)
    mine = teams.mine(SAMPLES)
    before = flat(net.parameters())

    def closure():
        y = net(x[mine])
        loss = squares(target[mine])(y)
        if COMM.rank == COMM.size - 1:
            if kind is ZeroDivisionError:
                raise kind("in the closure")
            return (y, loss * np.nan) if kind is NotConverged else (y[0], loss)
        return y, loss

    with pytest.raises(Exception, match=r"in the closure|the loss is nan|shape \(batch, outputs\)"):
        optimizer.step(closure)
    assert np.array_equal(flat(net.parameters()), before)


@pytest.mark.ranks(1, 2)
def test_a_saved_run_goes_on(teams):
    x, target = data(SAMPLES, 4, 3)
    net, other = mlp(4, 9, 3), mlp(4, 9, 3)
    optimizer, _ = steps_over(teams, net, x, target, steps=2, lr=0.1)
    other.load_state_dict(net.state_dict())
    resumed = HalfInverse(other.parameters(), lr=0.7, teams=teams)
    resumed.load_state_dict(optimizer.state_dict())
    mine = teams.mine(SAMPLES)
    for which, model in ((optimizer, net), (resumed, other)):
        which.step(lambda model=model: (lambda y: (y, squares(target[mine])(y)))(model(x[mine])))
    assert np.array_equal(flat(net.parameters()), flat(other.parameters()))
    with pytest.raises(TypeError, match=r"cannot be copied or pickled; state_dict\(\) can"):
        optimizer.__getstate__()


class Routed(torch.nn.Module):
    """A layer that only some samples go through: in the graph of a team without such samples it is missing."""

    def __init__(self):
        super().__init__()
        self.first, self.second = mlp(4, 9, 3), mlp(4, 3, seed=2)

    def forward(self, x):
        y, mask = self.first(x), x[:, 0] > 0.0
        return y + torch.where(mask[:, None], self.second(x), 0.0) if mask.any() else y


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("method", ["gram", "svd", "krylov"])
def test_graphs_that_differ_between_teams(teams, method):
    x, target = data(SAMPLES, 4, 3)
    x = x.abs()
    x[:3, 0] *= -1.0
    net, alone = Routed(), Routed()
    steps_over(teams, net, x, target, method=method)
    with_one = Teams(MPI.COMM_SELF, 1)
    steps_over(with_one, alone, x, target, method=method)
    with_one.close()
    np.testing.assert_allclose(flat(net.parameters()), flat(alone.parameters()), rtol=0, atol=1e-9)


@pytest.mark.ranks(1, 2)
def test_a_loss_that_is_linear_on_some_teams(teams):
    """The curvature is that of all samples: 1, from those of the first team."""
    x, target = data(SAMPLES, 4, 3)
    net = mlp(4, 9, 3)
    optimizer = HalfInverse(net.parameters(), lr=np.inf, cap=1.0, teams=teams)
    mine = teams.mine(SAMPLES)

    def closure():
        y = net(x[mine])
        return y, squares(target[mine])(y) if teams.batch.rank == 0 else y.sum()

    optimizer.step(closure)
    assert optimizer.report.lr == pytest.approx(2.0 / optimizer.report.singular_values[0] ** 0.5, rel=1e-6)


@pytest.mark.ranks(2)
def test_a_team_without_samples():
    teams = Teams(COMM, 1)
    x, target = data(1, 4, 3)
    net = mlp(4, 9, 3)
    error = raised_everywhere(BadInput, lambda: steps_over(teams, net, x, target))
    assert "with teams each needs at least one in a batch" in str(error)
    teams.close()


@pytest.mark.ranks(1, 2)
def test_parameters_that_are_added_are_those_of_rank_0(teams):
    net, added = mlp(4, 9, 3), mlp(3, 3, seed=COMM.rank)
    optimizer = HalfInverse(net.parameters(), teams=teams)
    optimizer.add_param_group({"params": added.parameters()})
    everyone_has(flat(added.parameters()))
