"""Values at points."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem, la

from relax.base import parallel
from relax.base.fem.forms import cell_dofs, num_owned
from relax.base.fem.points import owned_points
from relax.base.fem.subspace import StatePart
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import LinearObservable, Observable


class PointValues(LinearObservable):
    """The state at points: y = (u(x_1), u(x_2), ...), components of a vector field side by side.

    Collective. Each point is evaluated by exactly one rank, and y is in the order of ``points`` on every rank.

    Args:
        V: the state's space, or a subspace ``problem.state.function_space.sub(i)``.
        points: (num_points, gdim) coordinates; the same array on every rank (rank 0's counts).

    Attributes:
        points: (num_points, 3).
        rows: the entries of y that this rank gives.
        columns: (num_basis, num_own_rows) the owned and ghost degrees of freedom that each of them is a sum over.
        values: (num_basis, num_own_rows) the basis functions there.
        matrix: the same as rows of B over this rank's owned and ghost degrees of freedom, (num_own_rows, num_local),
            sparse.

    Raises:
        PointsOutsideMesh: on every rank, naming the points.
    """

    def __init__(self, V: fem.FunctionSpace, points: npt.ArrayLike) -> None:
        self._part = StatePart(V)
        self._dofmap = V.dofmap
        if self._part.space.num_sub_spaces > 0 and self._part.space.dofmap.bs == 1:
            raise BadProblem(
                "PointValues: a mixed space has no value at a point; name a field of it, such as "
                "problem.state.function_space.sub(0), and put several together with Stack"
            )
        domain = V.mesh
        self._comm = domain.comm
        if self._part.space.element.needs_dof_transformations:
            # DOLFINx does this, together, at the first evaluation; a rank may have no point to evaluate at.
            domain.topology.create_entity_permutations()
        self.points, mine, cells = owned_points(domain, points)
        components = int(np.prod(self._part.space.value_shape, dtype=np.int64))
        self.size = len(self.points) * components
        self.rows = (mine[:, None] * components + np.arange(components)).ravel()
        self.columns, self.values = self._basis_functions(self.points[mine], cells, components)
        self._work: fem.Function | None = None

    def _basis_functions(
        self, points: Array, cells: npt.NDArray[np.int32], components: int
    ) -> tuple[npt.NDArray[np.int32], Array]:
        """``columns`` and ``values``, found by evaluating basis functions, so that any element DOLFINx knows will do.

        Points are taken in groups in which no two cells share a degree of freedom: then one evaluation gives the n-th
        basis function of every cell of the group at once.
        """
        space = self._part.space
        basis = fem.Function(space)
        of_cells = cell_dofs(space, cells)
        values = np.zeros((len(points), components, of_cells.shape[1]))
        left = list(range(len(points)))
        while left:
            taken: set[int] = set()
            group: list[int] = []
            later: list[int] = []
            for i in left:
                dofs = of_cells[i].tolist()
                (later if taken.intersection(dofs) else group).append(i)
                taken.update(dofs)
            left = later
            for j in range(of_cells.shape[1]):
                basis.x.array[:] = 0.0
                basis.x.array[of_cells[group, j]] = 1.0
                values[group, :, j] = np.reshape(basis.eval(points[group], cells[group]), (len(group), components))
        columns = self._part.in_state(of_cells.ravel()).reshape(of_cells.shape)
        order = np.argsort(columns, axis=1)
        columns = np.take_along_axis(columns, order, axis=1)
        rows = np.take_along_axis(values, order[:, None, :], axis=2).reshape(-1, columns.shape[1])
        return np.repeat(columns, components, axis=0).T.copy(), rows.T.copy()

    @cached_property
    def matrix(self) -> Any:  # noqa: D102 - an attribute
        import scipy.sparse  # a third of what importing relax costs, and no solve needs it

        num_basis, num_rows = self.columns.shape
        dofmap = self._dofmap
        num_local = (dofmap.index_map.size_local + dofmap.index_map.num_ghosts) * dofmap.index_map_bs
        ends = num_basis * np.arange(num_rows + 1)
        rows = scipy.sparse.csr_matrix((self.values.T.ravel(), self.columns.T.ravel(), ends), (num_rows, num_local))
        rows.eliminate_zeros()
        return rows

    def value(self, u: fem.Function) -> Array:
        y = np.zeros(self.size)
        y[self.rows] = (self.values * u.x.array[self.columns]).sum(axis=0)
        return parallel.sum_over_ranks(self._comm, y)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        if self._work is None:
            self._work = fem.Function(u.function_space)
        dual = self._work.x
        weights = self.values * dy[self.rows]
        dual.array[:] = np.bincount(self.columns.T.ravel(), weights.T.ravel(), minlength=dual.array.size)
        dual.scatter_reverse(la.InsertMode.add)
        return dual.array[: num_owned(u.function_space)].copy()

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        if type(self) is not PointValues:  # of one's own: it may have other values
            return super().on(state, other)
        V = self._part.of(other.function_space)
        return PointValues(V, self.points[:, : V.mesh.geometry.dim])

    def check_state(self, state: fem.Function) -> None:
        self._part.check(state, "PointValues")
