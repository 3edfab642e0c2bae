"""All values of a field."""

from __future__ import annotations

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base.fem.forms import num_owned
from relax.base.fem.layout import SpaceLayout
from relax.base.fem.subspace import StatePart
from relax.base.types import Array
from relax.observe.base import LinearObservable, Observable


class FieldValues(LinearObservable):
    """Every degree of freedom of the state, or of a subspace of it: y = u.

    Collective. y has the order of the layout: by coordinate, then original cell, then component, independent of the
    partition. Every rank holds all of y, also under ``layout="owned"``, which distributes controls.

    Args:
        V: the state's space, or a subspace ``problem.state.function_space.sub(i)``. Its degrees of freedom must be
            point values.
    """

    def __init__(self, V: fem.FunctionSpace) -> None:
        self._part = StatePart(V)
        self._layout = SpaceLayout(self._part.space)
        self._owned = self._part.in_state(np.arange(self._part.num_owned, dtype=np.int32))
        self.size = self._layout.size

    @property
    def coordinates(self) -> npt.NDArray[np.float64]:
        """Where each entry of y lives: (size, 3), the same on every rank. Collective."""
        space, block = self._part.space, self._part.space.dofmap.index_map_bs
        local = np.repeat(space.tabulate_dof_coordinates(), block, axis=0)[: self._part.num_owned]
        return self._layout.gather(np.ascontiguousarray(local.T)).T

    def value(self, u: fem.Function) -> Array:
        return self._layout.gather(u.x.array[self._owned])

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        dual = np.zeros(num_owned(u.function_space))
        dual[self._owned] = self._layout.spread(dy)[: self._part.num_owned]
        return dual

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        if self._part.space is not state.function_space or self._part.space.num_sub_spaces > self._part.space.dofmap.bs:
            return super().on(state, other)
        return _NodalValues(self, state.function_space, other.function_space)

    def check_state(self, state: fem.Function) -> None:
        self._part.check(state, "FieldValues")


class _NodalValues(LinearObservable):
    """The values of a field of W at the degrees of freedom of V.

    Args:
        values: those of a field of V.
        V: its space.
        W: a space on the same mesh, of the same components.
    """

    def __init__(self, values: FieldValues, V: fem.FunctionSpace, W: fem.FunctionSpace) -> None:
        self._values = values
        self._low = fem.Function(V)
        self._matrix = fem_petsc.interpolation_matrix(W, V)
        self._matrix.assemble()
        self.size = values.size

    def value(self, u: fem.Function) -> Array:
        self._low.interpolate(u)
        return self._values.value(self._low)

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        dual = self._values.adjoint(self._low, dy)
        x, y = self._matrix.createVecs()
        y.array[:] = dual
        self._matrix.multTranspose(y, x)
        result = np.array(x.array_r)
        x.destroy()
        y.destroy()
        return result
