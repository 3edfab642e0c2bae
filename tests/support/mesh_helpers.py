"""What the tests of meshes share: folders, measures, small Gmsh files, refusals."""

from pathlib import Path

import numpy as np
import pytest
from dolfinx import fem, mesh
from mpi4py import MPI

from relax import meshes
from relax.base import parallel
from relax.errors import BadInput

COMM = MPI.COMM_WORLD
MESHES = Path(__file__).resolve().parents[2] / "meshes"
SURFACE, LEFT = (2, [1], 7, "plate"), (1, [4], 3, "left")


def measure(domain, m):
    """The size of what a measure covers."""
    return parallel.sum_over_ranks(COMM, np.array([fem.assemble_scalar(fem.form(fem.Constant(domain, 1.0) * m))]))[0]


def coordinates(domain, facets):
    """The vertices of facets; DOLFINx 0.9 divides by zero where there are none."""
    if facets.size == 0:
        return np.empty((0, 3))
    return domain.geometry.x[mesh.entities_to_geometry(domain, domain.topology.dim - 1, facets).ravel()]


def num_cells(domain):
    return domain.topology.index_map(domain.topology.dim).size_global


def on_all(action):
    """Run on rank 0 and wait: what follows finds its files."""
    parallel.on_rank_0(COMM, action)


def write(path, content):
    on_all(lambda: path.write_bytes(content if isinstance(content, bytes) else content.encode()) and None)
    return path


def gmsh_square(path, groups, *, h=0.4, dim=2, version=4.1, order=1, save_all=0, quads=False, z=0.0):
    """Write the unit square, or the unit cube upon it, with these physical groups."""

    def make():
        import gmsh

        gmsh.initialize(readConfigFiles=False, interruptible=False)
        gmsh.option.setNumber("General.Terminal", 0)
        geo = gmsh.model.geo
        corners = [geo.addPoint(x, y, z, h) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        sides = [geo.addLine(corners[i], corners[(i + 1) % 4]) for i in range(4)]
        surface = geo.addPlaneSurface([geo.addCurveLoop(sides)])
        if dim == 3:
            geo.extrude([(2, surface)], 0, 0, 1)
        geo.synchronize()
        for group_dim, entities, number, name in groups:
            gmsh.model.addPhysicalGroup(group_dim, entities, number, name)
        if quads:
            gmsh.model.mesh.setRecombine(2, surface)
        gmsh.model.mesh.generate(dim)
        gmsh.model.mesh.setOrder(order)
        gmsh.option.setNumber("Mesh.MshFileVersion", version)
        gmsh.option.setNumber("Mesh.SaveAll", save_all)
        gmsh.write(str(path))
        gmsh.finalize()

    on_all(make)
    return path


def refused(path, *words, **options):
    """Every rank gets the same BadInput, which names the file."""
    with pytest.raises(BadInput) as caught:
        meshes.read(path, **options)
    said = str(caught.value)
    assert COMM.allgather(said) == [said] * COMM.size
    for word in (str(path), *words):
        assert word in said
