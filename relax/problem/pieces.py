"""A coefficient that is constant on each tagged piece of a mesh, one number a piece."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dolfinx import fem, mesh

from relax.base import parallel
from relax.base.fem.expansion import Expansion
from relax.base.fem.forms import num_owned
from relax.meshes.tags import Tag, labels


def pieces(domain: mesh.Mesh, tags: mesh.MeshTags | Sequence[Tag]) -> Expansion:
    """The scalar field f(x) = s_i in the cells of the i-th tag, of which the numbers s_i are the control.

    Collective. To a form f is a DG-0 Function, so one form serves any number of tags. It stands in a residual, in
    ``controls`` and in ``per_step`` as any other; its part of a control vector is s, in the order of the tags: on every
    rank in the replicated layout, on rank 0 in the owned one. ``f.values`` reads s and sets it (zeros at first).

    Args:
        domain: the mesh.
        tags: names and numbers of cells' tags (:func:`relax.meshes.set_tags`, or of the mesh's file), the same on every
            rank; or a ``dolfinx.mesh.MeshTags`` of cells, whose values in rising order are the tags. Each cell has one
            of them; one that stays as it is goes into the residual as ``f0 + f``.

    Raises:
        BadInput: when a tag has no cell, stands there twice, or a cell has none of the tags.
    """
    import scipy.sparse  # a third of what importing relax costs, and no solve needs it

    comm, (size, places) = domain.comm, labels(domain, tags)
    V = fem.functionspace(domain, ("DG", 0))
    number = fem.Function(V)
    number.x.array[V.dofmap.list[: len(places), 0]] = places
    number.x.scatter_forward()  # floats carry the numbers exactly
    columns = np.rint(number.x.array).astype(np.int64)
    dofs = np.arange(len(columns))
    basis = scipy.sparse.csr_matrix((np.ones(len(columns)), (dofs, columns)), (len(columns), size))
    # A number is read off one cell of its piece, the first of the lowest rank, so that it comes back to the bit.
    mine, first = np.unique(columns[: num_owned(V)], return_index=True)
    ranks = np.full(size, comm.size)
    ranks[mine] = comm.rank
    first = first[parallel.smallest(comm, ranks)[mine] == comm.rank]
    rows = columns[first]
    inverse = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, first)), (size, num_owned(V)))
    return Expansion(V, basis, inverse, "pieces", "one for each tag")
