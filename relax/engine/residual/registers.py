"""Where a point is written, to be worked at: the Functions and Constants of a problem, and those of its derivatives.

The UFL coefficients are the user's own: parameters (what is neither state nor control) are the user's again after each
call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.blocks import hand_out
from relax.base.fem.forms import Control, dual_space, holds, is_same, like, num_owned, standing, values_of, write
from relax.base.la.factors import Key
from relax.base.types import Array
from relax.engine.turn import turn
from relax.problem.problem import Problem, is_value_of, standing_in


@dataclass(frozen=True, eq=False)
class Point:
    """Where a problem was solved: local arrays with ghosts, so that going back there needs no communication.

    Attributes:
        key: names its operator, which other points can share.
        here: names the point itself.
        lasting: for each control a name for as long as its ∂F/∂m stays what it is, where that outlasts the point or
            costs next to nothing to renew: then it is kept as a matrix. None otherwise; empty for none at all.
    """

    state: Array
    controls: list[Array]
    parameters: list[Array]
    key: Key
    lasting: tuple[Key | None, ...] = ()
    here: Key = field(default_factory=Key)


class Registers:
    """The registers of a residual. Local: writing a point into them needs no communication, its ghosts are kept.

    Args:
        problem: the PDE.
        observed: Functions and Constants of the observable, parameters as those of the residual are.
        moving: parameters that are set by the solution itself: the time of a step, data.

    Attributes:
        state, controls: the problem's own.
        parameters: Functions and Constants that are neither state nor control: the user may change them.
        adjoint: for λ; ``tangent_state`` for du; ``second_adjoint`` for the derivative of λ.
        tangent_controls: for dm, one per control.
        dual_spaces: in which a derivative in a control is tested: the field's own, or that of a Constant's entries.
        changeable: the parameters but for the moving ones.
    """

    def __init__(self, problem: Problem, observed: Sequence[Control] = (), moving: Sequence[Control] = ()) -> None:
        V = problem.state.function_space
        self.comm = problem.mesh.comm
        self.state: fem.Function = problem.state
        self.controls = tuple(problem.controls)
        self.adjoint = fem.Function(V)
        self.second_adjoint = fem.Function(V)
        self.tangent_state = fem.Function(V)
        self.tangent_controls: list[Control] = [like(c, problem.mesh) for c in self.controls]
        self.dual_spaces = [dual_space(c, problem.mesh) for c in self.controls]
        self._num_owned = num_owned(V)
        own = (self.state, *self.controls)
        of_boundary = [t for bc in problem.bcs for t in standing_in(bc)]
        terminals = {id(t): t for t in (*standing(problem.residual), *observed, *of_boundary)}.values()
        self.parameters: list[Control] = [t for t in terminals if not any(is_same(t, o) for o in own)]
        self.changeable = [p for p in self.parameters if not any(p is m for m in moving)]
        live = (*self.controls, *self.changeable, *moving)
        copied = [bc for bc in problem.bcs if not standing_in(bc)]
        self._given = [bc.g for bc in copied if not any(is_value_of(bc, terminal) for terminal in live)]

    # -- a point -------------------------------------------------------------------------------------------------------

    def install(self, point: Point) -> None:
        """Write a point: its controls, parameters and state."""
        self.install_controls(point.controls)
        self.install_parameters(point.parameters)
        self.state.x.array[:] = point.state
        hand_out(self.state)

    def install_controls(self, parts: Sequence[Array]) -> None:
        """Write control parts: owned and ghost values, entries of constants."""
        _write(self.controls, parts)

    @contextmanager
    def holding(self, point: Point) -> Iterator[None]:
        """The registers hold a point within the block; parameters are the user's again after it."""
        with self.lent():
            self.install(point)
            yield

    # -- parameters ----------------------------------------------------------------------------------------------------

    def present_parameters(self) -> list[Array]:
        """Copies of the values of parameters, and of boundary conditions that nothing else gives, as they stand."""
        return [np.array(values_of(p)) for p in self.changeable] + [np.array(_value_of(g)) for g in self._given]

    def install_parameters(self, values: Sequence[Array]) -> None:
        """Write such values."""
        own = len(self.changeable)
        _write(self.changeable, values[:own])
        for g, value in zip(self._given, values[own:], strict=True):
            _value_of(g)[...] = value

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The registers may be written within the block; parameters are the user's again after it.

        Raises:
            BadInput: when another call is about to write them.
        """
        with turn(self.state):
            users = self.present_parameters()
            try:
                yield
            finally:
                self.install_parameters(users)

    # -- directions and adjoints ---------------------------------------------------------------------------------------

    def install_tangent(self, parts: Sequence[Array]) -> None:
        """Write dm: control parts, owned and ghost values, entries of constants."""
        _write(self.tangent_controls, parts)

    def install_state_tangent(self, du: Array) -> None:
        """Write du, (owned,). Collective."""
        self._scatter(self.tangent_state, du)

    def install_adjoint(self, lam: Array) -> None:
        """Write λ, (owned,). Collective."""
        self._scatter(self.adjoint, lam)

    def install_second_adjoint(self, dlam: Array) -> None:
        """Write dλ, (owned,). Collective."""
        self._scatter(self.second_adjoint, dlam)

    def _scatter(self, register: fem.Function, owned: Array) -> None:
        register.x.array[: self._num_owned] = owned
        register.x.scatter_forward()


class Parameters:
    """Snapshots of parameters, and keys for what depends on nothing else. Collective, as is ``snapshot``.

    Args:
        registers: the registers.
        operator: the form ∂F/∂u.

    Attributes:
        operator_key: names ∂F/∂u as long as no parameter in it changes.
        everything_key: names what depends on any parameter.
    """

    def __init__(self, registers: Registers, operator: ufl.Form) -> None:
        self._registers = registers
        self._in_operator = [holds(operator, p) for p in registers.changeable]
        self._values = registers.present_parameters()
        self.operator_key = Key()
        self.everything_key = Key()

    def snapshot(self) -> list[Array]:
        """The values now; the very list of the last time while they stay the same. Keys are renewed where they must."""
        now, comm = self._registers.present_parameters(), self._registers.comm
        changed = [not np.array_equal(a, b) for a, b in zip(now, self._values, strict=True)]
        if not now or not parallel.any_rank(comm, any(changed)):
            return self._values
        # Values of boundary conditions, which come last, are in no operator.
        if parallel.any_rank(comm, any(c and held for c, held in zip(changed, self._in_operator, strict=False))):
            self.operator_key = Key()
        self.everything_key = Key()
        self._values = now
        return self._values


def _write(registers: Sequence[Control], parts: Sequence[Array]) -> None:
    for register, part in zip(registers, parts, strict=True):
        write(register, part)


def _value_of(g: Any) -> Array:
    """The live values of what a boundary condition takes its values from: DOLFINx keeps the C++ object alone."""
    values: Array = g.x.array if hasattr(g, "x") else g.value
    return values
