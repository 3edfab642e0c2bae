"""Which values of the state are given, and which control gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relax.base.fem.forms import num_owned, values_of
from relax.base.types import Array, Indices
from relax.engine.residual.followed import FollowedExpression
from relax.engine.residual.registers import Registers
from relax.problem.boundary import ExpressionCondition, entries_taken
from relax.problem.problem import Problem, is_value_of


class ClampedValues:
    """The clamped values of a problem's state.

    Where several conditions name the same value the last one holds, as in DOLFINx. Methods are Local, but where a value
    follows an expression: then they are collective the first time.

    Attributes:
        owned: clamped values that this rank owns, as local indices.
        has_controls: whether a control gives any of them, on any rank.
        is_affine: they are affine in the controls together.
    """

    def __init__(self, problem: Problem, registers: Registers) -> None:
        self._bcs = problem.bcs
        num_local = len(problem.state.x.array)
        holder = np.full(num_local, -1, dtype=np.int64)
        for k, bc in enumerate(self._bcs):
            holder[bc.dof_indices()[0]] = k
        self.owned: Indices = np.flatnonzero(holder[: num_owned(problem.state.function_space)] >= 0)
        copied: list[_ValuesOfControl] = []
        self._followed: list[FollowedExpression] = []
        for k, bc in enumerate(self._bcs):
            dofs = np.flatnonzero(holder == k)
            if isinstance(bc, ExpressionCondition):
                entries = entries_taken(bc, bc.values.x.array, num_local)[dofs]
                self._followed.append(FollowedExpression(bc, registers, dofs, entries))
            for i, control in enumerate(problem.controls):
                if is_value_of(bc, control):
                    entries = entries_taken(bc, values_of(control), num_local)[dofs]
                    copied.append(_ValuesOfControl(i, dofs, entries))
        self._given: list[_ValuesOfControl | FollowedExpression] = [*copied, *self._followed]
        self.has_controls = any(given.controls for given in self._given)
        self.is_affine = all(followed.is_affine for followed in self._followed)

    def apply(self, state: Array) -> None:
        """Write the given values into a state's local array (owned and ghosts)."""
        for bc in self._bcs:
            if isinstance(bc, ExpressionCondition):
                bc.refresh()
            bc.set(state)

    def lift(self, parts: list[Array], state: Array) -> None:
        """Write the variation of the given values, for control variations ``parts``, into a local state.

        Where a value follows an expression the registers of dm hold ``parts`` afterwards.
        """
        for given in self._given:
            given.lift(parts, state)

    def collect(self, dual: Array, i: int, into: Array) -> None:
        """The transpose of ``lift`` for control i: add what the owned clamped entries of ``dual`` give to ``into``."""
        for given in self._given:
            if i in given.controls:
                given.collect(dual, i, into)

    def collect_change(self, dual: Array, i: int, into: Array) -> None:
        """Add the derivative of ``collect`` along the installed dm, for the same ``dual``."""
        for followed in self._followed:
            if i in followed.controls:
                followed.collect_change(dual, i, into)


@dataclass(frozen=True)
class _ValuesOfControl:
    """Clamped values that are entries of control i. Local."""

    i: int
    dofs: Indices
    entries: Indices

    @property
    def controls(self) -> tuple[int, ...]:
        return (self.i,)

    def lift(self, parts: list[Array], state: Array) -> None:
        state[self.dofs] = parts[self.i][self.entries]

    def collect(self, dual: Array, i: int, into: Array) -> None:
        mine = self.dofs < len(dual)
        np.add.at(into, self.entries[mine], dual[self.dofs[mine]])
