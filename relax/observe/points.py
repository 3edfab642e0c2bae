"""Values at points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
from dolfinx import fem, la

from relax.base import parallel
from relax.base.fem.points import CellFinder, as_points, check_found
from relax.base.fem.subspace import StatePart
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import Observable


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
        self._part = StatePart(V)
        if self._part.space.num_sub_spaces > 0 and self._part.space.dofmap.bs == 1:
            raise BadProblem(
                "PointValues: a mixed space has no value at a point; name a field of it, such as "
                "problem.state.function_space.sub(0), and put several together with Stack"
            )
        domain = V.mesh
        self._comm = domain.comm
        self.points = as_points(domain, points)
        cells, found = CellFinder(domain).owning_cells(self.points)
        check_found(self.points, found, domain.geometry.dim)
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
