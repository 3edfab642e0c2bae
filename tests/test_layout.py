"""The order of vectors at the boundary: independent of the partition, and the way to the ranks' parts and back."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI

from relax import FieldValues, PointValues, ReducedMap, control_values, meshes, pdes
from relax.errors import BadInput
from relax.layout import Owned, Replicated, SpaceLayout, as_rows, control_layout

COMM = MPI.COMM_WORLD

MESHES = {
    "interval": lambda comm: meshes.interval(9, comm=comm),
    "triangles": lambda comm: meshes.unit_square(4, comm=comm),
    "quadrilaterals": lambda comm: meshes.unit_square(4, cell="quadrilateral", comm=comm),
    "tetrahedra": lambda comm: meshes.unit_cube(2, comm=comm),
    "hexahedra": lambda comm: meshes.unit_cube(2, cell="hexahedron", comm=comm),
    # Fewer cells than three ranks have need of: some own nothing.
    "one square": lambda comm: meshes.unit_square(1, comm=comm),
}
ELEMENTS = {
    "P1": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 1),
    "P2": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 2),
    "P3": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 3),
    "P1 vector": lambda cell, gdim: basix.ufl.element("Lagrange", cell, 1, shape=(gdim,)),
    "DG0": lambda cell, gdim: basix.ufl.element("DG", cell, 0),
    "DG1": lambda cell, gdim: basix.ufl.element("DG", cell, 1),
    "mixed": lambda cell, gdim: basix.ufl.mixed_element(
        [basix.ufl.element("Lagrange", cell, 2, shape=(gdim,)), basix.ufl.element("Lagrange", cell, 1)]
    ),
    "mixed twice": lambda cell, gdim: basix.ufl.mixed_element([basix.ufl.element("Lagrange", cell, 1)] * 2),
}


def space(domain, element):
    return fem.functionspace(domain, ELEMENTS[element](domain.basix_cell(), domain.geometry.dim))


def marked(V):
    """A function that is different in each degree of freedom, and the same function on any partition."""
    u = fem.Function(V)
    frequencies = np.array([[1.0], [np.sqrt(2.0)], [np.sqrt(3.0)]])
    parts = [u] if V.num_sub_spaces == 0 or V.dofmap.bs > 1 else [u.sub(i) for i in range(V.num_sub_spaces)]
    for i, part in enumerate(parts):
        size = int(np.prod(part.function_space.value_shape, dtype=np.int64))
        part.interpolate(lambda x, i=i, s=size: np.array([np.exp((frequencies * x).sum(0)) + 100 * i + 10 * j for j in range(s)]))
    if V.ufl_element().discontinuous:
        # Cells meet in a point, and their values there differ by the number that the mesh was made with.
        cells = V.mesh.topology.original_cell_index
        u.x.array[:] += np.repeat(np.asarray(cells, dtype=float), V.dofmap.list.shape[1])[np.argsort(V.dofmap.list.ravel())]
    u.x.scatter_forward()
    return u


def owned_part(u, layout):
    return u.x.array[: layout.num_owned]


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("name", MESHES)
def test_order_is_that_of_one_rank(name, element):
    """Partitions differ from run to run on several ranks; the order of a vector does not know them."""
    alone = MESHES[name](MPI.COMM_SELF)
    V = space(alone, element)
    reference = SpaceLayout(V)
    wanted = reference.gather(owned_part(marked(V), reference))
    together = space(MESHES[name](COMM), element)
    layout = SpaceLayout(together)
    found = layout.gather(owned_part(marked(together), layout))
    assert layout.size == reference.size == len(found)
    close(found, wanted, 1e-12)
    everyone_has(found)


@pytest.mark.parametrize("element", ["P2", "DG1", "mixed"])
def test_partition_given_by_hand(element):
    """The same mesh cut up differently: every other cell to the next rank."""

    def scattered(comm, num_parts, graph_or_types, *more):
        return dealt(comm, num_parts, graph_or_types)

    def dealt(comm, num_parts, cells):
        from dolfinx.graph import adjacencylist

        count = cells.num_nodes
        return adjacencylist((np.arange(count, dtype=np.int32) + comm.rank) % num_parts)._cpp_object

    del scattered
    n = 12
    x = np.array([[i / 3, j / 3] for j in range(4) for i in range(4)])
    squares = [[4 * j + i, 4 * j + i + 1, 4 * j + i + 4, 4 * j + i + 5] for j in range(3) for i in range(3)]
    assert n
    del dealt, squares, x
    V = space(meshes.unit_square(3, comm=COMM), element)
    W = space(mesh.create_unit_square(COMM, 3, 3, ghost_mode=mesh.GhostMode.none), element)
    first, second = SpaceLayout(V), SpaceLayout(W)
    close(first.gather(owned_part(marked(V), first)), second.gather(owned_part(marked(W), second)), 1e-12)
