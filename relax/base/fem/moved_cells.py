"""Points that are all the same one of their cells: then one compiled form serves them, whatever it holds.

A point's cell is copied with its reference moved so that the point comes to lie in the middle; what is a polynomial in
the reference of a cell, its geometry and the fields on it, is one in the moved reference, too.
"""

from __future__ import annotations

from typing import Any

import basix
import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx import fem, mesh

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.one_number import is_real_element
from relax.base.fem.richer import leaves, rebuilt
from relax.base.types import Array
from relax.errors import BadProblem

_SAME = 1e-9
_SIMPLICES = ("interval", "triangle", "tetrahedron")


class MovedCells:
    """A mesh of separate cells, one around each point. Collective to make.

    Args:
        domain: the mesh.
        points: (k, 3), this rank's own.
        cells: (k,) the local cells they lie in.

    Attributes:
        mesh: the copies, each on the rank of its point.
        order: (k,) the point that each of the copies is of.
        middle: (1, tdim) where the point lies in each of them.
        is_affine: cells are those of an affine map, so that their sizes are those of the copies.
    """

    def __init__(self, domain: mesh.Mesh, points: Array, cells: npt.NDArray[np.int32]) -> None:
        element: Any = domain.ufl_domain().ufl_coordinate_element()
        nodes = element.sub_elements[0].basix_element
        cell = nodes.cell_type
        gdim = domain.geometry.dim
        self.is_affine = element.degree == 1 and cell.name in _SIMPLICES
        self.middle = np.mean(basix.geometry(cell), axis=0)[None, :]
        geometry = domain.geometry.x[domain.geometry.dofmap[cells], :gdim]
        cmap = domain.geometry.cmap
        inside = [cmap.pull_back(points[i : i + 1, :gdim], geometry[i]) for i in range(len(points))]
        self._shifts = np.reshape(inside, (len(points), self.middle.shape[1])) - self.middle
        n, first = len(nodes.points), parallel.count_before(domain.comm, len(points))
        x = np.einsum("kij,kjd->kid", _shifted(nodes, nodes.points, self._shifts)[..., 0], geometry)
        numbers = np.arange(first * n, (first + len(points)) * n, dtype=np.int64).reshape(-1, n)
        self.mesh = compat.mesh_in_place(domain.comm, numbers, x.reshape(-1, gdim), element)
        self.order = np.asarray(self.mesh.topology.original_cell_index, dtype=np.int64) - first
        self._domain, self._cells = domain, cells

    def space(self, V: fem.FunctionSpace) -> tuple[fem.FunctionSpace, Any]:
        """Where a field of V is seen from the copies, and the matrix from its local values to those there. Collective.

        Raises:
            BadProblem: for elements whose functions are no polynomials that can be moved.
        """
        import scipy.sparse  # a third of what importing relax costs

        W = fem.functionspace(self.mesh, rebuilt(V.ufl_element(), _movable))
        rows, columns, values = [], [], []
        k = len(self._cells)
        for v, w in zip(leaves(V), leaves(W), strict=True):
            here, there = v.element.basix_element, w.element.basix_element
            seen = _shifted(here, there.points, self._shifts)
            flat = seen.transpose(0, 3, 1, 2).reshape(k, there.interpolation_matrix.shape[1], seen.shape[2])
            blocks = there.interpolation_matrix @ flat
            back = there.tabulate(0, there.points)[0].transpose(2, 0, 1).reshape(-1, blocks.shape[1])
            gap, most = np.abs(back @ blocks - flat).max(initial=0.0), np.abs(flat).max(initial=0.0)
            if parallel.any_rank(self._domain.comm, bool(gap > _SAME * most)):
                raise BadProblem(f"expected fields of polynomials, such as Lagrange, got {V.ufl_element()}")
            blocks = blocks @ self._transformations(v, seen.shape[2])
            ours, theirs = v.dofmap.list[self._cells][self.order], w.dofmap.list[:k]
            shape = blocks.shape
            rows.append(np.broadcast_to(theirs[:, :, None], shape).ravel())
            columns.append(np.broadcast_to(ours[:, None, :], shape).ravel())
            values.append(blocks[self.order].ravel())
        size = len(fem.Function(W).x.array), len(fem.Function(V).x.array)
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        return W, scipy.sparse.csr_matrix(entries, shape=size)

    def _transformations(self, v: fem.FunctionSpace, n: int) -> Array:
        """For each cell the matrix from a field's values there to those of the reference: (k, n, n), or one for all."""
        if not v.element.needs_dof_transformations:
            return np.eye(n)
        topology = self._domain.topology
        data = np.tile(np.eye(n), (len(self._cells), 1)).ravel()
        v.element.T_apply(data, topology.get_cell_permutation_info()[self._cells], n)
        return data.reshape(-1, n, n).transpose(0, 2, 1)


def _shifted(element: Any, points: Array, shifts: Array) -> Array:
    """Basis functions of the reference at points that are moved by each of the shifts: (k, points, n, components)."""
    moved = np.reshape(points[None, :, :] + shifts[:, None, :], (-1, points.shape[1]))
    # Basix ends the process where there is no point at all.
    tabulated: Array = element.tabulate(0, moved)[0] if len(moved) else element.tabulate(0, points)[0][:0]
    return tabulated.reshape(len(shifts), len(points), *tabulated.shape[1:])


def _movable(element: Any) -> Any:
    """An element of separate cells whose functions are those of a given one, wherever the reference is moved to."""
    if is_real_element(element):
        raise BadProblem("expected fields, got one number for all of the mesh; a Functional or ExpressionField sees it")
    if element.is_quadrature or not hasattr(element, "basix_element"):
        raise BadProblem(f"expected fields of polynomials, such as Lagrange, got {element}")
    own = element.basix_element
    if own.map_type == basix.MapType.identity:
        return basix.ufl.element("DG", own.cell_type, own.embedded_superdegree, dtype=element.dtype)
    return basix.ufl.element(
        own.family, own.cell_type, own.degree, own.lagrange_variant, own.dpc_variant, True, dtype=element.dtype
    )
