"""A mesh of simplices with every cell cut into cells of half its width, all alike: errors on the two compare."""

from __future__ import annotations

from itertools import combinations

import basix.ufl
import numpy as np
from dolfinx import fem, mesh

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.cells import cell_numbers
from relax.base.types import Array, Indices
from relax.errors import BadInput

# Children of a point, an interval, a triangle, a tetrahedron: their corners, those of the parent and then midpoints of
# its edges 01, 02, ..., 12, ... J. Bey, Computing 55 (1995), for the tetrahedron.
_CHILDREN = {
    0: [[0]],
    1: [[0, 2], [2, 1]],
    2: [[0, 3, 4], [3, 1, 5], [4, 5, 2], [3, 5, 4]],
    3: [
        [0, 4, 5, 6], [4, 1, 7, 8], [5, 7, 2, 9], [6, 8, 9, 3],
        [4, 5, 6, 8], [4, 5, 7, 8], [5, 6, 8, 9], [5, 7, 8, 9],
    ],
}  # fmt: skip


def halved(V: fem.FunctionSpace) -> fem.FunctionSpace:
    """The same space on a mesh of half the width, the same on any number of ranks.

    Collective. ``dolfinx.mesh.refine`` halves edges in turn, so that triangles lie to each other in another way, and
    gives no interval on several ranks [DOLFINx 0.9].

    Raises:
        BadInput: unless the cells are straight simplices that fill their space.
    """
    domain = V.mesh
    d, gdim, dofs = domain.topology.dim, domain.geometry.dim, domain.geometry.dofmap
    if (
        domain.topology.cell_name() not in ("interval", "triangle", "tetrahedron")
        or dofs.shape[1] != d + 1
        or d != gdim
    ):
        raise BadInput(
            "symbolic.solve: expected a mesh of straight intervals, triangles or tetrahedra, of the dimension of its "
            f"space, got cells of kind {domain.topology.cell_name()} with {dofs.shape[1]} nodes in dimension {gdim}"
        )
    num_cells = domain.topology.index_map(d).size_local
    corners = np.asarray(domain.geometry.input_global_indices, dtype=np.int64)[dofs[:num_cells]]
    places = domain.geometry.x[dofs[:num_cells], :gdim].reshape(num_cells, -1)
    rows = np.hstack([cell_numbers(domain)[:num_cells, None], corners, places])
    rows = parallel.gather_rows(domain.comm, rows.astype(np.float64))
    cells, points = np.zeros((0, d + 1), dtype=np.int64), np.zeros((0, gdim))
    if domain.comm.rank == 0:
        # Whole numbers below 2**53 are floats.
        rows = rows[np.argsort(rows[:, 0])]
        cells, points = _cut(rows[:, 1 : d + 2].astype(np.int64), rows[:, d + 2 :].reshape(len(rows), d + 1, gdim))
    finer = mesh.create_mesh(
        domain.comm,
        cells=cells,
        x=points,
        e=basix.ufl.element("Lagrange", domain.topology.cell_name(), 1, shape=(gdim,)),
        partitioner=compat.cell_partitioner(mesh.GhostMode.shared_facet),
    )
    return fem.functionspace(finer, V.ufl_element())


def children(places: Array) -> Array:
    """Corners (n 2^d, d + 1, gdim) of the children of simplices with corners at (n, d + 1, gdim). Local."""
    parts = _with_middles(places)[:, _CHILDREN[places.shape[1] - 1]]
    return parts.reshape(-1, *places.shape[1:])


def _with_middles(places: Array) -> Array:
    """Corners (n, d + 1, gdim) of simplices, and after them the midpoints of their edges."""
    pairs = combinations(range(places.shape[1]), 2)
    return np.concatenate([places, *(0.5 * (places[:, i] + places[:, j])[:, None] for i, j in pairs)], axis=1)


def _cut(cells: Indices, places: Array) -> tuple[Indices, Array]:
    """Cells (n 2^d, d + 1) and points of children of cells (n, d + 1) with corners at (n, d + 1, gdim)."""
    pairs = list(combinations(range(cells.shape[1]), 2))
    # A corner is an edge from itself to itself: midpoints and corners are numbered alike.
    ends = np.stack([cells[:, [i, j]] for i, j in [*((i, i) for i in range(cells.shape[1])), *pairs]], axis=1)
    middles = _with_middles(places)
    _, first, number = np.unique(np.sort(ends, axis=2).reshape(-1, 2), axis=0, return_index=True, return_inverse=True)
    children = number.reshape(ends.shape[:2])[:, _CHILDREN[cells.shape[1] - 1]]
    return children.reshape(-1, cells.shape[1]), middles.reshape(-1, places.shape[2])[first]
