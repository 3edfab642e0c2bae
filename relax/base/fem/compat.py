"""Every difference between DOLFINx 0.9, 0.10 and 0.11 that relax meets; nothing else asks for a version.

The rest of relax is built on the calls that did not change between these releases.
"""

from __future__ import annotations

from typing import Any

import dolfinx
import numpy as np
import numpy.typing as npt
from dolfinx import fem, mesh

try:
    from dolfinx.io import gmsh as gmsh_io
except ImportError:
    from dolfinx.io import gmshio as gmsh_io

SUPPORTED = ("0.9", "0.10", "0.11")


def dolfinx_version() -> str:
    """The version of the DOLFINx at hand, such as ``"0.9.0"``."""
    return str(dolfinx.__version__)


def version_is_supported() -> bool:
    """Whether this DOLFINx is one of the releases relax is tested on."""
    return ".".join(dolfinx_version().split(".")[:2]) in SUPPORTED


def interpolation_points(V: fem.FunctionSpace) -> npt.NDArray[np.float64]:
    """Reference points at which a space interpolates (a method in 0.9, a property from 0.10)."""
    points = V.element.interpolation_points
    return points() if callable(points) else points


def collapse(V: fem.FunctionSpace) -> tuple[fem.FunctionSpace, npt.NDArray[np.int32]]:
    """A subspace as a space of its own, and the parent's local dofs of its dofs (in a list from 0.11). Collective."""
    space, parents = V.collapse()
    if isinstance(parents, list) and len(parents) > 0 and isinstance(parents[0], np.ndarray):
        parents = parents[0]
    return space, np.asarray(parents, dtype=np.int32)


def with_dofmap(V: fem.FunctionSpace, dofmap: Any) -> fem.FunctionSpace:
    """A space of V's elements with other degrees of freedom, a C++ dofmap (the shape is the element's from 0.10)."""
    domain, element = V.mesh._cpp_object, getattr(V.element, "_cpp_object", V.element)
    try:
        space = dolfinx.cpp.fem.FunctionSpace_float64(domain, element, dofmap)
    except TypeError:
        space = dolfinx.cpp.fem.FunctionSpace_float64(domain, element, dofmap, V.value_shape)
    return fem.FunctionSpace(V.mesh, V.ufl_element(), space)


def cell_partitioner(mode: mesh.GhostMode) -> Any:
    """The default partitioner of cells with this ghost mode (0.11 also asks how many cells meet at a facet)."""
    try:
        return mesh.create_cell_partitioner(mode)
    except TypeError:
        return mesh.create_cell_partitioner(mode, 2)


def mesh_in_place(comm: Any, cells: Any, x: Any, element: Any) -> mesh.Mesh:
    """A mesh of which each cell stays on the rank that gives it; nodes are numbered over the ranks. Collective."""
    num_cells = len(cells)

    def stay(*_: Any) -> Any:
        ranks = dolfinx.graph.adjacencylist(np.full((num_cells, 1), comm.rank, dtype=np.int32))
        return getattr(ranks, "_cpp_object", ranks)

    return mesh.create_mesh(comm, cells=cells, x=x, e=element, partitioner=stay)


def gmsh_cell_permutation(cell_type: mesh.CellType, num_nodes: int) -> list[int]:
    """``p`` such that ``dolfinx_nodes = gmsh_nodes[p]`` for one cell."""
    return list(gmsh_io.cell_perm_array(cell_type, num_nodes))


def one_subdomain_data(form: Any) -> Any:
    """The form with the tags of its ``ds(1)`` given to its plain ``ds`` (so ``dx``): 0.9 asserts that they agree."""
    import ufl

    given = [i for i in form.integrals() if i.subdomain_data() is not None]
    data = {(i.ufl_domain(), i.integral_type()): i.subdomain_data() for i in given}
    if not data:
        return form
    integrals = []
    for i in form.integrals():
        shared = data.get((i.ufl_domain(), i.integral_type()))
        integrals.append(i if i.subdomain_data() is not None else i.reconstruct(subdomain_data=shared))
    return ufl.Form(integrals)


def pack_coefficients(form: fem.Form) -> dict[Any, npt.NDArray[np.float64]]:
    """The values of a form's coefficients in its cells, by kind of integral (in Python from 0.10). Local."""
    if hasattr(fem, "pack_coefficients"):
        return fem.pack_coefficients(form)
    return dolfinx.cpp.fem.pack_coefficients(form._cpp_object)


def pack_constants(form: fem.Form) -> npt.NDArray[np.float64]:
    """The values of a form's constants, one after the other (in Python from 0.10). Local."""
    if hasattr(fem, "pack_constants"):
        return fem.pack_constants(form)
    return dolfinx.cpp.fem.pack_constants(form._cpp_object)


def entities_of_part(entity_map: Any, num_cells: int) -> npt.NDArray[np.int32]:
    """Which entity of the whole mesh each local cell of a submesh is (an array in 0.9, an EntityMap from 0.10)."""
    if hasattr(mesh, "EntityMap"):
        return np.asarray(entity_map.sub_topology_to_topology(np.arange(num_cells, dtype=np.int32), False))
    entities = np.asarray(entity_map, dtype=np.int32)
    if entities.shape != (num_cells,):
        raise ValueError(f"expected {num_cells} entities")
    return entities


def entity_maps(parts: Any) -> Any:
    """What forms ask for as ``entity_maps``: in 0.9 by submesh its cell of each entity, from 0.10 the maps themselves.

    ``parts``: by submesh which part it is of which whole mesh.
    """
    if hasattr(mesh, "EntityMap"):
        return [part.entity_map for part in parts.values()]
    maps = {}
    for submesh, part in parts.items():
        known = part.whole.topology.index_map(submesh.topology.dim)
        cells = np.full(known.size_local + known.num_ghosts, -1, dtype=np.int32)
        cells[part.entities] = np.arange(len(part.entities), dtype=np.int32)
        maps[submesh] = cells
    return maps


def point_owners(data: Any) -> npt.NDArray[np.int32]:
    """For each point of an interpolation which rank has its cell, below 0 for none (a method before 0.11). Local."""
    owners = data.src_owner
    return np.asarray(owners() if callable(owners) else owners)
