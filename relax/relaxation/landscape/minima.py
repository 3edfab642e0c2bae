"""Local minima of a field on a mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from dolfinx import fem, la

from relax.base import parallel
from relax.base.fem.forms import num_owned
from relax.base.fem.submeshes import outer_facets
from relax.base.types import Array
from relax.relaxation.landscape.evaluation import Evaluation

_STEPS = 30
# Moves below this fraction of the mesh's extent end Newton's method; minima this close are one.
_SAME = 1e-9
_ONE = 1e-6
# Values and coordinates that differ by less than this part of the largest are the same.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Minimisers:
    """Local minimisers of u(., t), the lowest first; the same on every rank.

    Attributes:
        x: (k, d) where they are.
        values: (k,) u there.
        at_boundary: (k,) whether they lie at a wall, where the gradient need not vanish.
    """

    x: Array
    values: Array
    at_boundary: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Nodes:
    """Nodes of a mesh: (k, d) coordinates, (k,) whether each is on the boundary, (k,) the size of the cells there."""

    x: Array
    at_boundary: npt.NDArray[np.bool_]
    reach: Array


def lowest_nodes(u: fem.Function) -> Nodes:
    """The nodes of u that lie below all others of their cells. Collective.

    Among nodes whose values are the same to rounding the one that comes first by its coordinates counts as lowest: a
    plain has one minimum, not as many as nodes.
    """
    V = u.function_space
    domain = V.mesh
    dim = domain.geometry.dim
    tdim = domain.topology.dim
    num_cells = domain.topology.index_map(tdim).size_local
    dofs = V.dofmap.list[:num_cells]
    x = V.tabulate_dof_coordinates()[:, :dim]
    comm = domain.comm
    unit = _ROUNDING * parallel.largest(comm, float(np.max(np.abs(x), initial=0.0)))
    close = _ROUNDING * parallel.largest(comm, float(np.max(np.abs(u.x.array), initial=0.0)))
    is_lowest = _first_of_cell(u.x.array[dofs], np.rint(x / unit)[dofs], close)
    higher = fem.Function(V)
    np.add.at(higher.x.array, dofs.ravel(), (~is_lowest).ravel().astype(np.float64))
    higher.x.scatter_reverse(la.InsertMode.add)
    mine = np.flatnonzero(higher.x.array[: num_owned(V)] == 0.0)

    walls = fem.Function(V)
    walls.x.array[fem.locate_dofs_topological(V, tdim - 1, outer_facets(domain))] = 1.0
    walls.x.scatter_forward()
    size = np.zeros(len(u.x.array))
    cells = np.arange(num_cells, dtype=np.int32)
    np.maximum.at(size, dofs.ravel(), np.repeat(domain.h(tdim, cells), dofs.shape[1]))
    rows = parallel.gather_rows(comm, np.column_stack([x[mine], walls.x.array[mine], size[mine]]))
    # In an order that does not depend on the partition, the same on every rank.
    rows = rows[np.lexsort(rows[:, :dim].T[::-1])]
    return Nodes(rows[:, :dim], rows[:, dim] > 0.5, rows[:, dim + 1])


def _first_of_cell(values: Array, x: Array, close: float) -> npt.NDArray[np.bool_]:
    """In each cell the node of the least value, or the first by coordinates of several: (cells, nodes)."""
    left = values <= values.min(axis=1, keepdims=True) + close
    for axis in range(x.shape[2]):
        coordinate = np.where(left, x[:, :, axis], np.inf)
        left &= coordinate == coordinate.min(axis=1, keepdims=True)
    return left


def refined(u: Evaluation, nodes: Nodes, t: float) -> Minimisers:
    """The minima beside nodes, by Newton's method on the recovered gradient. Collective."""
    low, high = u.box
    extent = float(np.max(high - low))
    x = nodes.x.copy()
    ended = np.zeros(len(x), dtype=bool)
    failed = np.zeros(len(x), dtype=bool)
    for _ in range(_STEPS if len(x) else 0):
        step, is_convex = _newton_steps(u, x, t)
        moved = np.clip(x + np.where((ended | failed)[:, None], 0.0, step), low, high)
        away = np.linalg.norm(moved - nodes.x, axis=1) > 2.0 * nodes.reach
        failed |= ~ended & (~is_convex | away | ~u.contains(moved))
        x = np.where(failed[:, None], x, moved)
        ended |= np.linalg.norm(step, axis=1) <= _SAME * extent
        if (ended | failed).all():
            break
    x = np.where(ended[:, None] & ~failed[:, None], x, nodes.x)
    values = u.evaluate("value", x, t)[:, 0]
    order = np.argsort(values, kind="stable")
    kept: list[int] = []
    for i in order:
        if all(np.linalg.norm(x[i] - x[j]) > _ONE * extent for j in kept):
            kept.append(int(i))
    return Minimisers(x[kept], values[kept], nodes.at_boundary[kept])


def _newton_steps(u: Evaluation, x: Array, t: float) -> tuple[Array, npt.NDArray[np.bool_]]:
    """-(D²u)⁻¹ grad u at points, 0 where D²u is not positive, and where it is. Collective."""
    gradient, hessian = u.shaped("gradient", x, t), u.shaped("hessian", x, t)
    is_convex = np.linalg.eigvalsh(hessian)[:, 0] > 0.0
    hessian[~is_convex] = np.eye(x.shape[1])
    steps = -np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    return np.where(is_convex[:, None], steps, 0.0), is_convex
