"""An equation in time as mathematics: one step, where it starts, how many steps. Nothing here says how it is solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, mesh

from relax.base.checks import of_kind, several
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import Control, number_now
from relax.errors import BadProblem
from relax.problem.clock import Clock, checked_times
from relax.problem.data import at_steps
from relax.problem.problem import Problem, gives
from relax.problem.substitution import Substitution


@dataclass(frozen=True, kw_only=True, eq=False)
class Evolution:
    """States u_0, ..., u_N with u_0 = initial and F(u_n, u_{n-1}, m_n; v) = 0 for all test functions v, n = 1, ..., N.

    Collective to make, unless ``initial`` is a Function and there is no data. F is the residual of ``step``, written in
    its state u_n and in ``previous``, which stands for u_{n-1}. :func:`relax.theta_evolution` writes F from a spatial
    residual.

    Controls, in the order of the control vector: the initial state where it is one, then the step's own. The initial
    state is a control when ``initial`` is a ``fem.Function``, unless ``initial_is_fixed``, and when ``previous`` is
    among the step's controls, where it then stands for the initial state. A control in ``per_step`` has one value per
    step, N of them one after the other in the control vector; every other is shared by all steps. With none of them the
    control vector is empty, and ``G([])`` is the solution alone.

    Args:
        step: the equation of one step. Its name is that of the evolution.
        previous: the Function in the step's residual that holds the state before the step.
        initial: u_0: a Function in the state's space, which stays live; a number, a function of x, or a UFL expression,
            as they are now; of a mixed state a list of these, one for each part of its space.
        num_steps: N, at least 1; left out where ``times`` are given.
        per_step: controls of the step that have a value of their own in each step.
        data: ``{f: values}``: Functions and Constants that are no controls and hold another value in each step: in the
            step's residual, as boundary values or in them, in an observable. Values: an array or a list with one for
            each step, or with one more, that of the start first; a function of the time, ``lambda t: value``, or
            ``lambda t: lambda x: ...``, which is asked for t_n in step n; or a file, ``.npy`` of such an array, or
            ``.csv`` of rows "t, value, ...", linear between them. After a call f holds that of the step last worked at.
        time: a scalar Constant in the step's residual, in an expression of an observable, or both: at step n it holds
            t_n, the time at the step's end. After a call it holds the time of the step last worked at.
        dt: the length of a step, in the units of ``time``: a number, or a scalar Constant, which stays live. Needed
            with ``time``; without it steps are told by their number alone. With ``times`` the Constant in the step's
            residual that holds t_n - t_{n-1} at step n.
        start: the time of u_0: t_n = start + n * dt.
        times: t_0 < t_1 < ... < t_N, (N + 1,), of steps of any lengths, in place of ``num_steps`` and ``start``.
            Lengths that differ by rounding alone count as one; matrices that hold nothing else of the step are made,
            and factored, once for each length.
        initial_is_fixed: a Function as ``initial`` is data, not a control; its values when a run begins count.
        is_wave_function: the state is a pair (Re psi, Im psi), of which |psi|^2 is to be seen.
        substitution: the steps are equations for another unknown w, u = T(w) at every node. Initial states, observables
            and trajectories are those of u all the same; ``step.state`` and ``previous`` hold w within a step, and
            ``single_step`` is the step in w.

    Raises:
        BadProblem: when these do not fit together, on every rank.
    """

    step: Problem
    previous: fem.Function
    initial: Coefficient | fem.Function
    num_steps: int = 0
    per_step: Sequence[Control] = ()
    data: Mapping[Control, Any] = field(default_factory=dict)
    time: fem.Constant | None = None
    dt: float | fem.Constant | None = None
    start: float = 0.0
    times: npt.ArrayLike | None = None
    initial_is_fixed: bool = False
    is_wave_function: bool = False
    substitution: Substitution | None = None
    #: Everything to differentiate with respect to, in the order of the control vector.
    controls: tuple[Control, ...] = field(init=False)
    #: u_0; where it is no control its values when a run begins count.
    initial_state: fem.Function = field(init=False)
    #: The times of the steps, and what the steps set.
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_step", several(self.per_step, "controls", "per_step"))
        if self.times is not None:
            _take_times(self)
        _check(self)
        data = at_steps(self.data, self.num_steps, self.mesh.comm)
        if self.dt is None and self.times is None and any(values.needs_time for values in data.values()):
            raise BadProblem("data: a function of the time, and the length of a step is not known; pass dt= or times=")
        object.__setattr__(self, "data", data)
        _check_data(self)
        clock = Clock(self.num_steps, self.time, self.dt, float(self.start), self.times, data.values())  # type: ignore[arg-type]
        object.__setattr__(self, "clock", clock)
        V = self.state.function_space
        given = self.initial
        if isinstance(given, fem.Function) and given is not self.previous:
            initial = given
        else:
            # The steps write into ``previous``: what it holds now is kept elsewhere.
            initial = interpolated(given, V)
            initial.name = "initial"
        object.__setattr__(self, "initial_state", initial)
        named = [initial if c is self.previous else c for c in self.step.controls]
        is_control = isinstance(given, fem.Function) and not self.initial_is_fixed
        if is_control and not any(c is initial for c in named):
            named.insert(0, initial)
        # The initial state can stand in the steps, too: it is one control for both.
        object.__setattr__(self, "controls", tuple({id(c): c for c in named}.values()))

    @property
    def state(self) -> fem.Function:
        """u: at the end of a run, u_N."""
        return self.step.state

    @property
    def name(self) -> str:
        """The name of the step, part of the PETSc options prefix."""
        return self.step.name

    @property
    def bcs(self) -> Sequence[fem.DirichletBC]:
        """The boundary conditions of each step."""
        return self.step.bcs

    @property
    def mesh(self) -> mesh.Mesh:
        """The mesh of the state."""
        return self.step.mesh

    @property
    def single_step(self) -> Problem:
        """One step as a stationary problem whose first control is ``previous``, then the step's others.

        For networks in the loop: ``SolutionLayer(ReducedMap(evolution.single_step, ...))`` takes u_{n-1} and the
        controls of step n to u_n. ``time``, where there is one, is then for the caller to set.
        """
        step = self.step
        others = [c for c in step.controls if c is not self.previous]
        return replace(step, controls=[self.previous, *others])

    def is_per_step(self, control: Control) -> bool:
        """Whether this control has a value of its own in each step."""
        return any(control is c for c in self.per_step)

    @property
    def step_length(self) -> float | None:
        """``dt`` as it is now, or None where it is not known, or not the same in all steps."""
        return None if self.dt is None or self.times is not None else number_now(self.dt)

    def time_at(self, n: int) -> float | None:
        """The time of u_n, or None where the length of a step is not known."""
        grid = self.clock.grid(n)
        return None if grid is None else float(grid[n])

    def place(self, n: int) -> str:
        """Where u_n is, in words."""
        t = self.time_at(n)
        return f"step {n} of {self.num_steps}" + ("" if t is None else f" (time {t:.6g})")


def _take_times(evolution: Evolution) -> None:
    """Let times say how many steps there are, and when they begin. Local."""
    times = checked_times(evolution.times)  # type: ignore[arg-type]
    N = len(times) - 1
    if evolution.num_steps not in (0, N):
        raise BadProblem(f"num_steps: expected {N}, one fewer than times, or nothing, got {evolution.num_steps!r}")
    if evolution.start not in (0.0, times[0]):
        raise BadProblem(f"start: expected nothing beside times, whose first is {times[0]:g}, got {evolution.start!r}")
    if not isinstance(evolution.dt, fem.Constant | None):
        raise BadProblem(
            f"dt: expected the Constant that stands for the length of a step in the residual, or nothing, as times say "
            f"how long steps are; got {evolution.dt!r}"
        )
    for name, value in (("times", times), ("num_steps", N), ("start", float(times[0]))):
        object.__setattr__(evolution, name, value)


def _check_data(evolution: Evolution) -> None:
    step = evolution.step
    taken = [(step.state, "the state"), (evolution.previous, "previous"), (evolution.initial, "the initial state")]
    taken += [(evolution.time, "the time"), (evolution.dt, "the length of a step")]
    taken += [(c, "a control") for c in step.controls]
    for f in evolution.data:
        for other, what in taken:
            if f is other:
                raise BadProblem(f"data: {f} is {what}; expected what nothing else sets")


def _check(evolution: Evolution) -> None:
    step, previous = evolution.step, evolution.previous
    if not isinstance(step, Problem):
        raise BadProblem(f"step: expected a relax.Problem, got {type(step).__name__}")
    if evolution.substitution is not None:
        of_kind(evolution.substitution, Substitution, "a relax.Substitution", "substitution")
    V = step.state.function_space
    if not isinstance(previous, fem.Function) or previous.function_space != V:
        raise BadProblem("previous: expected a Function in the space of the step's state")
    if previous is step.state or previous not in step.residual.coefficients():
        raise BadProblem(
            f"previous: the Function {previous.name!r} does not stand in the step's residual beside the state, so the "
            "steps would not know of each other"
        )
    n = evolution.num_steps
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise BadProblem(f"num_steps: expected a whole number of at least 1, got {n!r}")
    if isinstance(evolution.initial, fem.Function) and evolution.initial.function_space != V:
        raise BadProblem(
            "initial: a Function must be in the space of the step's state; interpolate one of another space first"
        )
    initial = evolution.initial
    if isinstance(initial, fem.Function) and not evolution.initial_is_fixed and initial is not previous:
        if stands_in(initial, step.residual, step.bcs) and not any(initial is c for c in step.controls):
            raise BadProblem(
                "initial is a control, and stands in the step's residual or gives boundary values, too: name it among "
                "the controls of the step, so that derivatives see both"
            )
    if evolution.initial is step.state:
        raise BadProblem("initial is the state itself, which the steps overwrite; expected another Function")
    if evolution.initial_is_fixed and any(c is previous or c is evolution.initial for c in step.controls):
        raise BadProblem("initial_is_fixed: the initial state is among the step's controls; remove it there")
    for i, control in enumerate(evolution.per_step):
        known = any(control is c for c in step.controls)
        if not known or control is previous or control is evolution.initial:
            raise BadProblem(f"per_step[{i}] ({control}): expected a control of the step other than the initial state")
        if any(control is other for other in evolution.per_step[:i]):
            raise BadProblem(f"per_step[{i}] is an earlier one again")
    time, dt = evolution.time, evolution.dt
    for what, constant in (("time", time), ("dt", dt)):
        if isinstance(constant, fem.Constant) and constant.ufl_shape:
            raise BadProblem(f"{what}: expected a scalar Constant, got shape {constant.ufl_shape}")
    if time is not None:
        if not isinstance(time, fem.Constant):
            raise BadProblem(f"time: expected the Constant that stands in the residual, got {type(time).__name__}")
        if dt is None and evolution.times is None:
            raise BadProblem("time: the length of a step is not known; pass dt= as well, or times=")
        if any(time is c for c in step.controls):
            raise BadProblem("time is set by the steps; expected it not to be among the controls")
    if dt is not None and evolution.times is None:
        check_length(dt, "dt")
    if evolution.times is not None and any(dt is c for c in step.controls):
        raise BadProblem(
            "dt is set by the steps to the lengths that times say; expected it not to be among the controls"
        )
    if evolution.is_wave_function and tuple(V.value_shape) != (2,):
        raise BadProblem(f"is_wave_function: expected a state with two components, got shape {tuple(V.value_shape)}")
    if not np.isfinite(evolution.start):
        raise BadProblem(f"start: expected a finite time, got {evolution.start!r}")


def stands_in(function: fem.Function, residual: ufl.Form, bcs: Sequence[fem.DirichletBC]) -> bool:
    """Whether a Function stands in a residual or in the value of a boundary condition. Local."""
    return function in residual.coefficients() or any(gives(function, bc) for bc in bcs)


def check_length(dt: object, what: str) -> float:
    """The length of a step, a number or a scalar Constant, as a number. Local.

    Raises:
        BadProblem: unless it is finite and above 0.
    """
    length = number_now(dt)
    if not 0.0 < length < np.inf:
        raise BadProblem(f"{what}: expected a finite length above 0, got {dt!r}")
    return length
