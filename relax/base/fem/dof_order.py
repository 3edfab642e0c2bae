"""An order of degrees of freedom that does not depend on the partition, and values that do not.

Point values are ordered by where they stand. Other degrees of freedom (normal and tangential moments of RT, BDM and
N1curl, moments in cells) are of an entity of the mesh, a facet, an edge, a cell, and are ordered by its midpoint. Their
values depend on how the entity is oriented. DOLFINx takes that from numbers of vertices, which another partition
changes; here an entity is oriented by the coordinates of its vertices: first the least by x, then y, then z. On each
entity the values in that orientation are a small matrix times those of DOLFINx, signs for most elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import basix
import numpy as np
import numpy.typing as npt
import scipy.sparse
from dolfinx import fem, mesh

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.cells import cell_numbers, is_numbered
from relax.base.types import Array, Indices
from relax.errors import BadInput

# Of the distance of two vertices: coordinates nearer than this are one, whatever rounding says.
_SAME = 1e-9


class DofOrder(NamedTuple):
    """Sort keys of the local degrees of freedom, and what turns their values.

    Attributes:
        keys: (num_local, 6): leaf of a mixed space, x, y, z, original cell, index within the entity and component. On a
            submesh, whose cells have no number, (num_local, 9): three more for the midpoint of the cell.
        turned: values of DOLFINx to values by the entities' own orientation, (num_local, num_local); None where all
            stay as they are.
        back: its inverse.
    """

    keys: Array
    turned: Any
    back: Any


def dof_order(V: fem.FunctionSpace) -> DofOrder:
    """The order of a space. Collective.

    Raises:
        BadInput: on every rank, where values depend on the orientation of a cell that has none.
    """
    num_local = _num_local(V)
    keys: Array = np.zeros((num_local, 9))
    turns: list[tuple[Indices, Any, Any]] = []
    for i, (leaf, parents) in enumerate(_leaves(V, np.arange(num_local))):
        if leaf.element.interpolation_ident:
            keys[parents] = _keys_of_points(leaf)
        else:
            keys[parents] = _keys_of_entities(leaf)
            if leaf.element.needs_dof_transformations:
                turns.append((parents, *_turns(leaf)))
        keys[parents, 0] = i
    keys = keys[:, :6] if is_numbered(V.mesh) else keys
    if not turns:
        return DofOrder(keys, None, None)
    turned, back = (_placed([(p, pair[i]) for p, *pair in turns], num_local) for i in (0, 1))
    return DofOrder(keys, turned, back)


def _num_local(V: fem.FunctionSpace) -> int:
    index_map = V.dofmap.index_map
    return int((index_map.size_local + index_map.num_ghosts) * V.dofmap.index_map_bs)


def _leaves(V: fem.FunctionSpace, parents: Indices) -> Iterator[tuple[fem.FunctionSpace, Indices]]:
    """The parts of a mixed space that are not mixed, with the degrees of freedom of V that are theirs. Collective."""
    if V.num_sub_spaces == 0 or V.dofmap.bs > 1:
        yield V, parents
        return
    for i in range(V.num_sub_spaces):
        part, dofs = compat.collapse(V.sub(i))
        yield from _leaves(part, parents[dofs])


def _keys_of_cells(V: fem.FunctionSpace) -> Array:
    """Keys of blocks that know their cell alone: (num_blocks, block, 9)."""
    # Where dofs of several cells meet in a point (discontinuous spaces) each dof has one cell. Where cells share one
    # dof the coordinate decides already, and whichever cell is written last is of no consequence.
    block, dofs = V.dofmap.index_map_bs, V.dofmap.list
    keys = np.zeros((_num_local(V) // block, block, 9))
    if is_numbered(V.mesh):
        keys[dofs, :, 4] = cell_numbers(V.mesh)[: len(dofs), None, None]
    else:
        keys[dofs, :, 6:] = _vertices(V.mesh)[: len(dofs)].mean(axis=1)[:, None, None, :]
    return keys


def _keys_of_points(V: fem.FunctionSpace) -> Array:
    keys = _keys_of_cells(V)
    keys[:, :, 1:4] = V.tabulate_dof_coordinates()[: len(keys), None, :]
    keys[:, :, 5] = np.arange(keys.shape[1])
    return keys.reshape(-1, 9)


def _keys_of_entities(V: fem.FunctionSpace) -> Array:
    element, block, dofs = _element(V), V.dofmap.index_map_bs, V.dofmap.list
    x = _vertices(V.mesh)
    keys = _keys_of_cells(V)
    for entities, of_entities in zip(basix.topology(element.cell_type), element.entity_dofs, strict=True):
        for corners, here in zip(entities, of_entities, strict=True):
            midpoints = x[:, corners].mean(axis=1)
            for k, dof in enumerate(here):
                keys[dofs[:, dof], :, 1:4] = midpoints[:, None, :]
                keys[dofs[:, dof], :, 5] = k * block + np.arange(block)
    return keys.reshape(-1, 9)


def _element(V: fem.FunctionSpace) -> Any:
    """The Basix element; of a blocked one that of each component. Local."""
    return V.ufl_element().basix_element


def _vertices(domain: mesh.Mesh) -> Array:
    """The coordinates of the vertices of each local cell: (num_cells, vertices, 3). Local."""
    geometry = domain.geometry
    layout, tdim = geometry.cmap.create_dof_layout(), domain.topology.dim
    count = len(basix.topology(domain.basix_cell())[0])
    places = [layout.entity_dofs(0, i)[0] for i in range(count)] if tdim > 0 else [0]
    return np.asarray(geometry.x[geometry.dofmap[:, places]], dtype=np.float64)


# -- orientation -------------------------------------------------------------------------------------------------------


def _turns(V: fem.FunctionSpace) -> tuple[Any, Any]:
    """Per degree of freedom a row of the matrix to values by the own orientation, and of its inverse: sparse."""
    element, dofs = _element(V), V.dofmap.list
    V.mesh.topology.create_entity_permutations()
    given = V.mesh.topology.get_cell_permutation_info()[: len(dofs)]
    with parallel.together(V.mesh.comm):
        own_codes = orientations(V.mesh)
    pairs, which = np.unique(np.stack([given, own_codes], axis=1), axis=0, return_inverse=True)
    # A function is c · (T φ) with basis functions φ of the reference cell: Tᵀ c are its coefficients there.
    here, own = (
        np.array([_transformation(element, code).T for code in codes]).reshape(-1, element.dim, element.dim)
        for codes in pairs.T
    )
    cell = np.zeros(_num_local(V) // V.dofmap.index_map_bs, dtype=np.int64)
    place = np.zeros_like(cell)
    cell[dofs] = np.arange(len(dofs))[:, None]
    place[dofs] = np.arange(dofs.shape[1])
    rows = np.broadcast_to(np.arange(len(cell))[:, None], (len(cell), dofs.shape[1]))
    made = []
    for blocks in (np.linalg.solve(own, here), np.linalg.solve(here, own)):
        blocks[np.abs(blocks) < _SAME] = 0.0
        entries = blocks[which.reshape(-1)[cell], place]
        matrix = scipy.sparse.csr_matrix((entries.ravel(), (rows.ravel(), dofs[cell].ravel())), shape=[len(cell)] * 2)
        matrix.eliminate_zeros()
        made.append(scipy.sparse.kron(matrix, np.eye(V.dofmap.index_map_bs), format="csr"))
    return made[0], made[1]


def _placed(blocks: list[tuple[Indices, Any]], num_local: int) -> Any:
    """Matrices of parts of a space as one of it, the identity elsewhere."""
    rest = np.ones(num_local)
    for parents, _ in blocks:
        rest[parents] = 0.0
    whole = scipy.sparse.diags(rest, format="csr")
    for parents, matrix in blocks:
        place = scipy.sparse.csr_matrix(
            (np.ones(len(parents)), (parents, np.arange(len(parents)))), shape=(num_local, len(parents))
        )
        whole = whole + place @ matrix @ place.T
    return whole.tocsr()


def _transformation(element: Any, code: int) -> Array:
    """T: basis functions in the orientation that a cell's code names, of those on the reference cell."""
    T = np.eye(element.dim)
    element.T_apply(T.reshape(-1), element.dim, int(code))
    return T


