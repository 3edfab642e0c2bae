"""A mesh as a graph, for networks that pass messages along its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from dolfinx import fem
from dolfinx.mesh import Mesh
from torch import Tensor

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.layout import SpaceLayout


@dataclass(frozen=True)
class Graph:
    """The vertices of a mesh and its edges, each edge once in each direction.

    Attributes:
        nodes: (n, gdim) float64, the vertices' coordinates.
        edges: (2, e) int64, the nodes that an edge leads from and to, PyTorch Geometric's ``edge_index``.
        vectors: (e, gdim) float64, from the one node to the other.
    """

    nodes: Tensor
    edges: Tensor
    vectors: Tensor


def graph(mesh: Mesh) -> Graph:
    """The graph of a mesh, the same on each rank and on any number of them.

    Collective. Nodes have the order of ``FieldValues`` of a scalar Lagrange space of degree 1: values of such a field
    are features of nodes as they are. Edges are sorted by the node they lead from, then by the one they lead to. Curved
    cells count by their vertices.

    Args:
        mesh: of any cells, in one to three dimensions.
    """
    of_kind(mesh, Mesh, "a mesh", "graph")
    V = fem.functionspace(mesh, ("Lagrange", 1))
    layout = SpaceLayout(V)
    x = V.tabulate_dof_coordinates()[: layout.num_owned, : mesh.geometry.dim]
    nodes = layout.gather(np.ascontiguousarray(x.T)).T

    topology = mesh.topology
    topology.create_entities(1)
    for dims in ((1, 0), (topology.dim, 0)):
        topology.create_connectivity(*dims)
    cells = topology.connectivity(topology.dim, 0)
    node_of = np.empty(topology.index_map(0).size_local + topology.index_map(0).num_ghosts, dtype=np.int64)
    node_of[cells.array] = layout.spread(np.arange(layout.size, dtype=np.float64))[V.dofmap.list.ravel()]
    ends = topology.connectivity(1, 0).array.reshape(-1, 2)[: topology.index_map(1).size_local]
    one_way = parallel.gather_rows(mesh.comm, node_of[ends].astype(np.float64)).astype(np.int64)
    both = np.concatenate([one_way, one_way[:, ::-1]])
    edges = both[np.lexsort((both[:, 1], both[:, 0]))].T
    return Graph(
        torch.from_numpy(np.ascontiguousarray(nodes)),
        torch.from_numpy(np.ascontiguousarray(edges)),
        torch.from_numpy(nodes[edges[1]] - nodes[edges[0]]),
    )
