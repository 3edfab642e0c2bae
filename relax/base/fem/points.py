"""Which cell a point lies in, and which rank's it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from dolfinx import geometry, mesh

from relax.base import parallel
from relax.base.checks import array_like
from relax.base.fem.cells import cell_numbers
from relax.base.types import Array
from relax.errors import BadInput, PointsOutsideMesh

_NOWHERE = np.iinfo(np.int64).max
# How far outside every cell a point may lie, as a fraction of the mesh's extent, before it counts as outside: the last
# digits of a point on the boundary.
_SLACK = 1e-10
_NAMED = 5


def as_points(domain: mesh.Mesh, points: npt.ArrayLike) -> Array:
    """Points as (num_points, 3), rank 0's on every rank. Collective."""
    gdim = domain.geometry.dim
    error: BadInput | None = None
    array = np.empty((0, gdim))
    try:
        array = np.asarray(array_like(points, "points"), dtype=np.float64)
    except BadInput as refused:
        error = refused
    except (TypeError, ValueError) as cause:
        error = BadInput(f"points: expected coordinates, an array of shape (num_points, {gdim}): {cause}")
    if gdim == 1 and array.ndim == 1:
        array = array[:, None]
    if error is None and (array.ndim != 2 or array.shape[1] not in (gdim, 3) or len(array) == 0):
        error = BadInput(f"points: expected shape (num_points, {gdim}) with num_points > 0, got {array.shape}")
    elif error is None and not np.isfinite(array).all():
        error = BadInput("points: expected finite coordinates, got NaN or infinity")
    parallel.raise_together(domain.comm, error)
    array = parallel.of_rank_0(domain.comm, array)
    return np.pad(array, ((0, 0), (0, 3 - array.shape[1])))


def check_found(points: Array, found: npt.NDArray[np.bool_], gdim: int) -> None:
    """Refuse points of which some are in no cell; ``found`` is the same on every rank.

    Raises:
        PointsOutsideMesh: on every rank, naming the first of them.
    """
    if found.all():
        return
    outside = points[~found][:, :gdim]
    which = np.flatnonzero(~found)
    names = ", ".join(f"{which[i]}: {tuple(map(float, outside[i]))}" for i in range(min(len(which), _NAMED)))
    more = f" and {len(outside) - _NAMED} more" if len(outside) > _NAMED else ""
    raise PointsOutsideMesh(
        f"{len(outside)} of {len(found)} points lie outside the mesh: {names}{more}. "
        "relax.observe.points_inside tells which to leave out"
    )


class CellFinder:
    """Finds the cells of points. The search tree is made once, for the mesh as it is now. Collective to make.

    Args:
        domain: the mesh.

    Attributes:
        low, high: (3,) corners of the mesh's bounding box.
    """

    def __init__(self, domain: mesh.Mesh) -> None:
        self._domain = domain
        self.low, self.high = parallel.extremes(domain.comm, domain.geometry.x)
        self._slack = _SLACK * float(np.max(self.high - self.low))
        tdim = domain.topology.dim
        cells = np.arange(domain.topology.index_map(tdim).size_local, dtype=np.int32)
        self._tree = geometry.bb_tree(domain, tdim, padding=self._slack, entities=cells) if len(cells) else None

    def owning_cells(self, points: Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """For each point the cell of this rank that owns it (-1 where another rank does), and whether any does.

        Collective.

        Of all cells that touch a point, the one that came first in the mesh file owns it: one cell, one rank, and the
        same on any number of ranks, which a value of a discontinuous field needs.

        Args:
            points: (n, 3), the same on every rank.
        """
        mine, original = self._local_cells(points)
        first = parallel.smallest(self._domain.comm, original)
        mine[original != first] = -1
        return mine, first != _NOWHERE

    def _local_cells(self, points: Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The first of this rank's cells that touch each point, or -1, and its number in the mesh file. Local."""
        mine = np.full(len(points), -1, dtype=np.int32)
        original = np.full(len(points), _NOWHERE, dtype=np.int64)
        if self._tree is None or len(points) == 0:
            return mine, original
        candidates = geometry.compute_collisions_points(self._tree, points)
        colliding = geometry.compute_colliding_cells(self._domain, candidates, points)
        numbers = cell_numbers(self._domain)
        count = np.diff(colliding.offsets)
        touched = np.flatnonzero(count)
        if len(touched):
            cells = np.asarray(colliding.array)
            starts = np.asarray(colliding.offsets[:-1])[touched]
            original[touched] = np.minimum.reduceat(numbers[cells], starts)
            owner = np.repeat(np.arange(len(points)), count)
            is_first = numbers[cells] == original[owner]
            mine[owner[is_first]] = cells[is_first]
        # Rounding can put a point of the boundary outside every cell.
        for i in np.flatnonzero((count == 0) & (np.diff(candidates.offsets) > 0)):
            near = self._within(np.asarray(candidates.links(i)), points[i])
            if len(near) > 0:
                original[i], mine[i] = numbers[near].min(), near[np.argmin(numbers[near])]
        return mine, original

    def _within(self, cells: npt.NDArray[np.int32], point: Array) -> npt.NDArray[np.int32]:
        """Those of ``cells`` that are within the slack of the point."""
        repeated = np.repeat(point[None, :], len(cells), axis=0)
        squared = geometry.squared_distance(self._domain, self._domain.topology.dim, cells, repeated)
        return cells[np.asarray(squared) <= self._slack**2]


def owned_points(
    domain: mesh.Mesh, points: npt.ArrayLike
) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Points as (num_points, 3), which of them this rank has in a cell of its own, and these cells.

    Collective. Each point has one owner.

    Raises:
        PointsOutsideMesh: on every rank, naming the points.
    """
    given = as_points(domain, points)
    cells, found = CellFinder(domain).owning_cells(given)
    check_found(given, found, domain.geometry.dim)
    mine = np.flatnonzero(cells >= 0)
    return given, mine, cells[mine]


def points_inside(domain: mesh.Mesh, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points lie in the mesh, its boundary included.

    Collective.

    Args:
        domain: the mesh.
        points: (num_points, gdim) coordinates; rank 0's count.

    Returns:
        (num_points,) booleans, the same on every rank.
    """
    return CellFinder(domain).owning_cells(as_points(domain, points))[1]