def orientations(domain: mesh.Mesh) -> npt.NDArray[np.uint32]:
    """For each local cell the code of Basix of its edges and faces, as the coordinates of vertices orient them. Local.

    A bit for each edge, set where it goes against the reference cell's; in three dimensions three before them for each
    face.

    Raises:
        BadInput: where two vertices of a cell are one point.
    """
    x = _vertices(domain)
    topology, tdim = basix.topology(domain.basix_cell()), domain.topology.dim
    codes, bit = np.zeros(len(x), dtype=np.uint32), 0
    if (np.sort(_places(x), axis=1) != np.arange(x.shape[1])).any():
        raise BadInput(
            "a cell of the mesh has two vertices in one point, and so no orientation; expected vertices apart, or "
            "layout='owned'"
        )
    if tdim == 3:
        for corners in topology[2]:
            places = _places(x[:, corners])
            for code, order in enumerate(_orders_of_face(len(corners))):
                # The least corner first, then the lesser of its neighbours.
                fits = (places[:, order[0]] == 0) & (places[:, order[1]] < places[:, order[2]])
                codes[fits] |= np.uint32(code << bit)
            bit += 3
    if tdim > 1:
        for corners in topology[1]:
            places = _places(x[:, corners])
            codes |= (places[:, 0] > places[:, 1]).astype(np.uint32) << np.uint32(bit)
            bit += 1
    return codes


def _places(x: Array) -> Indices:
    """Of the corners of entities, (n, corners, 3), how many are before each by x, y, z: (n, corners)."""
    steps = x[:, :, None, :] - x[:, None, :, :]
    steps[np.abs(steps) <= _SAME * np.abs(steps).max(axis=-1, keepdims=True)] = 0.0
    first = np.take_along_axis(steps, np.argmax(steps != 0.0, axis=-1)[..., None], axis=-1)[..., 0]
    places: Indices = (first > 0.0).sum(axis=2)
    return places


@cache
def _orders_of_face(corners: int) -> list[list[int]]:
    """For each code of a face which of its corners comes first, second, ... in the orientation that it names.

    Read off how Basix moves the points in a face of a Lagrange element, one next to each corner.
    """
    cell, degree = {3: (basix.CellType.tetrahedron, 4), 4: (basix.CellType.hexahedron, 3)}[corners]
    element = basix.create_element(basix.ElementFamily.P, cell, degree, basix.LagrangeVariant.gll_warped)
    inside, face = element.entity_dofs[2][0], basix.topology(cell)[2][0]
    gaps = element.points[inside][:, None, :] - basix.geometry(cell)[face][None, :, :]
    nearest = np.argmin((gaps**2).sum(axis=-1), axis=1)
    point_at = np.argsort(nearest)
    orders = []
    for code in range(2 * corners):
        moved = _transformation(element, code)[np.ix_(inside, inside)]
        orders.append([int(nearest[np.argmax(moved[i])]) for i in point_at])
    return orders
