"""Fields from samples: the nodes that span their prior, and what is said where these are too few."""

from __future__ import annotations

import numpy as np
import pytest
from contract import close
from discovery_cases import PI, line
from dolfinx import fem
from mpi4py import MPI

from relax import meshes
from relax.discovery import FieldPosterior
from relax.discovery.fields import Lengths, _chosen, _functions

COMM = MPI.COMM_WORLD


def lost(k, few, x):
    """The mean share of the variance at x that functions seen from a few nodes leave out."""
    at_x, _ = _functions(k, few, x)
    return 1.0 - float((at_x**2).sum(axis=1).mean())


def test_nodes_that_span_a_prior():
    """On a mesh with most of its nodes in a corner, 300 at even steps of their order lose a hundred times as much."""
    a = np.linspace(0.0, 1.0, 25) ** 3
    nodes = np.stack(np.meshgrid(a, a, indexing="ij"), axis=-1).reshape(-1, 2)
    k = Lengths(0.2, 1.0, 1.0).of_space
    few = _chosen(nodes, k)
    assert len(few) == len(np.unique(few, axis=0)) == 300
    assert lost(k, few, nodes) < 1e-4 and lost(k, nodes[::3], nodes) > 1e-3
    # No more than it takes.
    assert len(_chosen(nodes, Lengths(20.0, 1.0, 1.0).of_space)) < 100


def field_in(V, wave, noise, num_times):
    """From 100 samples of cos(2πt) sin(wave x)."""
    rng = np.random.default_rng(0)
    x, t = rng.uniform(0.0, 1.0, (100, V.mesh.geometry.dim)), rng.uniform(0.0, 1.0, 100)
    values = np.cos(2 * PI * t) * np.sin(wave * x[:, 0]) + noise * rng.standard_normal(100)
    return FieldPosterior(V, (x, t, values), noise=noise, times=np.linspace(0.0, 1.0, num_times))


@pytest.mark.ranks(2, 3)
def test_more_nodes_than_span_it_on_any_number_of_ranks():
    """A mesh whose symmetry the last bits of coordinates break: the nodes chosen, and so the draws, are the same."""
    made = []
    for comm in (COMM, MPI.COMM_SELF):
        field = field_in(fem.functionspace(meshes.unit_square(9, comm=comm), ("Lagrange", 2)), 2.0, 0.05, 2)
        made.append((field.mean, field.sample(2, seed=5)))
    for here, alone in zip(*made, strict=True):
        close(here, alone, 1e-6)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("cells", "num_times", "said"),
    [(24, 17, ""), (2, 17, "5 of 5 nodes and 17 times leave out"), (24, 3, "49 of 49 nodes and 3 times leave out")],
)
def test_too_few_nodes_or_times_are_named(caplog, cells, num_times, said):
    """Four waves on five nodes, a period on three times: the field is not known as well as its posterior says."""
    field_in(line(cells), 8 * PI, 0.05, num_times)
    assert COMM.rank > 0 or (said in caplog.text and bool(said) == ("known less well" in caplog.text))
