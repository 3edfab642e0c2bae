"""Meshes from files. Rank 0 reads and validates; only what is known to be good reaches the collective calls."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import basix.ufl
import numpy as np
import numpy.typing as npt
from dolfinx import graph, mesh
from dolfinx.io.utils import distribute_entity_data
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import as_number, of_kind
from relax.base.fem import compat
from relax.base.files import LONGEST_PATH
from relax.errors import BadInput
from relax.meshes.scripts import check_script
from relax.meshes.sound import check_cells, check_nodes, check_volumes
from relax.meshes.tags import Tags, set_tags
from relax.meshes.xdmf import read_xdmf

# Gmsh's numbers of elements of degree 1, 2 and 3, and what a number stands for.
_NUMBERS = {
    "interval": (1, 8, 26),
    "triangle": (2, 9, 21),
    "quadrilateral": (3, 10, 36),
    "tetrahedron": (4, 11, 29),
    "hexahedron": (5, 12, 92),
}
_CELLS = {number: (cell, degree) for cell, numbers in _NUMBERS.items() for degree, number in enumerate(numbers, 1)}
_POINT = 15
_GROUPS = ("Physical Point", "Physical Curve", "Physical Surface", "Physical Volume")
# A mesh whose extent along an axis is below this fraction of its size is flat in that direction.
_FLAT = 1e-10


@dataclass(frozen=True)
class _Group:
    """Entities of one dimension: Gmsh element number, nodes (num, nodes_per_entity), tag of each, names of the tags."""

    element: int
    nodes: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int32]
    names: dict[str, int]


@dataclass(frozen=True)
class _Model:
    """A mesh on rank 0, before it is distributed. ``tagged`` holds the tagged cells and the tagged facets.

    ``names`` are the numbers of its points in the file.
    """

    points: npt.NDArray[np.float64]
    names: npt.NDArray[np.int64]
    element: int
    cells: npt.NDArray[np.int64]
    tagged: tuple[_Group | None, _Group | None]


def read(
    path: str | os.PathLike[str], comm: MPI.Comm = MPI.COMM_WORLD, *, h: float | None = None, trust: bool = False
) -> mesh.Mesh:
    """Read a mesh and keep its tags, which :func:`relax.meshes.tags_of` finds.

    Collective. The physical groups of a Gmsh file become tags, by number and by name. In the plane the mesh has two
    coordinates, on the x axis one.

    Args:
        path: a Gmsh mesh (``.msh``, format 2.2 or 4.1), a Gmsh geometry (``.geo``, meshed here), or an XDMF file of
            DOLFINx (``.xdmf``).
        comm: the communicator of the mesh.
        h: for a ``.geo`` file, the value of its parameter ``h`` (declared there by ``DefineConstant``).
        trust: whether a geometry may run programs (``SystemCall`` and its like), itself or by a file that it reads.

    Raises:
        BadInput: on every rank, naming the file, what is wrong with it, and what to do.
    """
    of_kind(path, (str, os.PathLike), "the path of a mesh file", "path")
    parallel.check_comm(comm)
    name = os.fspath(path)
    suffix = Path(name).suffix.lower()

    def check() -> None:
        _check_file(name)
        if suffix not in (".msh", ".geo", ".xdmf"):
            raise BadInput(f"{name}: expected a mesh file ending in .msh, .geo or .xdmf")
        if suffix == ".xdmf" and len(os.fsencode(name)) > LONGEST_PATH:
            raise BadInput(
                f"{name:.80}...: expected a path of at most {LONGEST_PATH} bytes, which MPI can read; start it from a "
                "current folder nearby"
            )
        if h is not None and not (suffix == ".geo" and 0.0 < as_number(h) < np.inf):
            raise BadInput(f"{name}: h={h!r}; expected a positive number, and a .geo file to mesh with it")
        if suffix == ".msh":
            _check_msh(name)
        if not trust and suffix != ".xdmf":
            check_script(name)
        if h is not None and not re.search(r"DefineConstant\s*\[[^]]*\bh\s*=", Path(name).read_text(errors="replace")):
            raise BadInput(f'{name}: has no parameter h; expected "DefineConstant[ h = ... ];" in it')

    parallel.on_rank_0(comm, check)
    if suffix == ".xdmf":
        return read_xdmf(name, comm)

    def load(gmsh: Any) -> None:
        if suffix == ".geo":
            _open_geometry(gmsh, name, h)
            gmsh.model.mesh.generate(gmsh.model.getDimension())
        else:
            gmsh.merge(name)

    return from_gmsh(load, name, comm)


def from_gmsh(build: Callable[[Any], None], what: str, comm: MPI.Comm) -> mesh.Mesh:
    """The mesh and tags that ``build(gmsh)`` leaves in Gmsh's current model on rank 0.

    Collective. ``build`` runs on rank 0 alone and may raise.
    """
    model: _Model | None = None
    with parallel.together(comm):
        if comm.rank == 0:
            with _gmsh_session(what) as gmsh:
                build(gmsh)
                model = _extract(gmsh, what)
    return _distribute(model, what, comm)


def _check_file(name: str) -> None:
    if not os.path.exists(name):
        raise BadInput(f"{name:.300}: there is no such file (looked from {os.getcwd()})")
    if not os.path.isfile(name):
        raise BadInput(f"{name}: expected a mesh file, got a folder or a device")
    if not os.access(name, os.R_OK):
        raise BadInput(f"{name}: no permission to read this file; try chmod +r")
    if os.path.getsize(name) == 0:
        raise BadInput(f"{name}: the file is empty; make it again")


def _check_msh(name: str) -> None:
    text = Path(name).read_bytes()
    if not text.startswith(b"$MeshFormat"):
        raise BadInput(f"{name}: does not begin with $MeshFormat, so it is no Gmsh mesh of format 2.2 or 4.1")
    if b"\n$EndNodes" not in text or b"\n$EndElements" not in text:
        raise BadInput(f"{name}: ends before its nodes and elements do; the file was cut short, make it again")


def _open_geometry(gmsh: Any, name: str, h: float | None) -> None:
    """Parse a .geo file with its parameter h at this value.

    Gmsh's parser remembers numbers and macros for the life of the process, and only ``gmsh.open`` forgets them: what
    ``gmsh.parser.setNumber`` sets goes with the rest. So h is set in a file that includes the geometry.
    """
    if h is None:
        gmsh.open(name)
        return
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder, Path(name).name)
        outer.write_text(f'h = {float(h)!r};\nInclude "{os.path.abspath(name)}";\n')
        gmsh.open(str(outer))


@contextmanager
def _gmsh_session(what: str) -> Iterator[Any]:
    """Gmsh with a model of our own and a silent terminal, left as it was found. Its errors become ``BadInput``."""
    try:
        import gmsh
    except (ImportError, OSError) as cause:
        raise BadInput(
            f"{what}: needs the Python package gmsh ({cause}); install python3-gmsh (Debian), python-gmsh "
            "(conda-forge) or gmsh (pip; needs libGLU, libXft, libXcursor and libXinerama of the system)"
        ) from cause
    ours = not gmsh.isInitialized()
    if ours:
        gmsh.initialize(readConfigFiles=False, interruptible=False)
    terminal = gmsh.option.getNumber("General.Terminal")
    before = gmsh.model.getCurrent()
    gmsh.option.setNumber("General.Terminal", 0)
    gmsh.model.add("relax")
    gmsh.logger.start()
    try:
        yield gmsh
    except BadInput:
        raise
    except Exception as cause:
        said = "; ".join(line for line in gmsh.logger.get() if line.startswith("Error")) or str(cause)
        raise BadInput(f"{what}: Gmsh could not make a mesh of it ({said})") from cause
    finally:
        gmsh.logger.stop()
        gmsh.model.remove()
        gmsh.option.setNumber("General.Terminal", terminal)
        if ours:
            gmsh.finalize()
        else:
            gmsh.model.setCurrent(before)


def _extract(gmsh: Any, what: str) -> _Model:
    """Gmsh's current model as arrays."""
    mesher = gmsh.model.mesh
    tdim = max((d for d in range(4) if mesher.getElements(d)[0].size), default=0)
    if tdim == 0:
        raise BadInput(f"{what}: holds no cells; mesh the geometry, and put its surface or volume in a physical group")
    elements, tags, nodes = mesher.getElements(tdim)
    if len(elements) > 1:
        kinds = ", ".join(gmsh.model.mesh.getElementProperties(e)[0] for e in elements)
        raise BadInput(f"{what}: expected cells of one kind, got {kinds}")
    element = int(elements[0])
    if element not in _CELLS:
        kinds = mesher.getElementProperties(element)[0]
        raise BadInput(
            f"{what}: cells of the kind {kinds!r} are not supported; use simplices, quadrilaterals or hexahedra"
        )
    cells = nodes[0].reshape(tags[0].size, -1).astype(np.int64)

    used = np.unique(cells)
    node_tags, coordinates, _ = mesher.getNodes()
    order = np.argsort(node_tags)
    place = np.searchsorted(node_tags[order], used)
    points = coordinates.reshape(-1, 3)[order[place]]
    check_nodes(what, points, used)
    gdim = _dimension(points)
    if gdim != tdim:
        raise BadInput(
            f"{what}: holds cells of dimension {tdim} in {gdim}-dimensional space; expected the dimensions to agree. "
            f"If these are only its boundary, put the rest in a {_GROUPS[gdim]} group and save it again"
        )
    return _Model(
        points=points[:, :gdim],
        names=used,
        element=element,
        cells=np.searchsorted(used, cells),
        tagged=(_group(gmsh, tdim, used, what), _group(gmsh, tdim - 1, used, what)),
    )


