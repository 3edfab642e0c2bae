"""Meshes of simple domains, with their boundary parts tagged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dolfinx import mesh
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import as_number
from relax.base.types import Array
from relax.errors import BadInput
from relax.meshes.files import from_gmsh
from relax.meshes.sound import FAR
from relax.meshes.tags import Tags, set_tags

# (name, axis, at the upper end of it), by dimension; a part's number is its place in the list, from 1.
_X = [("left", 0, False), ("right", 0, True)]
_SIDES = {
    1: _X,
    2: [*_X, ("bottom", 1, False), ("top", 1, True)],
    3: [*_X, ("bottom", 2, False), ("top", 2, True), ("front", 1, False), ("back", 1, True)],
}
# More than any machine holds.
_MOST_CELLS = 10**12
_GHOSTS = mesh.GhostMode.shared_facet
_CELLS = {
    2: {"triangle": mesh.CellType.triangle, "quadrilateral": mesh.CellType.quadrilateral},
    3: {"tetrahedron": mesh.CellType.tetrahedron, "hexahedron": mesh.CellType.hexahedron},
}


def interval(n: int, ends: tuple[float, float] = (0.0, 1.0), *, comm: MPI.Comm = MPI.COMM_WORLD) -> mesh.Mesh:
    """The interval from ``ends[0]`` to ``ends[1]`` in ``n`` cells; tags 1 "left", 2 "right". Collective."""
    _checked_corners("interval", ends[:1], ends[1:], [n], 1)
    parallel.check_comm(comm)
    domain = mesh.create_interval(comm, n, list(ends), ghost_mode=_GHOSTS)
    return _tag_sides(domain, [ends[0]], [ends[1]])


def unit_square(n: int, *, cell: str = "triangle", comm: MPI.Comm = MPI.COMM_WORLD) -> mesh.Mesh:
    """The unit square in ``n`` by ``n`` squares, each two triangles or one quadrilateral; tags as :func:`rectangle`.

    Collective.
    """
    return rectangle((0.0, 0.0), (1.0, 1.0), (n, n), cell=cell, comm=comm)


def rectangle(
    lower: tuple[float, float],
    upper: tuple[float, float],
    n: tuple[int, int],
    *,
    cell: str = "triangle",
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> mesh.Mesh:
    """A rectangle in ``n[0]`` by ``n[1]`` parts; tags 1 "left", 2 "right", 3 "bottom", 4 "top".

    Collective.

    Args:
        lower: the corner at the lower left.
        upper: the corner at the upper right.
        n: how many parts along x and along y.
        cell: "triangle" or "quadrilateral".
        comm: the communicator of the mesh.
    """
    corners = _checked_corners("rectangle", lower, upper, n, 2)
    parallel.check_comm(comm)
    domain = mesh.create_rectangle(comm, corners, list(n), cell_type=_cell_type(cell, 2), ghost_mode=_GHOSTS)
    return _tag_sides(domain, lower, upper)


def unit_cube(n: int, *, cell: str = "tetrahedron", comm: MPI.Comm = MPI.COMM_WORLD) -> mesh.Mesh:
    """The unit cube in ``n`` x ``n`` x ``n`` cubes, each six tetrahedra or one hexahedron; tags as :func:`box`.

    Collective.
    """
    return box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (n, n, n), cell=cell, comm=comm)


def box(
    lower: tuple[float, float, float],
    upper: tuple[float, float, float],
    n: tuple[int, int, int],
    *,
    cell: str = "tetrahedron",
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> mesh.Mesh:
    """A box in ``n[0]`` by ``n[1]`` by ``n[2]`` parts, each six tetrahedra or one hexahedron.

    Collective. Tags: 1 "left" and 2 "right" (lowest and highest x), 3 "bottom" and 4 "top" (z), 5 "front" and 6 "back"
    (y).

    Args:
        lower: the corner with the lowest coordinates.
        upper: the corner with the highest.
        n: how many parts along x, y and z.
        cell: "tetrahedron" or "hexahedron".
        comm: the communicator of the mesh.
    """
    corners = _checked_corners("box", lower, upper, n, 3)
    parallel.check_comm(comm)
    domain = mesh.create_box(comm, corners, list(n), cell_type=_cell_type(cell, 3), ghost_mode=_GHOSTS)
    return _tag_sides(domain, lower, upper)


def disk(
    h: float,
    *,
    radius: float = 1.0,
    centre: tuple[float, float] = (0.0, 0.0),
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> mesh.Mesh:
    """A disk in triangles of size about ``h``, made by Gmsh; facet tag 1 "boundary", cell tag 1 "disk".

    Collective.
    """
    parallel.check_comm(comm)
    size, edge = as_number(radius), as_number(h)
    if not (0.0 < edge <= size <= FAR):
        raise BadInput(f"disk: expected 0 < h <= radius, got h={h!r} and radius={radius!r}")
    if (size / edge) ** 2 > _MOST_CELLS:
        raise BadInput(f"disk: expected at most {_MOST_CELLS:.0e} cells, got h={h!r} for radius={radius!r}")
    if np.shape(centre) != (2,) or not all(abs(as_number(x)) <= FAR for x in centre):
        raise BadInput(f"disk: expected two finite coordinates as its centre, got {centre!r}")

    def draw(gmsh: Any) -> None:
        geo = gmsh.model.geo
        x, y = centre
        middle = geo.addPoint(x, y, 0.0)
        rim = [geo.addPoint(x + radius * dx, y + radius * dy, 0.0, h) for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        arcs = [geo.addCircleArc(rim[i], middle, rim[(i + 1) % 4]) for i in range(4)]
        surface = geo.addPlaneSurface([geo.addCurveLoop(arcs)])
        geo.synchronize()
        gmsh.model.addPhysicalGroup(1, arcs, 1, "boundary")
        gmsh.model.addPhysicalGroup(2, [surface], 1, "disk")
        gmsh.model.mesh.generate(2)

    return from_gmsh(draw, "meshes.disk", comm)


def _tag_sides(domain: mesh.Mesh, lower: Sequence[float], upper: Sequence[float]) -> mesh.Mesh:
    """Tag the flat sides of a box; returns the mesh. Collective."""
    tdim = domain.topology.dim
    domain.topology.create_connectivity(tdim - 1, tdim)
    entities, numbers, names = [], [], {}
    for number, (name, axis, at_upper) in enumerate(_SIDES[tdim], start=1):
        place = (upper if at_upper else lower)[axis]
        near = 1e-10 * max(upper[axis] - lower[axis], abs(place))
        side = mesh.locate_entities_boundary(
            domain, tdim - 1, lambda x, axis=axis, place=place, near=near: np.abs(x[axis] - place) <= near
        )
        entities.append(side)
        numbers.append(np.full(side.size, number, dtype=np.int32))
        names[name] = number
    order = np.argsort(np.concatenate(entities))
    sides = mesh.meshtags(domain, tdim - 1, np.concatenate(entities)[order], np.concatenate(numbers)[order])
    set_tags(domain, Tags(facets=sides, facet_names=names))
    return domain


def _cell_type(cell: str, dim: int) -> mesh.CellType:
    if cell not in _CELLS[dim]:
        raise BadInput(f"cell: expected one of {', '.join(map(repr, _CELLS[dim]))}, got {cell!r}")
    return _CELLS[dim][cell]


def _checked_corners(
    what: str, lower: Sequence[float], upper: Sequence[float], n: Sequence[int], dim: int
) -> list[Array]:
    """Both corners of a box, lower below upper, that is to be cut into ``n`` parts in each of ``dim`` directions."""
    if any(np.shape(given) != (dim,) for given in (lower, upper, n)):
        raise BadInput(f"{what}: expected {dim} numbers each for both ends and n, got {lower}, {upper} and {n}")
    if not all(isinstance(k, int | np.integer) and k >= 1 for k in n):
        raise BadInput(f"{what}: expected a number of parts of at least 1 in each direction, got {tuple(n)}")
    if math.prod(int(k) for k in n) > _MOST_CELLS:
        raise BadInput(f"{what}: expected at most {_MOST_CELLS:.0e} parts in all, got {' x '.join(map(str, n))}")
    ends = np.array([[as_number(x) for x in corner] for corner in (lower, upper)])
    # NaN is in no order, and the cube of a longer coordinate is no number.
    if not (np.abs(ends) <= FAR).all() or not (ends[0] < ends[1]).all():
        raise BadInput(
            f"{what}: expected each lower coordinate below the upper one, of at most {FAR:.0e}, got {lower} and {upper}"
        )
    return list(ends)
