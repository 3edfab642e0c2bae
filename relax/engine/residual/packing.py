"""A vector form that is assembled again and again with one coefficient changing.

DOLFINx copies the values of every coefficient to the cells before it assembles: a quarter of the time of a gradient. At
one linearisation point only λ changes between gradients.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from dolfinx import fem

from relax.base.fem import compat
from relax.base.fem.forms import cell_dofs
from relax.base.types import Array


class PackedForm:
    """A compiled vector form whose coefficients are kept packed for one point.

    Args:
        form: the form.
        changing: the one coefficient that may change while the point stays.
    """

    def __init__(self, form: fem.Form, changing: fem.Function) -> None:
        self._form = form
        self._changing = changing
        self._point: weakref.ref[Any] | None = None
        self._constants: Array = np.empty(0)
        self._coefficients: dict[Any, Array] = {}
        self._first = _first_column(form, changing)
        V = changing.function_space
        owned = slice(V.mesh.topology.index_map(V.mesh.topology.dim).size_local)
        # As NumPy indexes, so that it need not convert them each time.
        self._dofs = cell_dofs(V, owned).astype(np.int64)
        self._refreshed: Array | None = None

    def assemble(self, into: Array, point: object) -> None:
        """Add this rank's contributions to a local array. Local.

        Args:
            into: owned and ghost values.
            point: names what all registers but the changing one hold, and lives as long as they count as unchanged.
        """
        if self._refreshed is not None and self._point is not None and self._point() is point:
            self._refreshed[...] = self._changing.x.array[self._dofs]
        else:
            self._constants = compat.pack_constants(self._form)
            self._coefficients = compat.pack_coefficients(self._form)
            self._point = weakref.ref(point)
            self._refreshed = self._changing_part()
        fem.assemble_vector(into, self._form, self._constants, self._coefficients)

    def _changing_part(self) -> Array | None:
        """The packed values of the changing coefficient, if a row holds a cell's as they are; None if it is not simple.

        It is for integrals over all cells, of elements whose values go to the cells unchanged; several kinds of
        integrals, parts of the mesh and transformed elements are left to DOLFINx.
        """
        if self._first is None or len(self._coefficients) != 1:
            return None
        (packed,) = self._coefficients.values()
        if len(packed) != len(self._dofs):
            return None
        part = packed[:, self._first : self._first + self._dofs.shape[1]]
        values = self._changing.x.array[self._dofs]
        return part if values.any() and np.array_equal(part, values) else None


def _first_column(form: fem.Form, changing: fem.Function) -> int | None:
    """Where the changing coefficient begins among a form's packed ones; None if it does not stand there."""
    first = 0
    for coefficient in form._cpp_object.coefficients:
        if coefficient is changing._cpp_object:
            return first
        first += coefficient.function_space.element.space_dimension
    return None
