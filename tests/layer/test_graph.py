"""The graph of a mesh: Euler's formula, edges of known meshes, the same on all ranks and partitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import everyone_has, raised_everywhere
from dolfinx import fem

from relax import BadInput, FieldValues, graph, meshes

pytestmark = pytest.mark.ranks(1, 2, 3)


def triangles():
    pytest.importorskip("gmsh")
    return meshes.disk(0.4)


MESHES = {
    "interval": lambda: meshes.interval(5),
    "disk": triangles,
    "quadrilaterals": lambda: meshes.unit_square(3, cell="quadrilateral"),
    "tetrahedra": lambda: meshes.unit_cube(2),
    "hexahedra": lambda: meshes.unit_cube(2, cell="hexahedron"),
}


@pytest.mark.parametrize("name", MESHES)
def test_is_the_mesh(name):
    mesh = MESHES[name]()
    found = graph(mesh)
    topology = mesh.topology
    counts = []
    for dim in range(topology.dim + 1):
        topology.create_entities(dim)
        counts.append(topology.index_map(dim).size_global)
    # None of these has a hole.
    assert sum((-1) ** dim * count for dim, count in enumerate(counts)) == 1
    assert found.nodes.shape == (counts[0], mesh.geometry.dim)
    assert found.edges.shape == (2, 2 * counts[1]) and found.vectors.shape == (2 * counts[1], mesh.geometry.dim)
    assert torch.equal(found.vectors, found.nodes[found.edges[1]] - found.nodes[found.edges[0]])

    pairs = list(zip(*found.edges.tolist(), strict=True))
    assert pairs == sorted(set(pairs)) and {(b, a) for a, b in pairs} == set(pairs)
    assert all(a != b for a, b in pairs)
    everyone_has(found.edges.numpy())
    everyone_has(found.nodes.numpy())


def test_nodes_are_in_the_order_of_fields():
    mesh = meshes.unit_square(3)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u = fem.Function(V)
    u.interpolate(lambda x: x[0] + 10 * x[1])
    x, y = graph(mesh).nodes.T
    np.testing.assert_allclose(FieldValues(V).value(u), x + 10 * y, rtol=1e-14)


def test_edges_of_squares():
    """Every edge of the square's triangles leads to a neighbour by (1, 0), (0, 1) or (1, 1), and back."""
    found = graph(meshes.unit_square(3))
    steps = np.rint(3 * found.vectors.numpy()).astype(int)
    forwards = np.unique(steps[found.edges[0] < found.edges[1]], axis=0)
    np.testing.assert_array_equal(forwards, [[0, 1], [1, 0], [1, 1]])
    assert len(steps) == 2 * (3 * 9 + 2 * 3)


def test_another_thing_is_refused():
    assert "graph: expected a mesh" in str(raised_everywhere(BadInput, lambda: graph(np.zeros(3))))
