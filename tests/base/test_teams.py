"""Samples over teams of ranks give the numbers of one process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mpi4py import MPI

import relax

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD
SENSORS = [[0.31, 0.42], [0.77, 0.23]]


def layer(comm, teams=None):
    problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(4, comm=comm))
    G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, SENSORS))
    return relax.SolutionLayer(G, teams=teams)


@pytest.mark.parametrize("samples", [1, 5])
def test_batch_over_teams_equals_one_process(samples):
    """Values, gradients, second derivatives; also with fewer samples than teams."""
    teams = relax.Teams(COMM, 1)
    shared, alone = layer(teams.space, teams), layer(MPI.COMM_SELF)
    m = torch.as_tensor(0.3 * np.random.default_rng(3).normal(size=(samples, alone.size_in))).requires_grad_()
    results = []
    for physics in (shared, alone):
        y = physics(m)
        (g,) = torch.autograd.grad((y**2).sum(), m, create_graph=True)
        (h,) = torch.autograd.grad((g**2).sum(), m)
        results.append([t.detach().numpy() for t in (y, g, h)])
    for ours, theirs in zip(*results, strict=True):
        # The same problem on the same single rank: only the batch is cut differently.
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13 * np.abs(theirs).max())
    shared.G.close()
    alone.G.close()
    teams.close()


def test_one_team_of_all_ranks():
    teams = relax.Teams(COMM, COMM.size)
    physics = layer(teams.space, teams)
    m = torch.zeros(3, physics.size_in, dtype=torch.float64)
    assert physics(m).shape == (3, 2)
    physics.G.close()
    teams.close()


def test_uneven_teams_are_refused():
    with pytest.raises(relax.BadInput, match="divisor"):
        relax.Teams(COMM, COMM.size + 1)


def test_a_map_on_another_communicator_is_refused():
    teams = relax.Teams(COMM, 1)
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(4, comm=MPI.COMM_SELF))
    G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space), layout="owned")
    with pytest.raises(relax.BadInput, match="replicated"):
        relax.SolutionLayer(G, teams=teams)
    G.close()
    teams.close()
