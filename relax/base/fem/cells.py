"""Cells of a mesh by numbers that all ranks share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from dolfinx import mesh


def cell_numbers(domain: mesh.Mesh) -> npt.NDArray[np.int64]:
    """A number for each local cell, of no other cell, and the same on each rank that has the cell. Local.

    Its place in the mesh as it was read or made, which does not depend on the partition; of a submesh, which does not
    know it, its global index, which does.
    """
    topology = domain.topology
    if is_numbered(domain):
        return np.asarray(topology.original_cell_index, dtype=np.int64)
    cells = topology.index_map(topology.dim)
    return cells.local_to_global(np.arange(cells.size_local + cells.num_ghosts, dtype=np.int32))


def is_numbered(domain: mesh.Mesh) -> bool:
    """Whether cells know their place in the mesh as it was read or made: those of a submesh do not. Local."""
    try:
        return domain.topology.original_cell_index is not None
    except RuntimeError:
        return False
