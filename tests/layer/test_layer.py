"""SolutionLayer: its contract on maps of every kind, what it costs, and how it lives with threads."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import problems
import pytest
import torch
from contract import COMM, Bench, MapContract, close, same
from layer_contract import LayerContract
from mpi4py import MPI
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import relax
from relax import BadInput, FieldValues, ReducedMap, SolutionLayer, meshes, pdes
from relax.base import parallel
from relax.base.la.linear import LinearSolver
from relax.engine.dense import DenseMap


class TestDiffusion(LayerContract):
    make = staticmethod(pdes.poisson.diffusion)
    observe = staticmethod(problems.field)


class TestSource(LayerContract):
    """Affine: samples share their solves."""

    make = staticmethod(pdes.poisson.source)


class TestCubicReaction(LayerContract):
    make = staticmethod(problems.cubic_reaction)
    observe = staticmethod(problems.curved)


class TestAdvectionConstant(LayerContract):
    """A control of two numbers, an operator that is not symmetric."""

    make = staticmethod(problems.advection_constant)
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))


class TestDirichletAndField(LayerContract):
    make = staticmethod(problems.dirichlet_and_field)
    observe = staticmethod(problems.field)


class Diffusion(MapContract):
    make = staticmethod(pdes.poisson.diffusion)
    observe = staticmethod(problems.field)


@pytest.fixture
def work(monkeypatch):
    """How many operators are factored, and how many block solves are made."""
    done = {"factor": 0, "solve_many": 0}
    for name in done:
        original = getattr(LinearSolver, name)

        def counted(self, *args, name=name, original=original, **options):
            done[name] += 1
            return original(self, *args, **options)

        monkeypatch.setattr(LinearSolver, name, counted)
    return done


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd], ids=["jacrev", "jacfwd"])
def test_a_jacobian_is_one_factorisation_and_one_block_solve(work, transform):
    bench = Bench(Diffusion)
    m = torch.from_numpy(bench.controls(1)[0])
    J = transform(SolutionLayer(bench.replicated))(m)
    assert work == {"factor": 1, "solve_many": 1}
    with bench.replicated.linearize(m.numpy()) as lin:
        close(J, lin.matrix())
    bench.close()


def test_a_batch_of_sources_is_one_factorisation_and_two_block_solves(work):
    bench = Bench(TestSource)
    m = torch.from_numpy(bench.controls(8)).requires_grad_()
    y = SolutionLayer(bench.replicated)(m)
    assert work == {"factor": 1, "solve_many": 1}
    y.sum().backward()
    assert work == {"factor": 1, "solve_many": 2}
    bench.close()


@pytest.fixture
def looked_at(monkeypatch):
    """How often an array of many is looked at by all ranks, and how often one is sent."""
    done = {"checked": 0, "from_rank_0": 0}
    for name in done:
        original = getattr(parallel, name)

        def counted(comm, values, *args, name=name, original=original):
            done[name] += np.size(values) > 1
            return original(comm, values, *args)

        monkeypatch.setattr(parallel, name, counted)
    return done


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", ["all ranks together", "in teams", "dense"])
def test_a_batch_is_checked_once_and_sent_once(looked_at, kind):
    teams = relax.Teams(COMM, 1) if kind == "in teams" else None
    domain = meshes.unit_square(4, comm=COMM if kind == "all ranks together" else MPI.COMM_SELF)
    problem = pdes.poisson.source(domain)
    with relax.ReducedMap(problem, problems.field(problem)) as G:
        layer = SolutionLayer(G, teams=teams, dense=kind == "dense")
        m = torch.from_numpy(np.random.default_rng(0).standard_normal((4, G.size_in)))
        wanted = G(m.numpy())
        for pending in (1, 2):
            looked_at.update(checked=0, from_rank_0=0)
            y = layer(m)
            assert looked_at == {"checked": 1, "from_rank_0": 1}, f"forward pass {pending}"
        close(y, wanted)
    if teams is not None:
        teams.close()


def test_cubing_a_number():
    """d(a^3)/da at 1 and at 3, backwards after both forward passes: 3 and 27, not 27 twice."""
    a = torch.tensor([1.0], dtype=torch.float64).requires_grad_()
    b = torch.tensor([3.0], dtype=torch.float64).requires_grad_()
    with Bench(Cube).replicated as G:
        layer = SolutionLayer(G)
        first, second = layer(a), layer(b)
        second.sum().backward()
        first.sum().backward()
    np.testing.assert_allclose([a.grad.item(), b.grad.item()], [3.0, 27.0], rtol=1e-12)


class Cube:
    """y = c^3, the mean of the solution of u = c^3 on an interval."""

    make = staticmethod(problems.cube)
    domain = staticmethod(lambda comm: meshes.interval(4, comm=comm))
    observe = staticmethod(problems.mean)


@pytest.mark.ranks(2)
def test_torch_has_one_thread_a_rank():
    assert COMM.size > 1 and torch.get_num_threads() == 1


# -- what torch does with any module -----------------------------------------------------------------------------------


@pytest.fixture
def network():
    """Numbers, a layer of weights, physics; three samples."""
    problem = pdes.poisson.diffusion(meshes.unit_square(3), source=10.0)
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    torch.manual_seed(0)
    weights = torch.nn.Linear(4, G.size_in, dtype=torch.float64)
    return torch.nn.Sequential(weights, SolutionLayer(G)), torch.randn(3, 4, dtype=torch.float64)


def test_copies_share_the_map(network):
    """Ensembles and averages of weights: the physics is there once."""
    net, x = network
    for twin in (copy.deepcopy(net), torch.optim.swa_utils.AveragedModel(net).module):
        assert twin[1].G is net[1].G and twin[0].weight is not net[0].weight
        same(twin(x).detach().numpy(), net(x).detach().numpy())
        twin[0].weight.data.mul_(2.0)
        assert not torch.equal(twin(x), net(x))


@pytest.mark.parametrize("how", [pickle.dumps, lambda net: torch.save(net, io.BytesIO())], ids=["pickle", "save"])
def test_a_layer_is_not_pickled(network, how):
    with pytest.raises(BadInput, match="ReducedMap: cannot be pickled .*state_dict"):
        how(network[0])
    problem = pdes.poisson.source(meshes.unit_square(2))
    with pytest.raises(BadInput, match="DenseMap: cannot be pickled"):
        how(DenseMap(ReducedMap(problem, FieldValues(problem.state.function_space))))


@pytest.mark.parametrize(
    "record",
    [
        lambda layer, m: torch.func.linearize(layer, m)[1](m),
        lambda layer, m: make_fx(layer)(m),
        lambda layer, m: torch.jit.trace(layer, m),
    ],
    ids=["linearize", "make_fx", "jit"],
)
def test_what_records_operations_is_refused(network, record):
    """It gave numbers from memory that nobody had written, or made a constant of the solution."""
    layer = network[0][1]
    with pytest.raises(BadInput, match=r"records operations here .*torch\.func\.jvp"):
        record(layer, torch.zeros(layer.size_in, dtype=torch.float64))


def test_tensors_without_values_are_refused(network):
    layer = network[0][1]
    with pytest.raises(BadInput, match="meta tensor"):
        layer(torch.empty(layer.size_in, dtype=torch.float64, device="meta"))
    with FakeTensorMode(), pytest.raises(BadInput, match="fake tensor"):
        layer(torch.empty(layer.size_in, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compile_goes_around_it(network):
    """A break in the graph; values and gradients are those without it."""
    net, x = network
    gradients = {}
    for name, forward in (("plain", net), ("compiled", torch.compile(net, backend="aot_eager"))):
        net.zero_grad()
        y = forward(x)
        (y**2).sum().backward()
        gradients[name] = y.detach().numpy(), net[0].weight.grad.numpy().copy()
    for compiled, plain in zip(gradients["compiled"], gradients["plain"], strict=True):
        close(compiled, plain, 1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("record", ["fullgraph", "export"])
def test_one_graph_is_refused_in_words(network, record):
    net, x = network
    torch._dynamo.reset()
    with pytest.raises(Exception, match="torch.compile without fullgraph=True goes around the layer"):
        if record == "fullgraph":
            torch.compile(net, backend="aot_eager", fullgraph=True)(x)
        else:
            torch.export.export(net, (x,), strict=True)
