"""Spaces of one order more: where what a space leaves out shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import basix
import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx import fem, la, mesh

from relax.errors import BadInput


def richer(V: fem.FunctionSpace) -> fem.FunctionSpace:
    """The space of the same elements, of one order more, on the same mesh. Collective.

    Raises:
        BadInput: for elements that have no order: bubbles, quadrature points, elements of one's own.
    """
    return fem.functionspace(V.mesh, _richer(V.ufl_element()))


def _richer(element: Any) -> Any:
    if element.is_mixed:
        return basix.ufl.mixed_element([_richer(part) for part in element.sub_elements])
    if element.sub_elements:
        part = _richer(element.sub_elements[0])
        if element.is_symmetric:
            # The n (n + 1)/2 entries of a symmetric tensor.
            n = int(np.sqrt(2 * element.block_size))
            return basix.ufl.blocked_element(part, (n, n), symmetry=True)
        return basix.ufl.blocked_element(part, element.reference_value_shape)
    if element.is_quadrature or element.is_custom_element or not isinstance(element.degree, int):
        raise BadInput(f"expected a space of elements that there are of each order, such as Lagrange, got {element}")
    return basix.ufl.element(
        element.element_family,
        element.cell_type,
        element.degree + 1,
        element.lagrange_variant,
        element.dpc_variant,
        element.discontinuous,
        dtype=element.dtype,
    )


def interpolate(source: fem.Function, target: fem.Function) -> None:
    """Write the values of a Function into one of another space of such elements, field by field. Collective."""
    V = source.function_space
    if V.num_sub_spaces > 0 and V.dofmap.bs == 1:
        for i in range(V.num_sub_spaces):
            interpolate(source.sub(i), target.sub(i))
    else:
        target.interpolate(source)
    target.x.scatter_forward()


def clamped_in(W: fem.FunctionSpace, V: fem.FunctionSpace, clamped: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The degrees of freedom of W on those facets and vertices where all those of V are clamped: owned and ghosts.

    Where V has no degree of freedom within a facet only those of the outer boundary count: an inner facet may lie
    between two vertices of it. Collective.

    Args:
        W: ``richer(V)``.
        V: the space of the conditions.
        clamped: local degrees of freedom of V, components counted.
    """
    topology = V.mesh.topology
    tdim = topology.dim
    is_clamped = np.zeros((V.dofmap.index_map.size_local + V.dofmap.index_map.num_ghosts) * V.dofmap.index_map_bs, bool)
    is_clamped[clamped] = True
    cell = basix.topology(V.ufl_element().cell_type)
    on_boundary = _outer_facets(V.mesh).reshape(-1, len(cell[tdim - 1]))
    marks = fem.Function(W)
    for v, w in zip(_leaves(V), _leaves(W), strict=True):
        low, high = v.dofmap.dof_layout, w.dofmap.dof_layout
        for dim in {tdim - 1, 0}:
            for entity in range(len(cell[dim])):
                closure = low.entity_closure_dofs(dim, entity)
                if len(closure) == 0:
                    continue
                held = is_clamped[v.dofmap.list[:, closure]].all(axis=1)
                if dim > 0 and len(low.entity_dofs(dim, entity)) == 0:
                    held &= on_boundary[:, entity]
                marks.x.array[w.dofmap.list[held][:, high.entity_closure_dofs(dim, entity)]] = 1.0
    marks.x.scatter_reverse(la.InsertMode.add)
    marks.x.scatter_forward()
    return np.flatnonzero(marks.x.array).astype(np.int32)


def _leaves(V: fem.FunctionSpace) -> Iterator[fem.FunctionSpace]:
    """Scalar parts, as views into V."""
    if V.num_sub_spaces == 0:
        yield V
    for i in range(V.num_sub_spaces):
        yield from _leaves(V.sub(i))


def _outer_facets(domain: mesh.Mesh) -> npt.NDArray[np.bool_]:
    """Which facets of each local cell this rank knows to be on the outer boundary, cell by cell."""
    topology = domain.topology
    tdim = topology.dim
    topology.create_connectivity(tdim, tdim - 1)
    topology.create_connectivity(tdim - 1, tdim)
    of_cells = topology.connectivity(tdim, tdim - 1).array
    outer = mesh.exterior_facet_indices(topology)
    return np.isin(of_cells, outer)
