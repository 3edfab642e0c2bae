"""Values at points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
from dolfinx import fem, geometry, la, mesh

from relax import parallel
from relax.errors import BadInput, BadProblem, PointsOutsideMesh
from relax.observe.base import Array, Observable
from relax.observe.subspace import Part

_NOWHERE = np.iinfo(np.int64).max
# How far outside every cell a point may lie, as a fraction of the mesh's extent, before it counts as outside: the last
# digits of a point on the boundary.
_SLACK = 1e-10
_NAMED = 5


def _points(domain: mesh.Mesh, points: npt.ArrayLike) -> Array:
    """Points as (num_points, 3), rank 0's on every rank. Collective."""
    gdim = domain.geometry.dim
    error: BadInput | None = None
    array = np.empty((0, gdim))
    try:
        array = np.asarray(points, dtype=np.float64)
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


def _owning_cells(domain: mesh.Mesh, points: Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """For each point the cell of this rank that owns it (-1 where another rank does), and whether any does. Collective.

    Of all cells that touch a point, the one that came first in the mesh file owns it: one cell, one rank, and the same
    on any number of ranks, which a value of a discontinuous field needs.
    """
    tdim = domain.topology.dim
    num_owned = domain.topology.index_map(tdim).size_local
    x = domain.geometry.x
    low = np.full(3, np.inf) if len(x) == 0 else x.min(axis=0)
    high = np.full(3, -np.inf) if len(x) == 0 else x.max(axis=0)
    low, high = parallel.smallest(domain.comm, low), -parallel.smallest(domain.comm, -high)
    slack = _SLACK * float(np.max(high - low))
    original = np.full(len(points), _NOWHERE, dtype=np.int64)
    mine = np.full(len(points), -1, dtype=np.int32)
    if num_owned > 0:
        tree = geometry.bb_tree(domain, tdim, padding=slack, entities=np.arange(num_owned, dtype=np.int32))
        candidates = geometry.compute_collisions_points(tree, points)
        colliding = geometry.compute_colliding_cells(domain, candidates, points)
        for i in range(len(points)):
            cells = colliding.links(i)
            if len(cells) == 0 and len(candidates.links(i)) > 0:
                cells = _within(domain, candidates.links(i), points[i], slack)
            if len(cells) > 0:
                numbers = domain.topology.original_cell_index[cells]
                original[i], mine[i] = numbers.min(), cells[np.argmin(numbers)]
    first = parallel.smallest(domain.comm, original)
    mine[original != first] = -1
    return mine, first != _NOWHERE


def _within(domain: mesh.Mesh, cells: npt.NDArray[np.int32], point: Array, slack: float) -> npt.NDArray[np.int32]:
    """Those of ``cells`` that are within ``slack`` of the point."""
    repeated = np.repeat(point[None, :], len(cells), axis=0)
    squared = geometry.squared_distance(domain, domain.topology.dim, np.asarray(cells, dtype=np.int32), repeated)
    return np.asarray(cells)[np.asarray(squared) <= slack**2]


def points_inside(domain: mesh.Mesh, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points lie in the mesh, its boundary included.

    Collective.

    Args:
        domain: the mesh.
        points: (num_points, gdim) coordinates; rank 0's count.

    Returns:
        (num_points,) booleans, the same on every rank.
    """
    return _owning_cells(domain, _points(domain, points))[1]


class PointValues(Observable):
    """The state at points: y = (u(x_1), u(x_2), ...), components of a vector field side by side.

    Collective. Each point is evaluated by exactly one rank, and y is in the order of ``points`` on every rank.

    Args:
        V: the state's space, or a subspace ``problem.state.function_space.sub(i)``.
        points: (num_points, gdim) coordinates; the same array on every rank (rank 0's counts).

    Attributes:
        points: (num_points, 3).
        matrix: this rank's rows of B over its owned and ghost degrees of freedom, (num_own_rows, num_local), sparse.
        rows: the entries of y that those rows give.

    Raises:
        PointsOutsideMesh: on every rank, naming the points.
    """

    is_linear = True

    def __init__(self, V: fem.FunctionSpace, points: npt.ArrayLike) -> None:
        self._part = Part(V)
        if self._part.space.num_sub_spaces > 0 and self._part.space.dofmap.bs == 1:
            raise BadProblem(
                "PointValues: a mixed space has no value at a point; name a field of it, such as "
                "problem.state.function_space.sub(0), and put several together with Stack"
            )
        domain = V.mesh
        self._comm = domain.comm
        self.points = _points(domain, points)
        cells, found = _owning_cells(domain, self.points)
        if not found.all():
            outside = self.points[~found][:, : domain.geometry.dim]
            which = np.flatnonzero(~found)
            names = ", ".join(f"{which[i]}: {tuple(map(float, outside[i]))}" for i in range(min(len(which), _NAMED)))
            more = f" and {len(outside) - _NAMED} more" if len(outside) > _NAMED else ""
            raise PointsOutsideMesh(
                f"{len(outside)} of {len(found)} points lie outside the mesh: {names}{more}. "
                "relax.observe.points_inside tells which to leave out"
            )
        mine = np.flatnonzero(cells >= 0)
        components = int(np.prod(self._part.space.value_shape, dtype=np.int64))
        self.size = len(self.points) * components
        self.rows = (mine[:, None] * components + np.arange(components)).ravel()
        self.matrix = self._evaluation_matrix(self.points[mine], cells[mine], components, V)
        self._transposed = self.matrix.T.tocsr()
        self._work: fem.Function | None = None

    def _evaluation_matrix(
        self, points: Array, cells: npt.NDArray[np.int32], components: int, V: fem.FunctionSpace
    ) -> scipy.sparse.csr_matrix:
        """Rows of B, found by evaluating basis functions, so that any element DOLFINx knows will do.

        Points are taken in groups in which no two cells share a degree of freedom: then one evaluation gives the n-th
        basis function of every cell of the group at once.
        """
        space = self._part.space
        dofmap, block = space.dofmap, space.dofmap.bs
        basis = fem.Function(space)
        rows, columns, values = [], [], []
        left = list(range(len(points)))
        while left:
            taken: set[int] = set()
            group: list[int] = []
            later: list[int] = []
            for i in left:
                dofs = dofmap.cell_dofs(cells[i]).tolist()
                (later if taken.intersection(dofs) else group).append(i)
                taken.update(dofs)
            left = later
            at, where = points[group], cells[group]
            cell_dofs = dofmap.list[where]
            for j in range(cell_dofs.shape[1] * block):
                dofs = cell_dofs[:, j // block] * block + j % block
                basis.x.array[:] = 0.0
                basis.x.array[dofs] = 1.0
                found = np.asarray(basis.eval(at, where)).reshape(len(group), components)
                rows.append((np.array(group)[:, None] * components + np.arange(components)).ravel())
                columns.append(np.repeat(dofs, components))
                values.append(found.ravel())
        num_local = self._num_state_local(V)
        if not rows:
            return scipy.sparse.csr_matrix((0, num_local))
        column = self._part.in_state(np.concatenate(columns).astype(np.int32))
        value = np.concatenate(values)
        matrix = scipy.sparse.csr_matrix(
            (value, (np.concatenate(rows), column)), shape=(len(points) * components, num_local)
        )
        matrix.eliminate_zeros()
        return matrix

    @staticmethod
    def _num_state_local(V: fem.FunctionSpace) -> int:
        """Owned and ghost values of the whole state; a subspace shares its parent's index map."""
        index_map = V.dofmap.index_map
        return int((index_map.size_local + index_map.num_ghosts) * V.dofmap.index_map_bs)

    def value(self, u: fem.Function) -> Array:
        y = np.zeros(self.size)
        y[self.rows] = self.matrix @ u.x.array
        return parallel.sum_over_ranks(self._comm, y)

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        return self.value(du)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        if self._work is None:
            self._work = fem.Function(u.function_space)
        dual = self._work.x
        dual.array[:] = self._transposed @ dy[self.rows]
        dual.scatter_reverse(la.InsertMode.add)
        index_map = u.function_space.dofmap.index_map
        return dual.array[: index_map.size_local * u.function_space.dofmap.index_map_bs].copy()

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        V = u.function_space
        return np.zeros(V.dofmap.index_map.size_local * V.dofmap.index_map_bs)

    def check_state(self, state: fem.Function) -> None:
        self._part.check(state, "PointValues")
