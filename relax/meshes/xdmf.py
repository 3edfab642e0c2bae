"""Meshes from XDMF files, as DOLFINx writes them."""

from __future__ import annotations

import os
from xml.etree import ElementTree

from dolfinx import mesh
from dolfinx.io import XDMFFile
from mpi4py import MPI

from relax.base import parallel
from relax.errors import BadInput
from relax.meshes.tags import Tags, set_tags


def read_xdmf(name: str, comm: MPI.Comm) -> mesh.Mesh:
    """Read the first mesh of an XDMF file, with tags by number where the file has them. Collective."""
    grid, tag_grids = parallel.on_rank_0(comm, lambda: _grids(name))
    with XDMFFile(comm, name, "r") as file:
        domain = file.read_mesh(ghost_mode=mesh.GhostMode.shared_facet, name=grid)
        tdim = domain.topology.dim
        domain.topology.create_entities(tdim - 1)
        domain.topology.create_connectivity(tdim - 1, tdim)
        tags = [file.read_meshtags(domain, name=g) for g in tag_grids]
    cells = next((t for t in tags if t.dim == tdim), None)
    facets = next((t for t in tags if t.dim == tdim - 1), None)
    set_tags(domain, Tags(cells=cells, facets=facets))
    return domain


def _grids(name: str) -> tuple[str, list[str]]:
    """The names of the mesh and of the tags in a file, once it is known that they can be read."""
    try:
        root = ElementTree.parse(name).getroot()
    except ElementTree.ParseError as cause:
        raise BadInput(f"{name}: no valid XDMF file ({cause}); write it again with dolfinx.io.XDMFFile") from cause
    grids = [g for g in root.iterfind("./Domain/Grid") if g.get("GridType", "Uniform") == "Uniform"]
    meshes = [g for g in grids if g.find("Geometry") is not None and g.find("Topology") is not None]
    if not meshes:
        raise BadInput(f"{name}: holds no mesh; write one with dolfinx.io.XDMFFile.write_mesh")
    for item in root.iter("DataItem"):
        data = (item.text or "").strip().rpartition(":")[0]
        if item.get("Format") == "HDF" and not os.path.isfile(os.path.join(os.path.dirname(name), data)):
            raise BadInput(f"{name}: its data file {data!r} is missing; expected it in the same folder")
    tags = [g.get("Name", "") for g in grids if g.find("Attribute") is not None and g.find("Topology") is not None]
    return meshes[0].get("Name", "mesh"), tags
