"""The interface of an observation, and several observations as one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import of_kind, several
from relax.base.fem.blocks import hand_out
from relax.base.fem.forms import Control, given_back, num_owned, values_of
from relax.base.types import Array
from relax.errors import BadInput, BadProblem, SolveFailed

_STEP = 1e-4


@dataclass(frozen=True)
class Look:
    """One look at a trajectory: y[start : start + observable.size] += weight * B(u_step).

    Attributes:
        step: n.
        observable: B, of one state.
        start: where in y.
        weight: of it; where it is one of an integral over time that was not told the length of steps, the map takes the
            weight of step n by the trapezoidal rule.
        of_integral: whether it belongs to an integral over time.
        dt: the length of a step that this was told.
    """

    step: int
    observable: Observable
    start: int
    weight: float
    of_integral: bool = False
    dt: float | fem.Constant | None = None

    @property
    def part(self) -> slice:
        """Where in y it is added."""
        return slice(self.start, self.start + self.observable.size)


def by_step(looks: Iterable[Look]) -> dict[int, list[Look]]:
    """The looks at each step that is looked at."""
    steps: dict[int, list[Look]] = {}
    for look in looks:
        steps.setdefault(look.step, []).append(look)
    return steps


class Observable(ABC):
    """y = B(u), or B(u, m) with controls m, with y a vector of length ``size`` that every rank holds.

    To write one: set ``size`` and give ``value``, ``tangent`` and ``adjoint``, which are collective. States and their
    variations come as Functions of the state's space with ghosts up to date; dual vectors of the state are arrays of
    the values that this rank owns. One of several steps of an evolution sets ``needs_steps`` and gives ``looks``, which
    is local; the three are those of what it looks with, and its own are never called.

    One in which controls may stand names them among its ``parameters``, reads what they hold, and gives
    ``control_tangent`` and ``control_adjoint`` as well, collective as the others: the derivatives at a fixed state.
    """

    size: int
    #: True only where B is known to be linear or affine: then samples of an affine problem share their adjoint solves.
    is_linear: bool = False
    #: True for what looks at the steps of an evolution and has no meaning for a single state.
    needs_steps: bool = False

    @abstractmethod
    def value(self, u: fem.Function) -> Array:
        """y = B(u), shape (size,), the same on every rank."""

    @abstractmethod
    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        """B'(u) du, shape (size,), the same on every rank."""

    @abstractmethod
    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        """B'(u)ᵀ dy: the owned part of a dual vector of the state's space."""

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        """d/dε B'(u + ε du)ᵀ dy: the owned part of a dual vector; zero for a linear B.

        The default is a central difference of ``adjoint``: bitwise zero for a linear observation, exact up to rounding
        for a quadratic one, of second order otherwise. Give your own for a B that is more curved than that.
        """
        return _difference(lambda: self.adjoint(u, dy), u, {u: du.x.array})

    # -- controls ------------------------------------------------------------------------------------------------------

    def control_tangent(self, u: fem.Function, dm: Mapping[Control, Array]) -> Array:
        """∂B/∂m dm at a fixed u, shape (size,), the same on every rank.

        Args:
            u: the state.
            dm: for some of the controls that stand in B their changes: local values of a field (ghosts up to date),
                the entries of a Constant.
        """
        raise BadProblem(self._no_derivative(*dm))

    def control_adjoint(self, u: fem.Function, dy: Array, control: Control) -> Array:
        """(∂B/∂m)ᵀ dy of one control, u fixed: owned values of a field, a Constant's entries (on every rank)."""
        raise BadProblem(self._no_derivative(control))

    def control_second(
        self, u: fem.Function, dy: Array, of: Control, du: fem.Function, dm: Mapping[Control, Array]
    ) -> Array:
        """What the Hessian of dy · B has beside ``second``: a dual vector of the state, or of a control.

        The default is a central difference, as that of ``second``.

        Args:
            u: the state.
            dy: (size,).
            of: u, for d/dε of ``adjoint`` along dm; a control, for d/dε of its ``control_adjoint`` along (du, dm).
            du: a change of the state.
            dm: as for ``control_tangent``.
        """
        if of is u:
            return _difference(lambda: self.adjoint(u, dy), u, dm)
        return _difference(lambda: self.control_adjoint(u, dy, of), u, {u: du.x.array, **dm})

    def holds(self, control: Control) -> bool:
        """Whether a Function or Constant stands in B, beside the state. Local."""
        return any(control is p for p in self.parameters)

    def check_controls(self, controls: Sequence[Control]) -> None:
        """Raise ``BadProblem`` when B depends on one of these and has no derivative in it. Local."""
        held = [c for c in controls if self.holds(c)]
        if held and type(self).control_tangent is Observable.control_tangent:
            raise BadProblem(self._no_derivative(*held))

    def _no_derivative(self, *controls: Control) -> str:
        return (
            f"{type(self).__name__}: depends on the control {', '.join(map(str, controls))} directly; expected one of "
            "the state alone, or one that gives control_tangent and control_adjoint, as Functional does"
        )

    # -- of what -------------------------------------------------------------------------------------------------------

    def looks(self, num_steps: int, start: int = 0) -> list[Look]:
        """What is looked at in an evolution of so many steps; ``start`` is where y begins. Local.

        One of a single state looks at the last one.

        Raises:
            BadProblem: for a step that there is not.
        """
        return [Look(num_steps, self, start, 1.0)]

    @property
    def parameters(self) -> list[fem.Function | fem.Constant]:
        """Functions and Constants besides the state that B depends on: part of a linearisation point. Local."""
        return []

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        """The same observable of ``other``, a Function of a larger space on the same mesh, instead of ``state``.

        Collective. One of several steps is asked for those that it looks with.

        Raises:
            BadInput: where there is none, as by default.
        """
        raise BadInput(
            f"{type(self).__name__}: expected an observable that states of other spaces have, too, such as a "
            "Functional or PointValues; one of your own gives `on(state, other)`"
        )

    def check_state(self, state: fem.Function) -> None:  # noqa: B027 - a hook that need not be given
        """Raise ``BadProblem`` when this observation is not one of ``state``. The default accepts all."""


