"""Which values of the state are given, and which control gives them."""

from __future__ import annotations

import numpy as np
from dolfinx import fem

from relax.base.fem.forms import Control, given_back, num_owned, values_of
from relax.base.types import Array, Indices
from relax.problem.problem import Problem, is_value_of


class ClampedValues:
    """The clamped values of a problem's state.

    Where several conditions name the same value the last one holds, as in DOLFINx.

    Attributes:
        owned: clamped values that this rank owns, as local indices.
        has_controls: whether a control gives any of them, on any rank.
    """

    def __init__(self, problem: Problem) -> None:
        self._bcs = problem.bcs
        num_local = len(problem.state.x.array)
        control_of = np.full(num_local, -1, dtype=np.int64)
        entry_of = np.zeros(num_local, dtype=np.int64)
        clamped = np.zeros(num_local, dtype=bool)
        self.has_controls = False
        for bc in self._bcs:
            dofs = bc.dof_indices()[0]
            clamped[dofs] = True
            control_of[dofs] = -1
            for i, control in enumerate(problem.controls):
                if is_value_of(bc, control):
                    self.has_controls = True
                    control_of[dofs] = i
                    entry_of[dofs] = _entries(bc, control, num_local)[dofs]
        self.owned: Indices = np.flatnonzero(clamped[: num_owned(problem.state.function_space)])
        self._dofs = [np.flatnonzero(control_of == i) for i in range(len(problem.controls))]
        self._entries = [entry_of[dofs] for dofs in self._dofs]

    def apply(self, state: Array) -> None:
        """Write the given values into a state's local array (owned and ghosts). Local."""
        for bc in self._bcs:
            bc.set(state)

    def lift(self, parts: list[Array], state: Array) -> None:
        """Write the variation of the given values, for control variations ``parts``, into a local state. Local."""
        for part, dofs, entries in zip(parts, self._dofs, self._entries, strict=True):
            state[dofs] = part[entries]

    def collect(self, dual: Array, i: int, into: Array) -> None:
        """The transpose of ``lift`` for control i: add the owned clamped entries of ``dual`` to ``into``. Local."""
        mine = self._dofs[i] < len(dual)
        np.add.at(into, self._entries[i][mine], dual[self._dofs[i][mine]])


def _entries(bc: fem.DirichletBC, control: Control, num_local: int) -> Indices:
    """For each clamped value, which entry of the control it is: found by letting the condition copy entry numbers.

    DOLFINx tells this map for no kind of condition (a field, a subspace, a constant) but applies it for all.
    """
    values, numbered = values_of(control), np.zeros(num_local)
    with given_back([control]):
        values[...] = np.arange(values.size, dtype=np.float64).reshape(values.shape)
        bc.set(numbered)
    return np.rint(numbered).astype(np.int64)
