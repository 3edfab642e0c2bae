"""Meshes from XDMF files, as DOLFINx writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from dolfinx import mesh
from dolfinx.io import XDMFFile
from mpi4py import MPI

from relax.base import parallel
from relax.errors import BadInput
from relax.meshes.sound import check_cells, check_nodes, check_volumes
from relax.meshes.tags import Tags, set_tags


def read_xdmf(name: str, comm: MPI.Comm) -> mesh.Mesh:
    """Read the first mesh of an XDMF file, with tags by number where the file has them. Collective."""
    grid, tag_grids = parallel.on_rank_0(comm, lambda: _grids(name))
    with _explained(name), XDMFFile(comm, name, "r") as file:
        _check(file, grid, name, comm)
        domain = file.read_mesh(ghost_mode=mesh.GhostMode.shared_facet, name=grid)
        tdim = domain.topology.dim
        domain.topology.create_entities(tdim - 1)
        domain.topology.create_connectivity(tdim - 1, tdim)
        check_volumes(name, domain)
        tags = [file.read_meshtags(domain, name=g) for g in tag_grids]
    cells = next((t for t in tags if t.dim == tdim), None)
    facets = next((t for t in tags if t.dim == tdim - 1), None)
    set_tags(domain, Tags(cells=cells, facets=facets))
    return domain


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Words around what DOLFINx says of a file, which it says on all ranks."""
    try:
        yield
    except RuntimeError as cause:
        raise BadInput(f"{name}: DOLFINx cannot read it ({cause}); write it again with dolfinx.io.XDMFFile") from cause


def _check(file: XDMFFile, grid: str, name: str, comm: MPI.Comm) -> None:
    """See that it is a mesh, each rank in a part of it. Collective."""
    cell, _ = file.read_cell_type(grid)
    points = file.read_geometry_data(grid)
    lengths = parallel.on_each_rank(comm, len(points))
    with parallel.together(comm):
        check_nodes(name, points, sum(lengths[: comm.rank]) + np.arange(len(points)))
    check_cells(comm, name, cell.name, file.read_topology_data(grid), sum(lengths), None)


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
    # DOLFINx opens a file of data of the same name, also where all numbers are in this one.
    named = [
        (item.text or "").strip().rpartition(":")[0] for item in root.iter("DataItem") if item.get("Format") == "HDF"
    ]
    for data in (*named, f"{Path(name).stem}.h5"):
        if not os.path.isfile(os.path.join(os.path.dirname(name), data)):
            raise BadInput(f"{name}: its data file {data!r} is missing; expected it in the same folder")
    tags = [g.get("Name", "") for g in grids if g.find("Attribute") is not None and g.find("Topology") is not None]
    return meshes[0].get("Name", "mesh"), tags
