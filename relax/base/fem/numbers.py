"""A space of numbers: one value for all cells of a rank, as the derivative of a form in a Constant needs."""

from __future__ import annotations

import dolfinx
import numpy as np
from dolfinx import fem, mesh

from relax.base.fem import compat


def numbers(domain: mesh.Mesh, shape: tuple[int, ...]) -> fem.FunctionSpace:
    """Functions that are constant on each rank, of a shape. Collective.

    A form with its test function is assembled into an array of so many entries: this rank's part of their sum.
    """
    V = fem.functionspace(domain, ("DG", 0, shape))
    bs = V.dofmap.bs
    one = dolfinx.cpp.graph.AdjacencyList_int32(np.zeros((len(V.dofmap.list), 1), dtype=np.int32))
    index_map = dolfinx.cpp.common.IndexMap(domain.comm, 1)
    return compat.with_dofmap(V, dolfinx.cpp.fem.DofMap(V.dofmap.dof_layout, index_map, bs, one, bs))
