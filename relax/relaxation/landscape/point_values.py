"""Fields given by nodal values, at points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.points import CellFinder, as_points, check_found
from relax.base.types import Array


class PointEvaluator:
    """Evaluates fields of one Lagrange element at points that move. Collective, as are its methods.

    Args:
        V: a scalar Lagrange space: nodes of fields with several components are the same.

    Attributes:
        space: V.
        dim: of the points.
    """

    def __init__(self, V: fem.FunctionSpace) -> None:
        self.space = V
        self.dim = V.mesh.geometry.dim
        self._finder = CellFinder(V.mesh)
        self._carriers: dict[int, fem.Function] = {}
        self._last: tuple[Array, npt.NDArray[np.int32], npt.NDArray[np.bool_]] | None = None

    def values(self, nodal: Array, x: npt.ArrayLike) -> Array:
        """Values at points, (n, components), on every rank.

        Args:
            nodal: (num_local, components).
            x: (n, d) points, the same on every rank; rank 0's count.

        Raises:
            PointsOutsideMesh: on every rank, naming the points.
        """
        size = nodal.shape[1]
        if np.size(x) == 0:
            return np.empty((0, size))
        points, cells, is_inside = self._located(x)
        check_found(points, is_inside, self.dim)
        carrier = self._carrier(size)
        carrier.x.array[:] = nodal.ravel()
        values = np.zeros((len(points), size))
        mine = np.flatnonzero(cells >= 0)
        if len(mine):
            values[mine] = np.asarray(carrier.eval(points[mine], cells[mine])).reshape(len(mine), size)
        return parallel.sum_over_ranks(self.space.mesh.comm, values)

    def contains(self, x: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which points lie in the mesh, (n,)."""
        return self._located(x)[2]

    def _located(self, x: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Points (n, 3), the cell of this rank that owns each or -1, and whether any rank has one."""
        points = as_points(self.space.mesh, x)
        # Several fields are asked for at the same points, one after the other.
        if self._last is None or not np.array_equal(self._last[0], points):
            self._last = (points, *self._finder.owning_cells(points))
        return self._last

    @property
    def box(self) -> tuple[Array, Array]:
        """The corners of the mesh's bounding box, (d,) each. Local."""
        return self._finder.low[: self.dim], self._finder.high[: self.dim]

    def clipped(self, x: Array) -> Array:
        """Points with each coordinate moved into the mesh's bounding box. Local."""
        return np.clip(x, *self.box)

    def _carrier(self, size: int) -> fem.Function:
        if size not in self._carriers:
            V = self.space
            blocked = fem.functionspace(V.mesh, ("Lagrange", V.ufl_element().degree, (size,)))
            # DOLFINx numbers the nodes of an element and of several of it side by side alike.
            assert np.array_equal(blocked.dofmap.list, V.dofmap.list)
            self._carriers[size] = fem.Function(blocked)
        return self._carriers[size]