def _dimension(points: npt.NDArray[np.float64]) -> int:
    """How many of x, y, z a mesh needs, in this order."""
    extent = np.ptp(points, axis=0)
    return 1 + int(np.flatnonzero(extent > _FLAT * extent.max()).max(initial=0))


def _group(gmsh: Any, dim: int, used: npt.NDArray[np.int64], what: str) -> _Group | None:
    """The entities of one dimension that are in a physical group; None when none is."""
    blocks, numbers, seen, names, kinds = [], [], [], {}, set()
    for _, number in gmsh.model.getPhysicalGroups(dim):
        name = gmsh.model.getPhysicalName(dim, number)
        if name in names:
            raise BadInput(f"{what}: two groups are called {_GROUPS[dim]}({name!r}); give each its own name")
        if name:
            names[name] = number
        for entity in gmsh.model.getEntitiesForPhysicalGroup(dim, number):
            for kind, tags, nodes in zip(*gmsh.model.mesh.getElements(dim, entity), strict=True):
                kinds.add(int(kind))
                seen.append(tags)
                blocks.append(nodes.reshape(tags.size, -1).astype(np.int64))
                numbers.append(np.full(tags.size, number, dtype=np.int32))
    if not blocks:
        return None
    twice = sum(tags.size for tags in seen) - np.unique(np.concatenate(seen)).size
    if twice:
        raise BadInput(
            f"{what}: {twice} entities are in two {_GROUPS[dim]} groups, and DOLFINx keeps one tag for each; "
            "put each in one group (where relax asks for a tag it also takes a list of tags)"
        )
    (element,) = kinds
    nodes = np.concatenate(blocks)
    place = np.minimum(np.searchsorted(used, nodes), used.size - 1)
    if (used[place] != nodes).any():
        raise BadInput(
            f"{what}: some entities of its {_GROUPS[dim]} groups belong to no cell; expected parts of the mesh"
        )
    return _Group(element, place, np.concatenate(numbers), names)


