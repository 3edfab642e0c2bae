"""An equation in time as mathematics: one step, where it starts, how many steps. Nothing here says how it is solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem, mesh

from relax.base.checks import several
from relax.base.fem.blocks import BlockState
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import Control, is_same, number_now
from relax.errors import BadProblem
from relax.problem.blocks import step_of_blocks
from relax.problem.clock import Clock, checked_times
from relax.problem.data import at_steps
from relax.problem.evolution_checks import (
    check_beside_times,
    check_clock,
    check_controls,
    check_data,
    check_initial_states,
    check_initials,
    check_parts,
    check_sums,
    start_of,
)
from relax.problem.on_parts import start_on_parts
from relax.problem.problem import Problem
from relax.problem.stages import Combination, Component, Stage, Sum, stage_of
from relax.problem.substitution import Substitution


@dataclass(frozen=True, kw_only=True, eq=False)
class Evolution:
    """States u_0, ..., u_N with u_0 = initial and F(u_n, u_{n-1}, m_n; v) = 0 for all test functions v, n = 1, ..., N.

    Collective to make, unless ``initial`` is a Function and there is no data. F is the residual of ``step``, written in
    its state u_n and in ``previous``, which stands for u_{n-1}. :func:`relax.theta_evolution` writes F from a spatial
    residual.

    A step can be several equations, solved one after the other: ``step=[P_1, P_2, ...]`` (operator splitting, pressure
    correction), each a ``Problem`` that holds the states of those before it, and states before the step by the
    Functions of ``previous``. The state is then the tuple of theirs: an observable sees those that stand in it, or the
    one whose space it is of. And a step can hold several earlier states: ``previous=[f_1, f_2]`` stand for u_{n-1},
    u_{n-2} (multistep methods), which at the start are all u_0; what a first step does otherwise can be said by
    coefficients that are data. A step that is one problem of blocks, ``state=[u, p]``, has in ``previous`` and
    ``initial`` a list with an entry for each block.

    Controls, in the order of the control vector: the initial state where it is one that the step does not name, then
    the step's own. One that stands in several equations is named in each of them, and is one. The initial state is a
    control when ``initial`` is a ``fem.Function``, unless ``initial_is_fixed``, and when ``previous`` is
    among the step's controls, where it then stands for the initial state. A control in ``per_step`` has one value per
    step, N of them one after the other in the control vector; every other is shared by all steps. With none of them the
    control vector is empty, and ``G([])`` is the solution alone.

    Args:
        step: the equation of one step, or a list of them, and of ``relax.problem.Combination``. The name of the first
            one is that of the evolution.
        previous: the Function in the step's residual that holds the state before the step, or a list of those that hold
            it one, two, ... steps before. For a list of equations a list with one of these for each, None where an
            earlier state stands nowhere.
        initial: u_0: a Function in the state's space, which stays live; a number, a function of x, or a UFL expression,
            as they are now; of a mixed state a list of these, one for each part of its space. For a list of equations a
            list of these; an entry can be None (zero, where no earlier state is held), or a ``Problem`` whose state is
            a Function of ``previous``, solved at the start with the others given, or solved before it, such as an
            acceleration.
        num_steps: N, at least 1; left out where ``times`` are given.
        per_step: controls of the step that have a value of their own in each step.
        data: ``{f: values}``: Functions and Constants that are no controls and hold another value in each step: in the
            step's residual, as boundary values or in them, in an observable. Values: an array or a list with one for
            each step, or with one more, that of the start first; a function of the time, ``lambda t: value``, or
            ``lambda t: lambda x: ...``, which is asked for t_n in step n, forwards and backwards, and has to say the
            same each time; or a file, ``.npy`` of such an array, or ``.csv`` of rows "t, value, ...", linear between
            them. After a call f holds that of the step last worked at.
        time: a scalar Constant in the step's residual, in an expression of an observable, or both: at step n it holds
            t_n, the time at the step's end. After a call it holds the time of the step last worked at.
        dt: the length of a step, in the units of ``time``: a number, or a scalar Constant, which stays live. Needed
            with ``time``; without it steps are told by their number alone. With ``times`` the Constant in the step's
            residual that holds t_n - t_{n-1} at step n. It says how long the steps are, which the residual knows by
            itself: where that holds a Constant, set this one, or make another evolution.
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

    step: Problem | Sequence[Problem | Combination]
    previous: fem.Function | Sequence[Any]
    initial: Coefficient | fem.Function | Sequence[Any]
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
    #: Of each state u_0; where it is no control its values when a run begins count.
    initial_states: tuple[fem.Function, ...] = field(init=False)
    #: The states, in the order in which a step gives them, and how it does.
    components: tuple[Component, ...] = field(init=False)
    stages: tuple[Stage | Sum, ...] = field(init=False)
    #: Equations of states at the start.
    starting: tuple[Stage, ...] = field(init=False)
    #: What ``previous`` named for blocks: one mixed Function stands for these.
    earlier_blocks: tuple[fem.Function, ...] = field(init=False, default=())
    #: The times of the steps, and what the steps set.
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        def keep(**values: Any) -> None:
            for name, value in values.items():
                object.__setattr__(self, name, value)

        keep(per_step=several(self.per_step, "controls", "per_step"))
        for name in ("step", "previous"):
            if isinstance(getattr(self, name), list):
                keep(**{name: tuple(getattr(self, name))})
        step = self.step
        if isinstance(step, Problem) and isinstance(step.state, BlockState) and isinstance(self.previous, tuple):
            fixed = self.initial_is_fixed
            keep(earlier_blocks=tuple(f for f in self.previous if isinstance(f, fem.Function)))
            F, before = step_of_blocks(step.residual, step.state, self.previous, self.initial, initial_is_fixed=fixed)
            start = start_on_parts(self.initial, step.state.extended, step.state.blocks)
            keep(step=replace(step, residual=F), previous=before, initial=start)
        if self.times is not None:
            times = checked_times(self.times)
            check_beside_times(times, self.num_steps, self.start, self.dt)
            keep(times=times, num_steps=len(times) - 1, start=float(times[0]))
        keep(components=check_parts(self.step, self.previous, self.num_steps, self.substitution))
        given = [self.initial] if isinstance(self.step, Problem) else check_initials(self.initial, self.components)
        problems = [item for item in (*self.items, *given) if isinstance(item, Problem)]
        earlier = {id(f): j for j, c in enumerate(self.components) for f in c.earlier}
        initials = [_started(c, value, earlier) for c, value in zip(self.components, given, strict=True)]
        check_initial_states(problems, self.components, given, initials, self.initial_is_fixed)
        check_controls(problems, self.components, self.per_step, initials)
        keep(initial_states=tuple(initials))
        keep(stages=tuple(stage_of(i, item, self.components) for i, item in enumerate(self.items)))
        keep(starting=tuple(start_of(i, given, self.components) for i, p in enumerate(given) if isinstance(p, Problem)))
        named = [initials[earlier[id(c)]] if id(c) in earlier else c for p in problems for c in p.controls]
        if not self.initial_is_fixed:
            new = [f for f, value in zip(initials, given, strict=True) if isinstance(value, fem.Function)]
            named = [f for f in new if not any(f is c for c in named)] + named
        # The initial state can stand in the steps, too: it is one control for both.
        keep(controls=tuple(c for i, c in enumerate(named) if not any(is_same(c, other) for other in named[:i])))
        check_sums(self.stages, self.dt, self.times, named)
        data = at_steps(self.data, self.num_steps, self.mesh.comm)
        needs_time = any(values.needs_time for values in data.values())
        check_clock(problems, self.time, self.dt, self.start, self.times, needs_time=needs_time)
        states = [(f, "a state, or previous") for c in self.components for f in (c.state, *c.earlier)]
        of_time = [(self.time, "the time"), (self.dt, "the length of a step")]
        check_data(
            data, [*states, *of_time, *((f, "an initial state") for f in initials), *((c, "a control") for c in named)]
        )
        given_times = None if self.times is None else np.asarray(self.times, dtype=np.float64)
        keep(data=data, clock=Clock(self.num_steps, self.time, self.dt, float(self.start), given_times, data.values()))
        shape = tuple(self.components[0].state.function_space.value_shape)
        if self.is_wave_function and shape != (2,):
            raise BadProblem(f"is_wave_function: expected a state with two components, got shape {shape}")

    @property
    def items(self) -> tuple[Problem | Combination, ...]:
        """What a step consists of, one after the other."""
        return (self.step,) if isinstance(self.step, Problem) else tuple(self.step)

    @property
    def is_plain(self) -> bool:
        """Whether a step is one equation that holds the one state before it."""
        return isinstance(self.step, Problem) and isinstance(self.previous, fem.Function)

    @property
    def plain_step(self) -> Problem:
        """The equation of a step that is one, and holds the one state before it.

        Raises:
            BadProblem: for another step.
        """
        if not self.is_plain:
            raise BadProblem(
                "expected an evolution whose step is one equation in the state and the one before it; got one of "
                "several equations or earlier states, whose values and derivatives a ReducedMap has"
            )
        assert isinstance(self.step, Problem)
        return self.step

    @property
    def states(self) -> tuple[fem.Function, ...]:
        """The states, in the order in which a step gives them: at the end of a run, those at step N."""
        return tuple(c.state for c in self.components)

    @property
    def state(self) -> Any:
        """u: at the end of a run, u_N; the tuple of the states where a step has several problems."""
        solved = tuple(item.state for item in self.items if isinstance(item, Problem))
        return solved[0] if len(solved) == 1 else self.states

    @property
    def initial_state(self) -> fem.Function:
        """u_0 of the first state."""
        return self.initial_states[0]

    @property
    def name(self) -> str:
        """The name of the first problem of a step, part of the PETSc options prefix."""
        return next(item.name for item in self.items if isinstance(item, Problem))

    @property
    def bcs(self) -> Sequence[fem.DirichletBC]:
        """The boundary conditions of each step."""
        return [bc for item in self.items if isinstance(item, Problem) for bc in item.bcs]

    @property
    def mesh(self) -> mesh.Mesh:
        """The mesh of the state."""
        return self.items[0].mesh

    @property
    def single_step(self) -> Problem:
        """One step as a stationary problem whose first control is ``previous``, then the step's others.

        For networks in the loop: ``SolutionLayer(ReducedMap(evolution.single_step, ...))`` takes u_{n-1} and the
        controls of step n to u_n. ``time`` and data, where there are any, are then for the caller to set.

        Raises:
            BadProblem: for a step of several equations or earlier states.
        """
        step = self.plain_step
        others = [c for c in step.controls if c is not self.previous]
        return replace(step, controls=[*self.components[0].earlier, *others])

    def is_per_step(self, control: Control) -> bool:
        """Whether this control has a value of its own in each step."""
        return any(is_same(control, c) for c in self.per_step)

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


def _started(component: Component, value: Any, earlier: Mapping[int, int]) -> fem.Function:
    """The Function that holds u_0. Collective, unless one is given."""
    if isinstance(value, fem.Function) and id(value) not in earlier:
        return value
    # The steps write into ``previous``: what it holds now is kept elsewhere.
    known = 0.0 if value is None or isinstance(value, Problem) else value
    initial = interpolated(known, component.state.function_space)
    initial.name = "initial"
    return initial
