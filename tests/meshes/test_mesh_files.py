"""Mesh files of every kind, good and bad."""

import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from dolfinx import mesh
from dolfinx.io import XDMFFile
from mesh_helpers import (
    COMM,
    LEFT,
    MESHES,
    SURFACE,
    gmsh_square,
    measure,
    num_cells,
    on_all,
    refused,
    write,
)
from mpi4py import MPI

from relax import meshes
from relax.errors import BadInput
from relax.meshes import sound

pytestmark = pytest.mark.ranks(1, 2)


@pytest.fixture
def folder():
    """One folder for all ranks, which rank 0 makes and removes."""
    path = COMM.bcast(tempfile.mkdtemp() if COMM.rank == 0 else None, root=0)
    yield Path(path)
    COMM.Barrier()
    if COMM.rank == 0:
        shutil.rmtree(path)


def test_plate():
    domain = meshes.read(MESHES / "plate_with_holes.msh")
    assert domain.geometry.dim == 2
    for tag, length in {"left": 1, "right": 1, "bottom": 2, "top": 2, "holes": 0.92 * math.pi}.items():
        assert measure(domain, meshes.ds(domain, tag)) == pytest.approx(length, rel=3e-3)
    holes = math.pi * (0.12**2 + 0.1**2 + 0.1**2 + 0.14**2)
    disc = math.pi * 0.25**2
    assert measure(domain, meshes.dx(domain, "inclusion")) == pytest.approx(disc, rel=3e-3)
    assert measure(domain, meshes.dx(domain, "matrix")) == pytest.approx(2 - holes - disc, rel=3e-3)
    assert measure(domain, meshes.dx(domain, ["matrix", "inclusion"])) == pytest.approx(
        measure(domain, meshes.dx(domain))
    )


def test_lshape_and_disk():
    corner = meshes.read(MESHES / "lshape.msh")
    assert measure(corner, meshes.ds(corner, "corner")) == pytest.approx(2.0)
    assert measure(corner, meshes.ds(corner, "outer")) == pytest.approx(6.0)
    assert measure(corner, meshes.dx(corner, "domain")) == pytest.approx(3.0)
    disk = meshes.read(MESHES / "disk.msh")
    assert measure(disk, meshes.dx(disk, "disk")) == pytest.approx(math.pi, rel=1e-3)


def test_bracket():
    domain = meshes.read(MESHES / "bracket.msh")
    assert domain.geometry.dim == 3
    profile = 1.6 * 0.4 + 0.6 * 0.4 - math.pi * 0.1**2
    areas = {"wall": 0.5, "tip": 0.2, "hole": 0.1 * math.pi, "free": 2 * profile + 0.5 * (1.6 + 1.2 + 0.6 + 0.4)}
    for tag, area in areas.items():
        assert measure(domain, meshes.ds(domain, tag)) == pytest.approx(area, rel=1e-2)
    assert measure(domain, meshes.dx(domain, "body")) == pytest.approx(0.5 * profile, rel=1e-2)


def test_geo_is_meshed_at_h():
    coarse, fine = (meshes.read(MESHES / "lshape.geo", h=h) for h in (0.4, 0.2))
    assert 3 < num_cells(fine) / num_cells(coarse) < 5
    assert measure(fine, meshes.ds(fine, "corner")) == pytest.approx(2.0)
    alone = meshes.read(MESHES / "lshape.geo", comm=MPI.COMM_SELF, h=0.2)
    assert num_cells(alone) == num_cells(fine)


def test_geo_twice_in_one_process():
    """Gmsh's parser remembers macros and numbers; a second reading must not see those of the first."""
    own = num_cells(meshes.read(MESHES / "plate_with_holes.geo"))
    coarse = num_cells(meshes.read(MESHES / "plate_with_holes.geo", h=0.2))
    assert coarse < num_cells(meshes.read(MESHES / "plate_with_holes.geo", h=0.1)) < own
    assert num_cells(meshes.read(MESHES / "plate_with_holes.geo")) == own


@pytest.mark.parametrize("version", [2.2, 4.1])
@pytest.mark.parametrize(("order", "quads"), [(1, False), (2, False), (1, True), (2, True)])
def test_msh_formats(folder, version, order, quads):
    path = gmsh_square(folder / "a.msh", [SURFACE, LEFT], version=version, order=order, quads=quads)
    domain = meshes.read(path)
    assert measure(domain, meshes.dx(domain, "plate")) == pytest.approx(1.0)
    assert measure(domain, meshes.ds(domain, "left")) == measure(domain, meshes.ds(domain, 3)) == pytest.approx(1.0)
    assert measure(domain, meshes.ds(domain)) == pytest.approx(4.0)
    nodes_per_cell = {(1, False): 3, (2, False): 6, (1, True): 4, (2, True): 9}
    assert domain.ufl_domain().ufl_coordinate_element().sub_elements[0].dim == nodes_per_cell[order, quads]
    tags = meshes.tags_of(domain)
    assert tags.cell_names == {"plate": 7} and tags.facet_names == {"left": 3}


