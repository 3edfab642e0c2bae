"""One step of an equation in time as a function of the state and a control: the physics of a closed loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.coefficients import local_values
from relax.base.fem.forms import Control, given_back, values_of, write
from relax.base.fem.layout import SpaceLayout
from relax.base.la.options import Options
from relax.base.teams import Teams
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.engine.solve.newton import Newton
from relax.errors import BadInput, BadProblem
from relax.layer.layer import SolutionLayer
from relax.observe import FieldValues, Observable
from relax.problem.evolution import Evolution


class OneStep(torch.nn.Module):
    """(u_t, c_t, t) -> u_{t+1}, for tensors; made by :func:`one_step`. It has no parameters of its own.

    Attributes:
        G: the map of one step: of u_t and c_t, in this order.
        size_state, size_control: the lengths of u and c.
    """

    def __init__(
        self, evolution: Evolution, G: ReducedMap, fixed: Mapping[Control, Array], teams: Teams | None
    ) -> None:
        super().__init__()
        self.G = G
        self.size_state = G.size_out
        self.size_control = G.size_in - G.size_out
        self._evolution = evolution
        self._fixed = fixed
        self._layer = SolutionLayer(G, teams=teams)

    def forward(self, s: Tensor, c: Tensor, t: int = 0) -> Tensor:
        """The state after the step from time t dt: (..., n), (..., k) -> (..., n). Collective.

        Args:
            s: u_t, in the order of ``FieldValues``.
            c: c_t, in the order of ``relax.control_values``.
            t: the number of the step, from 0: sets the equation's time, length and data, where it has them.
        """
        with parallel.together(self.comm):
            self._check(s, c)
        evolution = self._evolution
        clock = evolution.clock
        held = [*self._fixed, *clock.registers]
        with given_back(held):
            for control, values in self._fixed.items():
                write(control, values)
            clock.set(t + 1, clock.grid(t + 1))
            y: Tensor = self._layer(torch.cat([s, c.to(s)], dim=-1))
        return y

    def _check(self, s: Any, c: Any) -> None:
        for what, tensor in (("state", s), ("control", c)):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
                raise BadInput(f"one_step: {what}: expected a tensor of floating point numbers, got {got}")
        if s.shape[-1:] != (self.size_state,) or c.shape != (*s.shape[:-1], self.size_control):
            raise BadInput(
                f"one_step: expected a state (..., {self.size_state}) and a control (..., {self.size_control}) with "
                f"the same leading axes, got {tuple(s.shape)} and {tuple(c.shape)}"
            )

    def __deepcopy__(self, memo: dict[int, object]) -> OneStep:
        """A copy would share the map, and there is nothing else. Local."""
        return self

    @property
    def comm(self) -> MPI.Comm:
        """The ranks that call it together."""
        return self._layer.comm

    def seen_by(self, observable: Observable) -> Array:
        """The matrix (p, n) of a linear observable, for states in this order. Collective."""
        u = self._evolution.state
        observable.check_state(u)
        if any(observable.holds(c) for c in self._evolution.controls):
            raise BadInput(
                "ClosedLoop: observe: expected an observable of the state alone, got one that holds a control"
            )
        rows = np.array([observable.adjoint(u, row) for row in np.eye(observable.size)])
        return SpaceLayout(u.function_space).gather(rows, dual=True)


def one_step(
    evolution: Evolution,
    *,
    control: Control,
    fixed: Mapping[Control, Any] | None = None,
    solver: Newton = Newton(),
    options: Options | str | None = None,
    teams: Teams | None = None,
) -> OneStep:
    """One step of an equation in time, for :class:`ClosedLoop` and other networks in a loop with it.

    Collective. ``OneStep`` is a torch module, (s, c, t=0) -> s, with (batch, n), (batch, k) -> (batch, n): s is the
    state at its nodes, in the order of ``FieldValues``, c the control's entries. An operator that does not change with
    them is factored once, for all steps of all runs.

    Args:
        evolution: the equation; its initial state and ``num_steps`` do not matter.
        control: the one control of its steps that the loop sets: a field or a Constant.
        fixed: values of the other controls, as :func:`relax.control_values` takes them; what is not named keeps the
            values that it has now.
        solver: as of ``ReducedMap``.
        options: as of ``ReducedMap``.
        teams: as of ``SolutionLayer``.

    Raises:
        BadProblem: for an evolution whose steps are those of another unknown (a substitution).
        BadInput: for something else than a control of its steps.
    """
    of_kind(evolution, Evolution, "a relax.Evolution", "one_step: evolution")
    if evolution.substitution is not None:
        raise BadProblem("one_step: the steps of this evolution are those of another unknown, by its substitution")
    step = evolution.single_step
    others = [c for c in step.controls[1:] if c is not control]
    if len(others) == len(step.controls) - 1:
        raise BadInput(f"one_step: control: expected one of the controls of the steps, {_names(others)}, got {control}")
    if fixed is not None:
        of_kind(fixed, Mapping, "a dictionary {control: values}", "one_step: fixed")
    given = dict(fixed or {})
    strange = [f for f in given if not any(f is c for c in others)]
    if strange:
        raise BadInput(
            f"one_step: fixed: expected controls of the steps but for the one that is set, {_names(others)}, got "
            f"{strange[0]}"
        )
    here = {f: values_of(f).copy() if f not in given else local_values(f, given[f], "one_step: fixed") for f in others}
    V = step.state.function_space
    seen = FieldValues(V)
    G = ReducedMap(replace(step, controls=[evolution.previous, control]), seen, solver=solver, options=options)
    return OneStep(evolution, G, here, teams)


def _names(controls: Sequence[Control]) -> str:
    return ", ".join(str(c) for c in controls) or "none"