def _distribute(model: _Model | None, what: str, comm: MPI.Comm) -> mesh.Mesh:
    """A model of rank 0 as a mesh over all ranks. Collective."""
    head: Any = None
    if model is not None:
        groups = [None if g is None else (g.element, g.nodes.shape[1], g.names) for g in model.tagged]
        head = (model.element, model.cells.shape[1], model.points.shape, groups)
    element, num_nodes, (num_points, gdim), groups = parallel.of_rank_0(comm, head)
    cell, degree = _CELLS[element]
    permutation = compat.gmsh_cell_permutation(mesh.to_type(cell), num_nodes)
    nodes = model.cells[:, permutation] if model is not None else np.empty((0, num_nodes), dtype=np.int64)
    points = model.points if model is not None else np.empty((0, gdim))
    check_cells(comm, what, cell, nodes, num_points, model.names if model is not None else None)
    variant = basix.LagrangeVariant.equispaced
    domain = mesh.create_mesh(
        comm,
        cells=np.ascontiguousarray(nodes),
        x=np.ascontiguousarray(points),
        e=basix.ufl.element("Lagrange", cell, degree, lagrange_variant=variant, shape=(gdim,)),
        partitioner=compat.cell_partitioner(mesh.GhostMode.shared_facet),
    )
    check_volumes(what, domain)
    tags: list[mesh.MeshTags | None] = [None, None]
    for codim, group in enumerate(groups):
        if group is not None:
            mine = model.tagged[codim] if model is not None else None
            tags[codim] = _distribute_tags(domain, domain.topology.dim - codim, group[:2], mine)
    of_cells, of_facets = (group[2] if group is not None else {} for group in groups)
    set_tags(domain, Tags(tags[0], tags[1], of_cells, of_facets))
    return domain


def _distribute_tags(domain: mesh.Mesh, dim: int, shape: tuple[int, int], group: _Group | None) -> mesh.MeshTags:
    """Rank 0's tagged entities as tags of the distributed mesh. Collective.

    Args:
        domain: the mesh.
        dim: dimension of the entities.
        shape: their Gmsh element number and number of nodes.
        group: the entities on rank 0, None elsewhere.
    """
    element, num_nodes = shape
    nodes: npt.NDArray[np.int64] = np.empty((0, num_nodes), dtype=np.int64)
    numbers: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)
    if group is not None:
        permutation = [0]
        if element != _POINT:
            permutation = compat.gmsh_cell_permutation(mesh.to_type(_CELLS[element][0]), num_nodes)
        nodes, numbers = np.ascontiguousarray(group.nodes[:, permutation]), group.numbers
    entities, values = distribute_entity_data(domain, dim, nodes, numbers)
    domain.topology.create_entities(dim)
    domain.topology.create_connectivity(dim, 0)
    domain.topology.create_connectivity(dim, domain.topology.dim)
    return mesh.meshtags_from_entities(domain, dim, graph.adjacencylist(entities), values.astype(np.int32))