def test_curved_geometry():
    """Second-order cells on a disk, distributed: the area is far better than the polygon's."""

    def draw(gmsh):
        gmsh.merge(str(MESHES / "disk.geo"))
        gmsh.option.setNumber("Mesh.MeshSizeMin", 0.3)
        gmsh.model.mesh.generate(2)
        gmsh.model.mesh.setOrder(2)

    domain = meshes.files.from_gmsh(draw, "disk of second order", COMM)
    assert measure(domain, meshes.dx(domain, "disk")) == pytest.approx(math.pi, rel=1e-4)
    assert measure(domain, meshes.ds(domain, "boundary")) == pytest.approx(2 * math.pi, rel=1e-4)


def test_tetrahedra(folder):
    groups = [(3, [1], 1, "cube"), (2, [1], 2, "bottom")]
    domain = meshes.read(gmsh_square(folder / "a.msh", groups, dim=3, h=0.7))
    assert measure(domain, meshes.dx(domain, "cube")) == pytest.approx(1.0)
    assert measure(domain, meshes.ds(domain, "bottom")) == pytest.approx(1.0)


def test_plane_away_from_the_origin(folder):
    assert meshes.read(gmsh_square(folder / "a.msh", [SURFACE], z=3.0)).geometry.dim == 2


def test_no_groups(folder):
    domain = meshes.read(gmsh_square(folder / "a.msh", []))
    assert measure(domain, meshes.dx(domain)) == pytest.approx(1.0)
    with pytest.raises(BadInput, match="no facet tags"):
        meshes.facets(domain, "left")


def test_groups_without_names(folder):
    domain = meshes.read(gmsh_square(folder / "a.msh", [(2, [1], 5, ""), (1, [4], 6, ""), (0, [1], 1, "corner")]))
    assert measure(domain, meshes.dx(domain, 5)) == pytest.approx(1.0)
    assert measure(domain, meshes.ds(domain, 6)) == pytest.approx(1.0)


def test_tagged_facets_and_untagged_cells(folder):
    domain = meshes.read(gmsh_square(folder / "a.msh", [LEFT], save_all=1))
    assert measure(domain, meshes.dx(domain)) == pytest.approx(1.0)
    assert measure(domain, meshes.ds(domain, "left")) == pytest.approx(1.0)


@pytest.mark.parametrize("version", [2.2, 4.1])
@pytest.mark.parametrize("curves", [[4], [1, 2, 3, 4]])
def test_only_facets(folder, version, curves):
    path = gmsh_square(folder / "a.msh", [(1, curves, 3, "left")], version=version)
    refused(path, "Physical Surface")


def test_only_the_surface_of_a_solid(folder):
    refused(gmsh_square(folder / "a.msh", [(2, [1, 26], 1, "skin")], dim=3), "Physical Volume")


def test_overlapping_groups(folder):
    refused(gmsh_square(folder / "a.msh", [SURFACE, LEFT, (1, [1, 2, 3, 4], 9, "all")]), "two Physical Curve")


def test_cells_of_high_degree(folder):
    refused(gmsh_square(folder / "a.msh", [SURFACE], order=4), "not supported")


def test_bad_files(folder):
    whole = (MESHES / "disk.msh").read_bytes()
    refused(folder / "missing.msh", "no such file")
    refused(write(folder / "a.vtk", "# vtk"), ".msh")
    refused(write(folder / "empty.msh", ""), "empty")
    refused(write(folder / "words.msh", "once upon a time"), "$MeshFormat")
    refused(write(folder / "noise.msh", bytes(range(256)) * 9), "$MeshFormat")
    cut = whole.index(b"$Elements") + 400
    refused(write(folder / "torn.msh", whole[:cut] + b"\n$EndElements\n"), "Gmsh")
    refused(write(folder / "wrong.geo", "Point(1) = {0, 0"), "syntax error")
    refused(write(folder / "points.geo", "Point(1) = {0, 0, 0, 1};"), "no cells")
    refused(write(folder / "fixed.geo", "h = 0.1;"), "no parameter h", h=0.2)
    refused(MESHES / "disk.msh", "h=0.2", h=0.2)
    refused(MESHES / "disk.geo", "h=-1", h=-1)
    on_all(lambda: (folder / "folder.msh").mkdir())
    refused(folder / "folder.msh", "folder")


