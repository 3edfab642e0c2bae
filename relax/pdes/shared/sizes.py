"""Sizes of a mesh that equations ask for."""

from __future__ import annotations

import numpy as np
from dolfinx.mesh import Mesh

from relax.base import parallel
from relax.base.types import Array


def bounding_box(mesh: Mesh) -> tuple[Array, Array]:
    """The corners of the mesh's bounding box, (3,) each. Collective."""
    return parallel.extremes(mesh.comm, mesh.geometry.x)


def cell_diameters(mesh: Mesh) -> Array:
    """The diameters of the cells of this rank. Local."""
    tdim = mesh.topology.dim
    return np.asarray(mesh.h(tdim, np.arange(mesh.topology.index_map(tdim).size_local, dtype=np.int32)))
