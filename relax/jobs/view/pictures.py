"""Pictures of distributed fields: the piecewise linear part, gathered on rank 0; in three dimensions a plane cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dolfinx import fem, mesh

from relax.base import parallel
from relax.base.types import Array, Indices
from relax.errors import BadInput

# DOLFINx numbers the vertices of a quadrilateral and a hexahedron row by row, not around.
_SIMPLICES = {
    mesh.CellType.interval: [[0, 1]],
    mesh.CellType.triangle: [[0, 1, 2]],
    mesh.CellType.quadrilateral: [[0, 1, 3], [0, 3, 2]],
    mesh.CellType.tetrahedron: [[0, 1, 2, 3]],
    mesh.CellType.hexahedron: [[0, 1, 3, 7], [0, 1, 5, 7], [0, 2, 3, 7], [0, 2, 6, 7], [0, 4, 5, 7], [0, 4, 6, 7]],
}
# Points closer than this fraction of the picture's width are one.
_SAME_POINT = 1e-9
_EDGES = np.array([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])


@dataclass(frozen=True)
class Picture:
    """A field that can be drawn.

    Attributes:
        points: (num_points, 1 or 2), each one once.
        triangles: (num_triangles, 3), or (num, 2) on a line.
        values: (num_points,).
        cut: where on its last axis a three-dimensional mesh was cut; None for others.
    """

    points: Array
    triangles: Indices
    values: Array
    cut: float | None = None

    @property
    def dim(self) -> int:
        """1 for a line, 2 for a surface."""
        return int(self.points.shape[1])

    def outline(self) -> Array:
        """The edges that belong to one triangle only, as (num_edges, 2 ends, 2 coordinates)."""
        edges = np.sort(self.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        each, count = np.unique(edges, axis=0, return_counts=True)
        return self.points[each[count == 1]]


def check_mesh(domain: mesh.Mesh, what: str) -> None:
    """Refuse a mesh that there is no picture of. Local; the same on every rank.

    Raises:
        BadInput: then.
    """
    cell, tdim, gdim = domain.topology.cell_type, domain.topology.dim, domain.geometry.dim
    if cell not in _SIMPLICES or tdim != gdim:
        names = ", ".join(kind.name for kind in _SIMPLICES)
        raise BadInput(
            f"{what}: expected a mesh of one of {names} that fills its space, got {cell.name} cells in {gdim} "
            "dimensions; DOLFINx's VTXWriter writes it for ParaView"
        )


def bounding_box(domain: mesh.Mesh) -> tuple[Array, Array]:
    """The lowest and highest coordinates of a mesh, each (gdim,), the same on every rank. Collective."""
    return parallel.extremes(domain.comm, domain.geometry.x[:, : domain.geometry.dim])


def gather(u: fem.Function) -> Picture | None:
    """The picture of a scalar field on rank 0, None on the others.

    Collective. The field is interpolated to degree 1, but on a line, where it keeps its degree, and, in three
    dimensions, cut half-way up the last axis.
    """
    drawn = fem.Function(drawing_space(u))
    drawn.interpolate(u)
    pictures = gather_values(drawn.function_space, drawn.x.array[None, :])
    return None if pictures is None else pictures[0]


def drawing_space(u: fem.Function) -> fem.FunctionSpace:
    """The space to interpolate a scalar field to for :func:`gather_values`. Collective."""
    domain = u.function_space.mesh
    degree = max(1, int(u.function_space.ufl_element().degree)) if domain.geometry.dim == 1 else 1
    return fem.functionspace(domain, ("Lagrange", degree))


def gather_values(V: fem.FunctionSpace, fields: Array) -> list[Picture] | None:
    """Pictures of several fields in one drawing space on rank 0, None on the others.

    Collective.

    Args:
        V: as :func:`drawing_space` makes it.
        fields: (num_fields, num_local) owned and ghost values.
    """
    domain = V.mesh
    gdim, comm = domain.geometry.dim, domain.comm
    num_cells = domain.topology.index_map(domain.topology.dim).size_local
    simplices = np.array(_SIMPLICES[domain.topology.cell_type])
    cells = V.dofmap.list[:num_cells].astype(np.int64)[:, simplices].reshape(-1, simplices.shape[1])
    points, values, cut = V.tabulate_dof_coordinates()[:, :gdim], fields.T, None
    if gdim == 3:
        low, high = bounding_box(domain)
        cut = 0.5 * float(low[2] + high[2])
        points, cells, values = cut_tetrahedra(points, cells, values, cut)
    parts = parallel.to_rank_0(comm, (points, cells, values))
    if parts is None:
        return None
    starts = np.cumsum([0, *(len(p) for p, _, _ in parts)])
    points = np.concatenate([p for p, _, _ in parts])
    cells = np.concatenate([c + start for (_, c, _), start in zip(parts, starts[:-1], strict=True)])
    values = np.concatenate([v for _, _, v in parts])
    # A point on the border of two ranks, or on an edge that several cells are cut through, came several times.
    grid = np.rint(points / (_SAME_POINT * max(float(np.ptp(points, axis=0).max(initial=0.0)), 1e-300)))
    _, first, place = np.unique(grid, axis=0, return_index=True, return_inverse=True)
    cells = place.reshape(-1)[cells]
    # A plane through a vertex or an edge of a cell cuts it in less than a triangle.
    ordered = np.sort(cells, axis=1)
    whole = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
    return [Picture(points[first], cells[whole], column, cut) for column in values[first].T]


def cut_tetrahedra(points: Array, cells: Indices, values: Array, level: float) -> tuple[Array, Indices, Array]:
    """Where the plane z = ``level`` meets tetrahedra, as triangles.

    Args:
        points: (num_points, 3).
        cells: (num_cells, 4).
        values: (num_points, ...), linear in each cell.
        level: the height of the plane.

    Returns:
        Points (n, 2), triangles (m, 3), values (n, ...).
    """
    above = points[cells, 2] > level
    crossing = above[:, _EDGES[:, 0]] != above[:, _EDGES[:, 1]]
    count = crossing.sum(axis=1)
    # A plane cuts three edges of a tetrahedron, or four; of four, in the order of _EDGES, the first and the last are
    # opposite corners of the quadrilateral.
    number = np.cumsum(crossing.ravel()).reshape(crossing.shape) - 1
    three = number[count == 3][crossing[count == 3]].reshape(-1, 3)
    four = number[count == 4][crossing[count == 4]].reshape(-1, 4)
    cell, edge = np.nonzero(crossing)
    a, b = cells[cell, _EDGES[edge, 0]], cells[cell, _EDGES[edge, 1]]
    t = (level - points[a, 2]) / (points[b, 2] - points[a, 2])
    where = points[a, :2] + t[:, None] * (points[b, :2] - points[a, :2])
    triangles = np.concatenate([three, four[:, [0, 1, 2]], four[:, [1, 2, 3]]])
    return where, triangles, values[a] + t.reshape(-1, *[1] * (values.ndim - 1)) * (values[b] - values[a])
