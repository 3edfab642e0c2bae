"""Functions on a part of a mesh as those of the whole one: which values are which."""

from __future__ import annotations

import numpy as np
import pytest
from contract import COMM
from dolfinx import fem, mesh

from relax import meshes
from relax.base.fem.extended import Extended
from relax.base.fem.forms import num_owned
from relax.base.fem.submeshes import part_of

pytestmark = pytest.mark.ranks(1, 2, 3)


@pytest.mark.parametrize(
    ("cell", "element"),
    [
        ("triangle", ("Lagrange", 3, (2,))),
        ("tetrahedron", ("Lagrange", 4)),
        ("hexahedron", ("Lagrange", 3)),
        ("interval", ("DG", 0)),
    ],
)
def test_values_go_to_their_places(cell, element):
    """Whatever nodes a facet has, and whoever owns them; facets are those of one rank, which others meet."""
    kind = mesh.CellType[cell]
    if kind == mesh.CellType.interval:
        domain = mesh.create_interval(COMM, 4, (1.0, 2.0))
    elif kind == mesh.CellType.triangle:
        domain = mesh.create_unit_square(COMM, 3, 3, kind)
    else:
        domain = mesh.create_unit_cube(COMM, 2, 2, 2, kind)
    dim = domain.topology.dim
    domain.topology.create_connectivity(dim - 1, dim)
    outer = mesh.exterior_facet_indices(domain.topology)
    parts = [meshes.submesh(domain, dim - 1, outer)]
    if COMM.size > 1 and dim > 1:
        parts.append(meshes.submesh(domain, dim - 1, outer if COMM.rank == COMM.size - 1 else outer[:0]))

    def f(x):
        values = np.sin(1.0 + x[0]) + x[1] * np.cos(2.0 * x[2] + x[0])
        return np.array([values, 2.0 - values]) if len(element) == 3 else values

    for part in parts:
        given = fem.Function(fem.functionspace(part, element))
        given.interpolate(f)
        e = Extended(given, part_of(part))
        everywhere, V, W = fem.Function(e.function.function_space), given.function_space, e.function.function_space
        everywhere.interpolate(f)
        expected = everywhere.x.array.copy()
        expected[e.off] = 0.0
        # Ghosts of the part need not be right.
        given.x.array[num_owned(V) :] = np.nan
        np.testing.assert_allclose(e.spread(given.x.array), expected, atol=1e-13)
        held = COMM.allreduce(num_owned(W) - np.count_nonzero(e.off < num_owned(W)))
        assert held == V.dofmap.index_map.size_global * V.dofmap.index_map_bs > 0
    if COMM.size > 1 and cell == "tetrahedron":
        assert COMM.allreduce(np.count_nonzero(e.dofs[: num_owned(V)] >= num_owned(W))) > 0  # other owners
        assert COMM.allreduce(len(e.function.x.array) - len(e.off) - len(e.dofs)) > 0  # known of the whole alone
