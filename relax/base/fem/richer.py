"""Spaces of one order more: where what a space leaves out shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import basix
import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx import fem, la, mesh

from relax.base.fem.submeshes import outer_facets
from relax.errors import BadInput


def richer(V: fem.FunctionSpace) -> fem.FunctionSpace:
    """The space of the same elements, of one order more, on the same mesh. Collective.

    Raises:
        BadInput: for elements that have no order: bubbles, quadrature points, elements of one's own; or no higher one,
            such as those of Crouzeix and Raviart.
    """
    return fem.functionspace(V.mesh, rebuilt(V.ufl_element(), _richer))


def rebuilt(element: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same mixed or blocked element of other parts: each of its parts goes through ``leaf``. Local."""
    if element.is_mixed:
        return basix.ufl.mixed_element([rebuilt(part, leaf) for part in element.sub_elements])
    if element.sub_elements:
        part = rebuilt(element.sub_elements[0], leaf)
        if element.is_symmetric:
            # The n (n + 1)/2 entries of a symmetric tensor.
            n = int(np.sqrt(2 * element.block_size))
            return basix.ufl.blocked_element(part, (n, n), symmetry=True)
        return basix.ufl.blocked_element(part, element.reference_value_shape)
    return leaf(element)


def _richer(element: Any) -> Any:
    if element.is_quadrature or element.is_custom_element or not isinstance(element.degree, int):
        raise BadInput(f"expected a space of elements that there are of each order, such as Lagrange, got {element}")
    try:
        return basix.ufl.element(
            element.element_family,
            element.cell_type,
            element.degree + 1,
            element.lagrange_variant,
            element.dpc_variant,
            element.discontinuous,
            dtype=element.dtype,
        )
    except RuntimeError as refusal:
        raise BadInput(f"expected a space of elements that there are of one order more, got {element}") from refusal


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
    """The degrees of freedom of W on vertices, facets and in cells where all those of V are clamped: owned and ghosts.

    Where V has no degree of freedom within an inner facet or a cell, some of those around it have to be off the outer
    boundary: else it may lie between two sides of the mesh. Collective.

    Args:
        W: ``richer(V)``.
        V: the space of the conditions.
        clamped: local degrees of freedom of V, components counted.
    """
    tdim = V.mesh.topology.dim
    cell = basix.topology(V.ufl_element().cell_type)
    are_outside = _outer_facets(V.mesh).reshape(-1, len(cell[tdim - 1]))
    boundary, marks = fem.Function(V), fem.Function(W)
    for v in leaves(V):
        for facet, are_outer in enumerate(are_outside.T):
            _mark(boundary, v, tdim - 1, facet, are_outer)
    is_outer = _known_to_all(boundary)
    is_clamped = np.zeros(len(is_outer), bool)
    is_clamped[clamped] = True
    for v, w in zip(leaves(V), leaves(W), strict=True):
        for dim in {tdim, tdim - 1, 0}:
            for entity in range(len(cell[dim])):
                dofs = v.dofmap.list[:, v.dofmap.dof_layout.entity_closure_dofs(dim, entity)]
                if dofs.shape[1] == 0:
                    continue
                held = is_clamped[dofs].all(axis=1)
                if dim > 0 and len(v.dofmap.dof_layout.entity_dofs(dim, entity)) == 0:
                    are_inside = ~is_outer[dofs].all(axis=1)
                    held &= are_inside if dim == tdim else are_inside | are_outside[:, entity]
                _mark(marks, w, dim, entity, held)
    return np.flatnonzero(_known_to_all(marks)).astype(np.int32)


def _mark(marks: fem.Function, V: fem.FunctionSpace, dim: int, entity: int, cells: npt.NDArray[np.bool_]) -> None:
    """Set 1 in one entity of some local cells, its own boundary included; V is a part of the space. Local."""
    marks.x.array[V.dofmap.list[cells][:, V.dofmap.dof_layout.entity_closure_dofs(dim, entity)]] = 1.0


def _known_to_all(marks: fem.Function) -> npt.NDArray[np.bool_]:
    """What any rank has marked: owned and ghosts."""
    marks.x.scatter_reverse(la.InsertMode.add)
    marks.x.scatter_forward()
    return np.asarray(marks.x.array > 0.0)


def leaves(V: fem.FunctionSpace) -> Iterator[fem.FunctionSpace]:
    """Parts of one element each, as views into V."""
    if V.num_sub_spaces == 0:
        yield V
    for i in range(V.num_sub_spaces):
        yield from leaves(V.sub(i))


def _outer_facets(domain: mesh.Mesh) -> npt.NDArray[np.bool_]:
    """Which facets of each local cell this rank knows to be on the outer boundary, cell by cell. Collective."""
    topology = domain.topology
    tdim = topology.dim
    outer = outer_facets(domain)
    topology.create_connectivity(tdim, tdim - 1)
    return np.isin(topology.connectivity(tdim, tdim - 1).array, outer)
