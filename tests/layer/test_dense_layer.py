"""SolutionLayer(dense=True): the layer's contract, teams; and how many solves a block of directions takes."""

from __future__ import annotations

import dense_problems
import numpy as np
import problems
import pytest
import torch
from contract import COMM, Bench, close
from layer_contract import LayerContract
from mpi4py import MPI

import relax
from relax import BadInput, ComplexLayer, FieldValues, ReducedMap, SolutionLayer, meshes, pdes
from relax.engine.dense import DenseMap, DensePoints


@pytest.mark.ranks(1)
class DenseLayerContract(LayerContract):
    observe = staticmethod(dense_problems.seen)

    @pytest.fixture
    def layer(self, bench):
        torch.manual_seed(0)
        return SolutionLayer(bench.replicated, dense=True)

    def test_rank_0s_control_counts_once(self, bench, layer):
        """Of one rank there is nothing to choose; and the map's own bits are not asked for."""
        m, w = torch.from_numpy(bench.controls(1)[0]).requires_grad_(), torch.from_numpy(bench.seeds())
        y = layer(m)
        y.backward(w)
        with bench.replicated.linearize(m.detach().numpy()) as lin:
            close(y.detach(), lin.value, 1e-11)
            close(m.grad, lin.vjp(w.numpy()), 1e-11)


class TestDipole(DenseLayerContract):
    make = staticmethod(dense_problems.dipole)


class TestAdvection(DenseLayerContract):
    make = staticmethod(dense_problems.advection)


def wave_layer(comm, teams=None, **options):
    problem = dense_problems.wave(meshes.unit_square(2, comm=comm))
    return SolutionLayer(ReducedMap(problem, FieldValues(problem.state.function_space)), teams=teams, **options)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("samples", [1, 5])
def test_batch_over_teams_equals_one_process(samples):
    teams = relax.Teams(COMM, 1)
    shared, alone = wave_layer(teams.space, teams, dense=True), wave_layer(MPI.COMM_SELF)
    m = torch.as_tensor(0.3 * np.random.default_rng(3).normal(size=(samples, alone.size_in))).requires_grad_()
    results = []
    for physics in (shared, alone):
        y = physics(m)
        (g,) = torch.autograd.grad((y**2).sum(), m, create_graph=True)
        (h,) = torch.autograd.grad((g**2).sum(), m)
        results.append([t.detach().numpy() for t in (y, g, h)])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, 1e-11)
    shared.G.close()
    alone.G.close()
    teams.close()


def test_jacobians_of_a_batch_are_one_sweep(monkeypatch):
    """vmap over cotangents brings all of them, of all samples, to one product at the points of the forward pass."""
    layer = wave_layer(MPI.COMM_SELF, dense=True)
    calls = []
    for name in ("_march", "_vjp"):
        original = getattr(DensePoints, name)
        monkeypatch.setattr(
            DensePoints,
            name,
            lambda self, *a, name=name, original=original: (calls.append(name), original(self, *a))[1],
        )
    m = torch.from_numpy(np.random.default_rng(0).standard_normal((4, layer.size_in))).requires_grad_()
    y = layer(m)
    units = torch.eye(layer.size_out, dtype=torch.float64)
    J = torch.func.vmap(lambda w: torch.autograd.grad(y, m, w.expand_as(y), retain_graph=True)[0])(units)
    assert calls == ["_march", "_vjp"]
    for i in range(4):
        with layer.G.linearize(m[i].detach().numpy()) as lin:
            close(J[:, i], lin.matrix(), 1e-11)
    layer.G.close()


def test_complex_layer():
    """The same numbers as pairs."""
    problem = dense_problems.wave(meshes.unit_square(2, comm=MPI.COMM_SELF))
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    m = torch.from_numpy(np.random.default_rng(0).standard_normal((2, G.size_in)))
    y = ComplexLayer(G, dense=True)(m)
    assert y.dtype == torch.complex128
    close(torch.view_as_real(y).flatten(-2), G(m.numpy()), 1e-11)
    G.close()


def test_a_map_that_cannot_is_refused():
    problem = pdes.poisson.diffusion(meshes.unit_square(2, comm=MPI.COMM_SELF))
    with pytest.raises(BadInput, match="without dense=True"):
        SolutionLayer(ReducedMap(problem, problems.field(problem)), dense=True)


# -- the layer without dense=True: whichever are fewer -----------------------------------------------------------------


class Advection:
    """Two numbers in, three out."""

    make = staticmethod(problems.advection_constant)
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    observe = staticmethod(problems.field)


class Source:
    """Many values in, three out, the same derivative everywhere."""

    make = staticmethod(pdes.poisson.source)
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    observe = staticmethod(problems.field)


@pytest.mark.parametrize(
    ("contract", "transform", "solves"),
    [
        # Three cotangents for two controls: two tangents for each of four samples.
        (Advection, torch.func.jacrev, {"tangent": 8, "adjoint": 0}),
        (Advection, torch.func.jacfwd, {"tangent": 8, "adjoint": 0}),
        # Twelve cotangents, and 64 directions, through one operator: three adjoints.
        (Source, torch.func.jacrev, {"tangent": 0, "adjoint": 3}),
        (Source, torch.func.jacfwd, {"tangent": 0, "adjoint": 3}),
    ],
)
def test_a_block_takes_as_few_solves_as_it_can(contract, transform, solves):
    bench = Bench(contract)
    G = bench.replicated
    m = torch.from_numpy(bench.controls(4))
    G.counts.update(tangent=0, adjoint=0)
    J = torch.func.vmap(transform(SolutionLayer(G)))(m)
    assert {name: G.counts[name] for name in solves} == solves
    for i in range(4):
        with G.linearize(m[i].numpy()) as lin:
            close(J[i], lin.vjp(np.eye(G.size_out)))
    bench.close()


@pytest.mark.ranks(2)
def test_a_mesh_on_several_ranks_is_refused():
    problem = pdes.poisson.source(meshes.unit_square(4))
    with pytest.raises(BadInput, match="COMM_SELF"):
        DenseMap(ReducedMap(problem, FieldValues(problem.state.function_space)))
    assert COMM.size > 1
