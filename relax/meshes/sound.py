"""Whether nodes and cells make a mesh: looked for before DOLFINx, which finds it on one rank alone or not at all."""

from __future__ import annotations

import basix
import numpy as np
import numpy.typing as npt
from dolfinx import mesh
from mpi4py import MPI

from relax.base import parallel
from relax.errors import BadInput

_Nodes = npt.NDArray[np.int64]
#: The cube of a longer coordinate, which volumes are made of, is no number.
FAR = 1e100
# A simplex whose volume is below this part of its size to the power of its dimension is flat: rounding.
_FLAT = 1e-15
# Rows of integers as one, by sums of multiples with odd factors modulo 2^64; equal ones are compared then.
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64)


def check_nodes(what: str, points: npt.NDArray[np.float64], names: npt.ArrayLike) -> None:
    """Refuse nodes that are nowhere. Local.

    Args:
        what: the mesh, for the message.
        points: coordinates, (n, gdim).
        names: the number of each node, as the file has it, (n,).

    Raises:
        BadInput: naming the first.
    """
    bad = np.flatnonzero(~(np.abs(points) <= FAR).all(axis=1))
    if bad.size:
        where = ", ".join(f"{x:g}" for x in points[bad[0]])
        raise BadInput(
            f"{what}: node {np.asarray(names)[bad[0]]} is at ({where}); expected finite coordinates of at most "
            f"{FAR:.0e} ({bad.size} of {len(points)} nodes are elsewhere); make the mesh again"
        )


def check_cells(comm: MPI.Comm, what: str, cell: str, cells: _Nodes, num_nodes: int, names: _Nodes | None) -> None:
    """Refuse cells that make no mesh: with absent nodes or one node twice, twice the same, or three at a facet.

    Collective.

    Args:
        comm: the ranks, each of which brings cells.
        what: the mesh, for the messages.
        cell: their kind, such as "triangle".
        cells: nodes of each cell, vertices first, in DOLFINx's order: (n, nodes of a cell).
        num_nodes: how many nodes there are on all ranks.
        names: on rank 0, their numbers in the file, (num_nodes,); their places where None.

    Raises:
        BadInput: on every rank, naming nodes.
    """
    topology = basix.topology(basix.CellType[cell])
    vertices = cells[:, : len(topology[0])]

    def of(nodes: _Nodes) -> str:
        return f"the nodes {', '.join(str(n if names is None else names[n]) for n in nodes)}"

    with parallel.together(comm):
        if cells.size and not (cells.min() >= 0 and cells.max() < num_nodes):
            raise BadInput(f"{what}: a cell names node {cells.max()}, or {cells.min()}, and there are {num_nodes}")
        rows = np.sort(cells, axis=1)
        if (twice := np.flatnonzero((rows[:, 1:] == rows[:, :-1]).any(axis=1))).size:
            raise BadInput(
                f"{what}: expected cells of different nodes, got one of {of(cells[twice[0]])}; make it again"
            )
    same = _too_often(comm, np.sort(vertices, axis=1), 1)
    crowded = _too_often(comm, np.concatenate([np.sort(vertices[:, f], axis=1) for f in topology[-2]]), 2)
    with parallel.together(comm):
        if same is not None and comm.rank == 0:
            raise BadInput(f"{what}: two cells or more have {of(same)}; expected each cell once, remove duplicates")
        if crowded is not None and comm.rank == 0:
            raise BadInput(
                f"{what}: more than two cells meet at the facet of {of(crowded)}; expected a manifold, where at most "
                "two do"
            )


def _too_often(comm: MPI.Comm, rows: _Nodes, most: int) -> _Nodes | None:
    """A row that is there more than ``most`` times on all ranks together; None where none is. Collective."""
    with np.errstate(over="ignore"):
        keys = sum(
            ((rows[:, i].astype(np.uint64) + np.uint64(i + 1)) * _FACTORS[i % 4] for i in range(rows.shape[1])),
            start=np.zeros(len(rows), dtype=np.uint64),
        )
    if comm.size > 1:
        # Equal rows go to one rank.
        home = (keys >> np.uint64(33)) % np.uint64(comm.size)
        rows, keys = (parallel.rows_at_home(comm, what, home) for what in (rows, keys))
    ordered = np.sort(keys)
    suspects = ordered[most:][ordered[most:] == ordered[: max(len(keys) - most, 0)]]
    found: _Nodes | None = None
    if suspects.size:
        unique, counts = np.unique(rows[np.isin(keys, suspects)], axis=0, return_counts=True)
        if (counts > most).any():
            found = unique[counts > most][0]
    return next((row for row in parallel.on_each_rank(comm, found) if row is not None), None)


def check_volumes(what: str, domain: mesh.Mesh) -> None:
    """Refuse simplices without a volume, on which gradients are infinite. Collective.

    Raises:
        BadInput: on every rank, naming the middle of one.
    """
    gdim, tdim = domain.geometry.dim, domain.topology.dim
    cells = domain.geometry.dofmap
    if gdim != tdim or cells.shape[1] != tdim + 1:
        return
    with parallel.together(domain.comm):
        corners = domain.geometry.x[cells][:, :, :gdim]
        edges = corners[:, 1:] - corners[:, :1]
        size = np.abs(edges).max(axis=(1, 2), initial=0.0)
        flat = np.flatnonzero(~(np.abs(np.linalg.det(edges)) > _FLAT * size**tdim))
        if flat.size:
            middle = ", ".join(f"{x:g}" for x in corners[flat[0]].mean(axis=0))
            raise BadInput(f"{what}: the cell around ({middle}) has no volume; expected none, make the mesh again")
