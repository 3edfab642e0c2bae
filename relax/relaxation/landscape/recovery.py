"""Continuous derivatives of a field from polynomials that fit it around each vertex."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import factorial

import basix
import numpy as np
import numpy.typing as npt
from dolfinx import fem, la

from relax.base.fem import compat
from relax.base.fem.forms import num_owned
from relax.base.types import Array

#: Nodes of cells, a row for each cell.
Cells = npt.NDArray[np.int32]

# What holds the highest coefficients of a fit where there are too few nodes for them, in a corner: far below what the
# nodes say where there are enough.
_RIDGE = 1e-9
# Cells treated at once.
_GROUP = 4096


def pairs(dim: int) -> list[tuple[int, int]]:
    """The (i, j) with i <= j, in the order in which second derivatives are kept."""
    return [(i, j) for i in range(dim) for j in range(i, dim)]


class Recovery:
    """First and second derivatives of a Lagrange field of degree k, as fields of the same element.

    Around each vertex a polynomial of degree k + 1 is fitted, by least squares, to the values at the nodes of the cells
    that meet there; at a node between vertices theirs are weighted as linear interpolation does (polynomial preserving
    recovery: Zhang and Naga, SIAM J. Sci. Comput. 26 (2005) 1192–1213). Exact for polynomials of degree k + 1 inside a
    mesh of cells that are not much stretched: gradients of order h^(k+1), one more than those of the elements. At a
    wall the cells of one vertex do not tell all coefficients, and the highest are held down: gradients are of order h^k
    there. Local work, and exchange between neighbouring ranks.

    Collective, as are all methods.

    Args:
        V: a scalar continuous Lagrange space of degree 1 or 2.
    """

    def __init__(self, V: fem.FunctionSpace) -> None:
        self.space = V
        domain = V.mesh
        self._dim = domain.geometry.dim
        self._cells: Cells = np.asarray(V.dofmap.list)
        self._num_cells = domain.topology.index_map(domain.topology.dim).size_local
        self._x = np.ascontiguousarray(V.tabulate_dof_coordinates()[:, : self._dim])
        degree = int(V.ufl_element().degree)
        powers = [p for p in product(range(degree + 2), repeat=self._dim) if sum(p) <= degree + 1]
        self._powers = np.array(sorted(powers, key=lambda p: (sum(p), p)))
        self._carrier = fem.Function(V)

        # The nodes of a cell that are vertices, and the weights of vertices at each node.
        cell = getattr(basix.CellType, domain.topology.cell_name())
        linear = basix.create_element(basix.ElementFamily.P, cell, 1)
        self._share = linear.tabulate(0, compat.interpolation_points(V))[0, :, :, 0]
        layout = V.dofmap.dof_layout
        self._corner = [int(layout.entity_dofs(0, i)[0]) for i in range(self._share.shape[1])]
        # A cell of each node, and its place there.
        places = np.broadcast_to(np.arange(self._cells.shape[1]), self._cells.shape)
        numbers = np.broadcast_to(np.arange(len(self._cells))[:, None], self._cells.shape)
        self._cell_of = np.zeros(len(self._x), dtype=np.int64)
        self._place_of = np.zeros(len(self._x), dtype=np.int64)
        self._cell_of[self._cells.ravel()] = numbers.ravel()
        self._place_of[self._cells.ravel()] = places.ravel()

        # Nodes that are vertices, those of this rank first, and the number of each among them.
        self._vertices = np.unique(self._cells[:, self._corner])
        self._number = np.zeros(len(self._x), dtype=np.int64)
        self._number[self._vertices] = np.arange(len(self._vertices))
        self._owned = int(np.searchsorted(self._vertices, num_owned(V)))
        self._scale = self._mean_sizes()
        self._inverse = self._inverses()

    def derivatives(self, values: Array) -> tuple[Array, Array]:
        """Gradient (num_local, d) and second derivatives (num_local, len(pairs(d))) from local values (num_local,)."""
        fits = self._fits(values)
        gradient = np.zeros((len(self._x), self._dim))
        second = np.zeros((len(self._x), len(pairs(self._dim))))
        unit = np.eye(self._dim, dtype=int)
        for v, corner in enumerate(self._corner):
            node = self._cells[self._cell_of, corner]
            vertex = self._number[node]
            scale = self._scale[vertex]
            s = (self._x - self._x[node]) / scale[:, None]
            weight = self._share[self._place_of, v]
            fit = fits[vertex]
            for i in range(self._dim):
                gradient[:, i] += weight / scale * np.sum(fit * self._monomials(s, unit[i]), axis=1)
            for k, (i, j) in enumerate(pairs(self._dim)):
                second[:, k] += weight / scale**2 * np.sum(fit * self._monomials(s, unit[i] + unit[j]), axis=1)
        return gradient, second

    def _monomials(self, s: Array, order: npt.NDArray[np.int_] | int = 0) -> Array:
        """Derivatives of s^p, of this order in each direction: (..., d) -> (..., number of powers)."""
        orders = np.broadcast_to(order, self._dim)
        result = np.ones((*s.shape[:-1], len(self._powers)))
        for i in range(self._dim):
            table = np.zeros((*s.shape[:-1], self._powers.max() + 1))
            for p in range(orders[i], table.shape[-1]):
                table[..., p] = factorial(p) / factorial(p - orders[i]) * s[..., i] ** (p - orders[i])
            result *= table[..., self._powers[:, i]]
        return result

    def _around_vertices(self) -> Iterator[tuple[npt.NDArray[np.int64], Cells, Array]]:
        """Groups of this rank's cells, for each of their corners: (numbers of vertices, nodes, monomials at them)."""
        for start in range(0, self._num_cells, _GROUP):
            nodes = self._cells[start : min(start + _GROUP, self._num_cells)]
            for corner in self._corner:
                vertex = self._number[nodes[:, corner]]
                s = (self._x[nodes] - self._x[nodes[:, corner]][:, None, :]) / self._scale[vertex][:, None, None]
                yield vertex, nodes, self._monomials(s)

    def _mean_sizes(self) -> Array:
        """The mean diameter of the cells that meet at each vertex, on any rank: (vertices,)."""
        domain = self.space.mesh
        diameter = domain.h(domain.topology.dim, np.arange(self._num_cells, dtype=np.int32))
        vertex = self._number[self._cells[: self._num_cells, self._corner]]
        sums = np.zeros((len(self._vertices), 2))
        np.add.at(sums, vertex.ravel(), np.column_stack([np.repeat(diameter, vertex.shape[1]), np.ones(vertex.size)]))
        total = self._spread(self._summed(sums))
        return np.asarray(total[:, 0] / total[:, 1])

    def _inverses(self) -> Array:
        """The inverses of the normal equations' matrices at the vertices of this rank, (owned, m, m)."""
        m = len(self._powers)
        normal = np.zeros((len(self._vertices), m, m))
        for vertex, _, phi in self._around_vertices():
            np.add.at(normal, vertex, np.einsum("cnp,cnq->cpq", phi, phi))
        summed = self._summed(normal.reshape(-1, m * m)).reshape(-1, m, m)
        size = np.trace(summed, axis1=1, axis2=2) / m
        highest = self._powers.sum(axis=1) == self._powers.sum(axis=1).max()
        summed[:, highest, highest] += _RIDGE * size[:, None]
        return np.asarray(np.linalg.inv(summed))

    def _fits(self, values: Array) -> Array:
        """Coefficients of the polynomial of each vertex, ghosts included, (vertices, m)."""
        moments = np.zeros((len(self._vertices), len(self._powers)))
        for vertex, nodes, phi in self._around_vertices():
            np.add.at(moments, vertex, np.einsum("cnp,cn->cp", phi, values[nodes]))
        return self._spread(np.einsum("zpq,zq->zp", self._inverse, self._summed(moments)))

    def _summed(self, rows: Array) -> Array:
        """Sums over ranks at the vertices of this rank: (vertices, k) -> (owned, k)."""
        result = np.empty((self._owned, rows.shape[1]))
        vector = self._carrier.x
        for k in range(rows.shape[1]):
            vector.array[:] = 0.0
            vector.array[self._vertices] = rows[:, k]
            vector.scatter_reverse(la.InsertMode.add)
            result[:, k] = vector.array[self._vertices[: self._owned]]
        return result

    def _spread(self, rows: Array) -> Array:
        """What ranks say of their vertices, with ghosts: (owned, k) -> (vertices, k)."""
        result = np.empty((len(self._vertices), rows.shape[1]))
        vector = self._carrier.x
        for k in range(rows.shape[1]):
            vector.array[self._vertices[: self._owned]] = rows[:, k]
            vector.scatter_forward()
            result[:, k] = vector.array[self._vertices]
        return result
