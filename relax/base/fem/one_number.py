"""Functions of one number for all of the mesh, as Functions on it whose values in all cells are the same."""

from __future__ import annotations

from typing import Any

import basix.ufl
import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.extended import Extended
from relax.base.fem.forms import num_owned
from relax.base.types import Array
from relax.errors import BadProblem


def is_one_number(V: fem.FunctionSpace) -> bool:
    """Whether the Functions of a space are a number, or a vector or tensor, for all of the mesh. Local."""
    return bool(V.dofmap.index_map.size_global == 1 and V.ufl_element().embedded_superdegree == 0)


def is_real_element(element: Any) -> bool:
    """Whether an element is Basix's for one number, or several, for all of the mesh; it has no public name. Local."""
    return isinstance(element.sub_elements[0] if element.block_size > 1 else element, basix.ufl._RealElement)


class OneNumber(Extended):
    """A number λ for all of the mesh as one in each cell, of which all are to be the same.

    The equation of λ, tested with one number, is the sum of those of all cells. Collective, as is every method.

    Args:
        given: the Function of one number, or of a vector or tensor.

    Attributes:
        function: the Function of cells, zero.
        dofs: where local values of it are that those of ``given`` are.
        off: nothing.

    Raises:
        BadProblem: where a rank has no cells.
    """

    def __init__(self, given: fem.Function) -> None:
        V = given.function_space
        self.function = fem.Function(fem.functionspace(V.mesh, ("DG", 0, V.value_shape)), name=given.name)
        if parallel.any_rank(V.mesh.comm, len(self.function.x.array) == 0):
            raise BadProblem(
                f"state: {given.name!r} is a number for a mesh of which a rank has no cells; try fewer ranks"
            )
        self.dofs = np.arange(len(given.x.array), dtype=np.int64)
        self.off = np.empty(0, dtype=np.int64)
        self._comm, self._num_owned = V.mesh.comm, num_owned(V)

    def spread(self, values: Array) -> Array:
        """A value of the rank that owns it, in every cell: (num_local,)."""
        own = np.zeros(len(self.dofs))
        own[: self._num_owned] = values[: self._num_owned]
        return np.tile(parallel.sum_over_ranks(self._comm, own), len(self.function.x.array) // len(own))
