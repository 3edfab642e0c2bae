"""All values of a field."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.forms import compiled, num_owned
from relax.base.fem.layout import SpaceLayout
from relax.base.fem.richer import interpolate
from relax.base.fem.subspace import StatePart
from relax.base.types import Array
from relax.errors import BadInput
from relax.observe.base import LinearObservable, Observable


class FieldValues(LinearObservable):
    """Every degree of freedom of the state, or of a subspace of it: y = u.

    Collective. y has the order of the layout: by coordinate, then original cell, then component, independent of the
    partition. Moments (RT, BDM, N1curl) stand at the midpoint of their facet, edge or cell, oriented by the coordinates
    of its vertices. Every rank holds all of y, also under ``layout="owned"``, which distributes controls.

    ``FieldValues(f.function_space).value(f)`` is the vector of any Function f, and :func:`relax.fill` the way back.

    Args:
        V: the state's space, or a subspace ``problem.state.function_space.sub(i)``.
    """

    def __init__(self, V: fem.FunctionSpace) -> None:
        self._part = StatePart(V)
        self._layout = SpaceLayout(self._part.space)
        self._owned = self._part.in_state(np.arange(self._part.num_owned, dtype=np.int32))
        self.size = self._layout.size

    @property
    def coordinates(self) -> npt.NDArray[np.float64]:
        """Where each entry of y lives: (size, 3), the same on every rank. Collective."""
        return self._layout.coordinates

    def value(self, u: fem.Function) -> Array:
        return self._layout.gather(u.x.array[self._owned])

    def mass(self, y: Array) -> Array:
        """M y for y of shape (..., size), M the mass matrix: zᵀ M y is the integral of the product of two fields.

        Collective. It is exact at any degree, also of discontinuous and of vector-valued spaces.
        """
        matrix, columns = self._mass
        n = self._part.num_owned
        rows = np.atleast_2d(self._layout.spread(y))[:, :n]
        result = np.empty_like(rows)
        for i, row in enumerate(rows):
            columns.array[:n] = row
            columns.scatter_forward()
            result[i] = matrix @ columns.array
        return self._layout.gather(result.reshape(*y.shape[:-1], n), dual=True)

    @cached_property
    def _mass(self) -> tuple[Any, la.Vector]:
        """Owned rows of the matrix, and a vector of its columns: rows have entries of ranks beyond the ghosts."""
        V = self._part.space
        form = ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V)) * ufl.dx
        # No matrix of PETSc: those that nobody destroys stay.
        matrix = fem.assemble_matrix(compiled(form))
        matrix.scatter_reverse()
        columns = la.vector(matrix.index_map(1), matrix.block_size[1])
        return matrix.to_scipy().tocsr()[: self._part.num_owned], columns

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        dual = np.zeros(num_owned(u.function_space))
        self._write(dual, dy, dual=True)
        return dual

    def _write(self, into: Array, y: Array, *, dual: bool) -> None:
        """Write y, or derivatives in it, for the part that this rank owns into an array of local values. Local."""
        into[self._owned] = self._layout.spread(y, dual=dual)[: self._part.num_owned]

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        V = self._part.space
        if V.num_sub_spaces > V.dofmap.bs:
            return super().on(state, other)
        return _NodalValues(self, state, StatePart(self._part.of(other.function_space)))

    def check_state(self, state: fem.Function) -> None:
        self._part.check(state, "FieldValues")


def fill(function: fem.Function, vector: npt.ArrayLike) -> None:
    """Write a vector into a Function: f = y, ghosts included; the way back from :class:`relax.FieldValues`.

    Collective. For the values of a field that a ``FieldValues`` has seen, and for the part of a replicated control
    vector that belongs to a field: both have the order of the layout, which does not depend on the partition.
    ``FieldValues(function.function_space).value(function)`` reads the vector again.

    Args:
        function: what is written into; of a mixed Function also a part, ``function.sub(i)``, which leaves the others as
            they are.
        vector: (size,), finite and the same on every rank, in the units of the field.

    Raises:
        BadInput: on every rank, for anything else; then nothing is written.
    """
    of_kind(function, fem.Function, "a dolfinx.fem.Function to write into", "fill: function")
    values = FieldValues(function.function_space)
    y = parallel.checked_on_all(function.function_space.mesh.comm, vector, values.size, "fill: vector")
    if y.ndim != 1:
        raise BadInput(f"fill: vector: expected one of shape ({values.size},), got {y.shape}")
    values._write(function.x.array, y, dual=False)
    function.x.scatter_forward()


class _NodalValues(LinearObservable):
    """The values of a field of a larger space at the degrees of freedom of the state's.

    Args:
        values: those of a field of the state.
        state: in whose space it is.
        part: the field of the larger space.
    """

    def __init__(self, values: FieldValues, state: fem.Function, part: StatePart) -> None:
        self._values, self._part = values, part
        self._low = fem.Function(state.function_space)
        # No matrix of PETSc: those that nobody destroys stay.
        matrix = fem.interpolation_matrix(part.space, values._part.space)
        self._matrix = matrix.to_scipy()
        self._columns = la.vector(matrix.index_map(1), matrix.block_size[1])
        self.size = values.size

    def value(self, u: fem.Function) -> Array:
        interpolate(u, self._low)
        return self._values.value(self._low)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        self._columns.array[:] = self._matrix.T @ self._values.adjoint(self._low, dy)[self._values._owned]
        self._columns.scatter_reverse(la.InsertMode.add)
        result, n = np.zeros(num_owned(u.function_space)), self._part.num_owned
        result[self._part.in_state(np.arange(n, dtype=np.int32))] = self._columns.array[:n]
        return result