class LinearObservable(Observable):
    """B(u) that is linear: it is its own tangent, and has no curvature."""

    is_linear = True

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        return self.value(du)

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        return np.zeros(num_owned(u.function_space))


def _difference(action: Callable[[], Array], u: fem.Function, moves: Mapping[Control, Array]) -> Array:
    """d/dε of an action as Functions and Constants move together: a central difference. Collective."""
    comm = u.function_space.mesh.comm
    here = {f: np.array(values_of(f)) for f in moves}
    ways = {f: np.reshape(way, here[f].shape) for f, way in moves.items()}
    size, change = (
        parallel.largest(comm, max(float(np.max(np.abs(a), initial=0.0)) for a in of.values())) for of in (here, ways)
    )
    step = _STEP * max(size, 1.0) / max(change, 1e-300)
    sides = []
    with given_back(moves):
        for signed in (step, -step):
            for f, way in ways.items():
                values_of(f)[...] = here[f] + signed * way
            hand_out(u)
            sides.append(np.array(action()))
    hand_out(u)
    return np.asarray((sides[0] - sides[1]) / (2.0 * step))


class Stack(Observable):
    """Several observations, one after the other: y = (B1(u), B2(u), ...).

    Args:
        observables: at least one.
    """

    def __init__(self, observables: Sequence[Observable]) -> None:
        self.parts = several(observables, "observables", "Stack: observables")
        for i, part in enumerate(self.parts):
            of_kind(part, Observable, "a relax.Observable", f"Stack: observables[{i}]")
        if not self.parts:
            raise BadInput("Stack: expected at least one observable, got none")
        self._ends = np.cumsum([0, *(part.size for part in self.parts)])
        self.size = int(self._ends[-1])
        self.is_linear = all(part.is_linear for part in self.parts)
        self.needs_steps = any(part.needs_steps for part in self.parts)

    def value(self, u: fem.Function) -> Array:
        return np.concatenate([part.value(u) for part in self.parts])

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        return np.concatenate([part.tangent(u, du) for part in self.parts])

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        return np.sum([part.adjoint(u, piece) for part, piece in self._pieces(dy)], axis=0)

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        return np.sum([part.second(u, piece, du) for part, piece in self._pieces(dy)], axis=0)

    def control_tangent(self, u: fem.Function, dm: Mapping[Control, Array]) -> Array:
        changes: list[Array] = []
        for part in self.parts:
            own = {c: change for c, change in dm.items() if part.holds(c)}
            changes.append(part.control_tangent(u, own) if own else np.zeros(part.size))
        return np.concatenate(changes)

    def control_adjoint(self, u: fem.Function, dy: Array, control: Control) -> Array:
        pieces = [(part, piece) for part, piece in self._pieces(dy) if part.holds(control)]
        return np.sum([part.control_adjoint(u, piece, control) for part, piece in pieces], axis=0)

    def control_second(
        self, u: fem.Function, dy: Array, of: Control, du: fem.Function, dm: Mapping[Control, Array]
    ) -> Array:
        changes: list[Array] = []
        for part, piece in self._pieces(dy):
            own = {c: change for c, change in dm.items() if part.holds(c)}
            if own if of is u else part.holds(of):
                changes.append(part.control_second(u, piece, of, du, own))
        return np.sum(changes, axis=0)

    def check_controls(self, controls: Sequence[Control]) -> None:
        for part in self.parts:
            part.check_controls(controls)

    def looks(self, num_steps: int, start: int = 0) -> list[Look]:
        if not self.needs_steps:
            return super().looks(num_steps, start)
        starts = start + self._ends[:-1]
        return [
            look for part, first in zip(self.parts, starts, strict=True) for look in part.looks(num_steps, int(first))
        ]

    @property
    def parameters(self) -> list[fem.Function | fem.Constant]:
        return [p for part in self.parts for p in part.parameters]

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        return Stack([part.on(state, other) for part in self.parts])

    def check_state(self, state: fem.Function) -> None:
        for part in self.parts:
            part.check_state(state)

    def _pieces(self, dy: Array) -> list[tuple[Observable, Array]]:
        bounds = zip(self._ends[:-1], self._ends[1:], strict=True)
        return [(part, dy[a:b]) for part, (a, b) in zip(self.parts, bounds, strict=True)]


def observed(observable: Observable, u: fem.Function) -> Array:
    """B(u), once it is known to be an observation. Collective.

    Raises:
        BadProblem: when it has another length than ``size``.
        SolveFailed: when entries are not finite.
    """
    value = np.asarray(observable.value(u))
    if value.shape != (observable.size,):
        raise BadProblem(
            f"{type(observable).__name__}.value: expected a vector of length {observable.size}, which is its size, got "
            f"shape {value.shape}"
        )
    if not np.isfinite(value).all():
        raise SolveFailed(
            f"the observation has {np.count_nonzero(~np.isfinite(value))} entries that are not finite: "
            "the state overflowed. Is a coefficient out of range?"
        )
    return value
