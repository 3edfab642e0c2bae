"""A part of a state: the whole of it, a component, or one field of a mixed state."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base.checks import of_kind
from relax.base.fem import compat
from relax.base.fem.forms import num_owned
from relax.errors import BadProblem


class StatePart:
    """The part of a state that a (sub)space names. Collective to make.

    Attributes:
        space: a space of its own for the part; V itself when V is no subspace.
    """

    def __init__(self, V: fem.FunctionSpace) -> None:
        of_kind(V, fem.FunctionSpace, "the function space of the state, or a part of it", "V")
        self._given = V
        self._is_sub = len(V.component()) > 0
        self.space: fem.FunctionSpace = V
        self._parents: npt.NDArray[np.int32] | None = None
        if self._is_sub:
            self.space, self._parents = compat.collapse(V)

    @cached_property
    def num_owned(self) -> int:
        """Values of the part that this rank owns."""
        return num_owned(self.space)

    def of(self, W: fem.FunctionSpace) -> fem.FunctionSpace:
        """The same part of another space of such fields, a subspace of it."""
        for i in self._given.component():
            W = W.sub(i)
        return W

    def in_state(self, dofs: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Local indices of the state for local indices of the part."""
        return dofs if self._parents is None else self._parents[dofs]

    def check(self, state: fem.Function, what: str) -> None:
        """Raise ``BadProblem`` unless this is a part of ``state``."""
        W = state.function_space
        fits = W._cpp_object.contains(self._given._cpp_object) if self._is_sub else W == self._given
        if not fits:
            raise BadProblem(
                f"{what}: expected the space of the state, {W.ufl_element()}, or a subspace of it "
                "(problem.state.function_space.sub(i)), got another function space"
            )
