"""Functions on a part of a mesh as Functions on all of it that are zero off the part.

A space of Lagrange elements on some facets consists of the values there of the space of the same degree on the whole
mesh, and its basis functions are those of that space that are not zero there; on some cells this holds for every
element. So what lives on a part is solved for as a field of the whole mesh whose other degrees of freedom are held at
zero: the same discretisation, by what is there for such fields.
"""

from __future__ import annotations

from typing import Any

import basix
import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx import fem, la

from relax.base import parallel
from relax.base.fem.forms import cell_dofs, num_owned
from relax.base.fem.richer import rebuilt
from relax.base.fem.submeshes import Part
from relax.base.types import Array, Indices
from relax.errors import BadProblem

# Of the extent of a facet: two points this near to each other are one.
_NEAR = 1e-8


class Extended:
    """A Function on a part of a mesh as one of the whole mesh. Collective, as is every method.

    A rank may hold values of the whole mesh that are on the part without a facet or cell of the part that has them:
    owners of a value can differ, too. All that a rank holds of the part it holds of the whole.

    Args:
        given: the Function on the part.
        part: of which mesh it is one.

    Attributes:
        function: the Function on the whole mesh, zero.
        dofs: which of its local values those of ``given`` are, ghosts included.
        off: its local values that are off the part, ghosts included.

    Raises:
        BadProblem: for elements that are not those of the whole mesh, seen on the part.
    """

    def __init__(self, given: fem.Function, part: Part) -> None:
        V = given.function_space
        is_of_facets = V.mesh.topology.dim < part.whole.topology.dim
        element = _of_whole(given, part) if is_of_facets else V.ufl_element()
        if not is_of_facets and V.element.needs_dof_transformations:
            raise BadProblem(
                f"state: {given.name!r} is in a space of {element} on some cells of a mesh; its degrees of freedom "
                "turn with the numbers of vertices, which those cells have of their own; expected Lagrange or DG there"
            )
        self.function = fem.Function(fem.functionspace(part.whole, element), name=given.name)
        own = cell_dofs(V, slice(None))
        W = self.function.function_space
        of_whole = _on_facets(V, W, part) if is_of_facets else _in_cells(V, W, part)
        self.dofs: Indices = np.full(len(given.x.array), -1, dtype=np.int64)
        if of_whole is not None:
            self.dofs[own] = of_whole
        fits = of_whole is not None and (self.dofs >= 0).all() and np.array_equal(self.dofs[own], of_whole)
        if parallel.any_rank(part.whole.comm, not fits):
            raise BadProblem(
                f"state: {given.name!r} is in a space of {V.ufl_element()} whose degrees of freedom are not those of "
                f"{element} on the whole mesh; expected a space that fem.functionspace makes on a mesh of "
                "relax.meshes.submesh"
            )
        self._num_owned = num_owned(V)
        self.off: Indices = np.flatnonzero(self.spread(np.ones(len(given.x.array))) == 0.0)

    def spread(self, values: Array) -> Array:
        """Local values on the part, of which the owned ones count, as local values of the whole mesh: (num_local,)."""
        v = fem.Function(self.function.function_space)
        v.x.array[self.dofs[: self._num_owned]] = values[: self._num_owned]
        v.x.scatter_reverse(la.InsertMode.add)
        v.x.scatter_forward()
        return np.asarray(v.x.array)


def collected(V: fem.FunctionSpace, local: Array) -> Array:
    """The sums over the ranks of what each has for the values that it knows, owned and ghosts: (owned,). Collective."""
    v = fem.Function(V)
    v.x.array[:] = local
    v.x.scatter_reverse(la.InsertMode.add)
    return np.asarray(v.x.array[: num_owned(V)])


def _of_whole(given: fem.Function, part: Part) -> Any:
    """The element on the whole mesh whose values on facets are those of a Function there. Local.

    Raises:
        BadProblem: where there is none.
    """
    element = given.ufl_element()
    cell = part.whole.basix_cell()

    def refused(why: str) -> BadProblem:
        return BadProblem(
            f"state: {given.name!r} is in a space of {element} on facets, {why}; expected continuous Lagrange elements "
            'there, fem.functionspace(submesh, ("Lagrange", 1))'
        )

    def leaf(one: Any) -> Any:
        if one.cell_type == basix.CellType.point:
            # A value at the end of a line.
            return basix.ufl.element("P", cell, 1, dtype=one.dtype)
        if one.is_quadrature or one.is_custom_element or one.element_family != basix.ElementFamily.P:
            raise refused("which are no values of one that the whole mesh has")
        if one.discontinuous or one.degree < 1:
            raise refused("which jumps from facet to facet as no field on the whole mesh does")
        return basix.ufl.element("P", cell, one.degree, one.lagrange_variant, dtype=one.dtype)

    if element.is_mixed:
        raise refused("which is a mixed one: give each of its parts as a state of its own")
    return rebuilt(element, leaf)


def _in_cells(V: fem.FunctionSpace, W: fem.FunctionSpace, part: Part) -> npt.NDArray[np.int32] | None:
    """For each cell of the part the local values of W that those of V are; None where the cells are turned. Local."""
    here, there = (v.mesh.geometry for v in (V, W))
    is_same = np.array_equal(here.x[here.dofmap], there.x[there.dofmap[part.entities]])
    return cell_dofs(W, part.entities) if is_same else None


def _on_facets(V: fem.FunctionSpace, W: fem.FunctionSpace, part: Part) -> npt.NDArray[np.int32] | None:
    """As ``_in_cells`` for facets: the values that are at the same points; None where there is none. Local."""
    topology, tdim = W.mesh.topology, W.mesh.topology.dim
    topology.create_connectivity(tdim - 1, tdim)
    topology.create_connectivity(tdim, tdim - 1)
    of_facets, of_cells = topology.connectivity(tdim - 1, tdim), topology.connectivity(tdim, tdim - 1)
    facets, layout = part.entities, W.dofmap.dof_layout
    num_facets = len(basix.topology(W.ufl_element().cell_type)[tdim - 1])
    cells = of_facets.array[of_facets.offsets[facets]]
    beside = of_cells.array[of_cells.offsets[cells][:, None] + np.arange(num_facets)]
    number = np.argmax(beside == facets[:, None], axis=1)
    rows, columns = V.dofmap.list.shape
    closures = [layout.entity_closure_dofs(tdim - 1, i) for i in range(num_facets)]
    if any(len(dofs) != columns for dofs in closures):
        return None
    x, X = V.tabulate_dof_coordinates()[V.dofmap.list], W.tabulate_dof_coordinates()
    known = W.dofmap.list[cells][np.arange(rows)[:, None], np.array(closures)[number]]
    apart = np.linalg.norm(x[:, :, None] - X[known][:, None], axis=3)
    extent = np.ptp(X[W.dofmap.list[cells]], axis=1).max(axis=1)
    if not (apart.min(axis=2) <= _NEAR * extent[:, None]).all():
        return None
    nearest = np.argmin(apart, axis=2)
    nodes = np.take_along_axis(known, nearest, axis=1)
    block = W.dofmap.bs
    return (nodes[:, :, None] * block + np.arange(block, dtype=np.int32)).reshape(rows, columns * block)