@pytest.mark.parametrize("part", [0.001, 0.01, 0.3, 0.6, 0.9, 0.9999])
def test_truncated(folder, part):
    whole = (MESHES / "disk.msh").read_bytes()
    refused(write(folder / "a.msh", whole[: int(part * len(whole))]), "cut short")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(folder):
    path = write(folder / "a.msh", "$MeshFormat")
    on_all(lambda: path.chmod(0))
    refused(path, "permission")


def test_without_gmsh(monkeypatch):
    monkeypatch.setitem(sys.modules, "gmsh", None)
    refused(MESHES / "disk.msh", "install")
    assert num_cells(meshes.unit_square(2)) == 8


def test_gmsh_is_left_as_it_was():
    import gmsh

    gmsh.initialize(readConfigFiles=False, interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.model.add("mine")
        gmsh.model.geo.addPoint(0, 0, 0)
        before = gmsh.model.list()
        meshes.disk(0.5)
        meshes.read(MESHES / "lshape.geo", h=0.5)
        meshes.read(MESHES / "disk.msh")
        assert gmsh.isInitialized() and gmsh.model.getCurrent() == "mine" and gmsh.model.list() == before
        gmsh.model.geo.synchronize()
        assert len(gmsh.model.getEntities()) == 1
    finally:
        gmsh.finalize()
    meshes.disk(0.5)
    assert not gmsh.isInitialized()


def test_xdmf(folder):
    domain = meshes.unit_square(4)
    facets = meshes.tags_of(domain).facets
    facets.name = "sides"
    whole = domain.topology.index_map(2).size_local
    cells = mesh.meshtags(domain, 2, np.arange(whole, dtype=np.int32), np.full(whole, 5, dtype=np.int32))
    with XDMFFile(COMM, folder / "a.xdmf", "w") as file:
        file.write_mesh(domain)
        file.write_meshtags(cells, domain.geometry)
        file.write_meshtags(facets, domain.geometry)
    again = meshes.read(folder / "a.xdmf")
    assert measure(again, meshes.dx(again, 5)) == pytest.approx(1.0)
    assert measure(again, meshes.ds(again, 1)) == pytest.approx(1.0)
    on_all(lambda: (folder / "a.h5").unlink())
    refused(folder / "a.xdmf", "a.h5")
    refused(write(folder / "b.xdmf", "<Xdmf>"), "XDMF")
    refused(write(folder / "c.xdmf", "<Xdmf><Domain/></Xdmf>"), "no mesh")


# -- files that are no meshes ------------------------------------------------------------------------------------------

NODES = ["0 0 0", "1 0 0", "0 1 0", "1 1 0", "2 2 0"]


def triangles(path, nodes, cells):
    """A file of format 2.2; nodes and cells count from 1."""
    lines = ["$MeshFormat", "2.2 0 8", "$EndMeshFormat", "$Nodes", str(len(nodes))]
    lines += [f"{i} {node}" for i, node in enumerate(nodes, 1)]
    lines += ["$EndNodes", "$Elements", str(len(cells))]
    lines += [f"{i} 2 2 1 1 {cell}" for i, cell in enumerate(cells, 1)]
    return write(path, "\n".join([*lines, "$EndElements", ""]))


def triangles_of_xdmf(path, nodes, cells):
    """The same, its numbers in the file; there both count from 0."""
    numbers = " ".join(str(int(node) - 1) for cell in cells for node in cell.split())
    plane = " ".join(" ".join(node.split()[:2]) for node in nodes)
    with XDMFFile(COMM, path, "w") as file:
        file.write_mesh(meshes.unit_square(1))  # DOLFINx reads nothing without a file of data
    return write(
        path,
        '<Xdmf><Domain><Grid Name="mesh" GridType="Uniform">'
        f'<Topology TopologyType="Triangle" NumberOfElements="{len(cells)}">'
        f'<DataItem Dimensions="{len(cells)} 3" NumberType="Int" Format="XML">{numbers}</DataItem></Topology>'
        f'<Geometry GeometryType="XY"><DataItem Dimensions="{len(nodes)} 2" Format="XML">{plane}</DataItem>'
        "</Geometry></Grid></Domain></Xdmf>",
    )


@pytest.mark.parametrize(
    ("nodes", "cells", "words", "in_xdmf"),
    [
        (["nan 0 0", *NODES[1:4]], ["1 2 3", "2 4 3"], "node 1 is at (nan, 0, 0)", "node 0 is at (nan, 0)"),
        ([*NODES[:3], "1 inf 0"], ["1 2 3", "2 4 3"], "node 4 is at (1, inf, 0); expected finite", "at (1, inf)"),
        ([*NODES[:3], "1e200 1 0"], ["1 2 3", "2 4 3"], "node 4 is at (1e+200, 1, 0)", "node 3 is at (1e+200, 1)"),
        (NODES, ["1 2 3", "2 4 3", "2 3 5"], "more than two cells meet at the facet of the nodes 2, 3", "nodes 1, 2"),
        (NODES, ["1 2 3", "2 4 3", "4 3 2"], "two cells or more have the nodes 2, 3, 4", "have the nodes 1, 2, 3"),
        (NODES, ["1 2 3", "2 2 3"], "different nodes, got one of the nodes 2, 2, 3", "of the nodes 1, 1, 2"),
        ([*NODES[:3], "0.5 0.5 0"], ["1 2 3", "2 4 3"], "the cell around (0.5, 0.5) has no volume", "(0.5, 0.5)"),
    ],
    ids=["nan", "inf", "far", "three at a facet", "one twice", "a node twice", "flat"],
)
def test_no_mesh(folder, nodes, cells, words, in_xdmf):
    refused(triangles(folder / "a.msh", nodes, cells), words)
    refused(triangles_of_xdmf(folder / "a.xdmf", nodes, cells), in_xdmf)


def test_cells_of_other_ranks_count():
    cells = np.array([[0, 1, 2]] * (2 if COMM.size == 1 else 1))
    with pytest.raises(BadInput, match="two cells or more have the nodes 0, 1, 2"):
        sound.check_cells(COMM, "a mesh", "triangle", cells.astype(np.int64), 3, None)


def test_a_mesh_in_either_form(folder):
    for write_it, name in ((triangles, "a.msh"), (triangles_of_xdmf, "a.xdmf")):
        domain = meshes.read(write_it(folder / name, NODES[:4], ["1 2 3", "2 4 3"]))
        assert measure(domain, meshes.dx(domain)) == pytest.approx(1.0)
    refused(triangles_of_xdmf(folder / "b.xdmf", NODES[:4], ["1 2 3", "2 9 3"]), "a cell names node 8")
    on_all(lambda: (folder / "b.h5").write_text("no HDF5") and None)
    refused(folder / "b.xdmf", "DOLFINx cannot read it")
    on_all(lambda: (folder / "b.h5").unlink())
    refused(folder / "b.xdmf", "its data file 'b.h5' is missing")


# -- scripts that run programs -----------------------------------------------------------------------------------------

HIT = "touch hit"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.geo": f'SystemCall "{HIT}";'}, "a.geo: SystemCall runs a program on this machine"),
        ({"a.geo": f"/* */ System'{HIT}';"}, "a.geo: System runs a program"),
        ({"a.geo": f'x = "//"; NonBlockingSystemCall "{HIT}";'}, "NonBlockingSystemCall runs"),
        ({"a.geo": f'OnelabRun("x", "{HIT}");'}, "OnelabRun runs"),
        (
            {"a.geo": 'Include "b/c.geo";', "b/c.geo": 'Merge "d.txt";', "b/d.txt": f"SystemCall '{HIT}';"},
            "b/d.txt: Sys",
        ),
        ({"a.geo": "x = 1;", "a.geo.opt": f'SystemCall "{HIT}";'}, "a.geo.opt: SystemCall"),
        ({"a.geo": 'Include StrCat("b", ".geo");'}, "whose name is computed, here from 'StrCat'"),
        ({"a.geo": f'x = "{"a" * 1200}"; SystemCall "{HIT}";'}, "expected strings of up to 1000 characters"),
        ({"a.msh": (MESHES / "disk.msh").read_text(), "a.msh.opt": f'SystemCall "{HIT}";'}, "a.msh.opt: SystemCall"),
    ],
    ids=["call", "its other name", "behind", "onelab", "read", "options", "computed", "long string", "of a mesh"],
)
def test_programs_are_not_run_unasked(folder, files, words):
    on_all(lambda: (folder / "b").mkdir())
    for name, text in files.items():
        write(folder / name, text)
    refused(folder / next(iter(files)), words, "--trust-mesh")


def test_programs_are_run_when_trusted(folder):
    square = (MESHES / "lshape.geo").read_text()
    words = f'// SystemCall "no";\nx = "SystemCall"; /* OnelabRun */ {square}'
    assert num_cells(meshes.read(write(folder / "a.geo", words), h=0.5)) > 0
    run = write(folder / "b.geo", f'SystemCall "touch {folder / "hit"}";\n{square}')
    refused(run, "SystemCall", h=0.5)
    assert not (folder / "hit").exists()
    assert num_cells(meshes.read(run, h=0.5, trust=True)) > 0 and (folder / "hit").exists()
