"""What of an evolution fits together, and what does not, in words. Local, as is every function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from dolfinx import default_scalar_type, fem, mesh

from relax.base.checks import of_kind, several
from relax.base.fem.blocks import BlockState
from relax.base.fem.forms import Control, is_same, number_now
from relax.base.types import Array
from relax.errors import BadProblem
from relax.problem.clock import checked_times
from relax.problem.problem import Problem
from relax.problem.stages import Combination, Component, Input, Stage, Sum, components_of, stands_in
from relax.problem.substitution import Substitution


def check_parts(step: Any, previous: Any, num_steps: Any, substitution: Any) -> tuple[Component, ...]:
    """The states of a step.

    Raises:
        BadProblem: when step, previous and the number of steps are not what an evolution is made of.
    """
    if not isinstance(previous, fem.Function | tuple):
        raise BadProblem(
            f"previous: expected a Function in the space of the step's state, or a list of them, got {previous!r:.80}"
        )
    items: Sequence[Any] = (step,) if not isinstance(step, tuple) else step
    for item in items:
        if not isinstance(item, Problem | Combination):
            raise BadProblem(f"step: expected a relax.Problem, or a list of them, got {type(item).__name__}")
        # What others hold of its blocks would not be told from what is known.
        if isinstance(item.state, BlockState) and len(items) > 1:
            raise BadProblem(
                f"step: expected problems of one Function each, got one of the blocks {item.state.name}; beside other "
                "equations these are parts of a mixed Function, ufl.split(fem.Function(W)), in the space "
                "W = fem.functionspace(mesh, basix.ufl.mixed_element([...]))"
            )
    if not any(isinstance(item, Problem) for item in items):
        raise BadProblem("step: expected at least one relax.Problem, got none")
    if isinstance(step, tuple) and isinstance(previous, fem.Function):
        raise BadProblem("previous: expected a list with one entry for each problem of step, got a single Function")
    components = tuple(components_of(items, previous if isinstance(step, tuple) else [previous]))
    if not any(c.earlier for c in components):
        raise BadProblem("previous: expected a Function that holds a state before the step, got none")
    for function in (c.earlier[-1] for c in components if c.earlier):
        if not any(_takes(item, function) for item in items):
            raise BadProblem(
                f"previous: the Function {function.name!r} does not stand in the step's residual beside the state, so "
                "the steps would not know of each other"
            )
    if substitution is not None:
        of_kind(substitution, Substitution, "a relax.Substitution", "substitution")
        if len(components) > 1 or components[0].depth > 1:
            raise BadProblem("substitution: expected a step of one equation and one state before it")
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise BadProblem(f"num_steps: expected a whole number of at least 1, got {num_steps!r}")
    return components


def _takes(item: Problem | Combination, function: fem.Function) -> bool:
    if isinstance(item, Combination):
        return any(x is function for x, _ in item.terms)
    return stands_in(function, item.residual, item.bcs)


def check_initials(given: Any, components: Sequence[Component]) -> list[Any]:
    """What each of several states starts from.

    Raises:
        BadProblem: when there is not one for each, or one of a state that a step begins with is missing.
    """
    values = list(several(given, "values, one for each state", "initial"))
    if len(values) != len(components):
        raise BadProblem(f"initial: expected {len(components)} of them, one for each state, got {len(values)}")
    for i, (value, component) in enumerate(zip(values, components, strict=True)):
        if value is None and component.earlier:
            raise BadProblem(
                f"initial[{i}]: the step begins with the state {component.state.name!r} before it; expected what that "
                "is at the start, got None"
            )
        if isinstance(value, Problem) and not any(value.state is f for f in component.earlier[:1]):
            raise BadProblem(
                f"initial[{i}]: expected a problem whose state is the Function of previous that holds "
                f"{component.state.name!r} one step before"
            )
    return values


def start_of(component: int, given: Sequence[Any], components: Sequence[Component]) -> Stage:
    """The equation ``given[component]`` of a state at the start, which takes others there.

    Raises:
        BadProblem: where it holds what is not known at the start, or not yet.
    """
    problem = given[component]
    at_start = [(j, c.earlier[0]) for j, c in enumerate(components) if c.earlier and c.earlier[0] is not problem.state]
    for c in components:
        for f in (c.state, *c.earlier[1:]):
            if stands_in(f, problem.residual, problem.bcs):
                raise BadProblem(
                    f"initial[{component}]: its problem holds {f.name!r}; expected Functions of previous, which hold "
                    "the states at the start"
                )
    taken = [(j, f) for j, f in at_start if stands_in(f, problem.residual, problem.bcs)]
    for j, f in taken:
        if j > component and isinstance(given[j], Problem):
            raise BadProblem(
                f"initial[{component}]: its problem holds {f.name!r}, which is solved for after it; expected what is "
                "known at the start, or another order"
            )
    registers = [f for c in components for f in (c.state, *c.earlier)]
    own = [c for c in problem.controls if not any(c is f for f in registers)]
    inputs = tuple(Input(j, 1) for j, _ in taken)
    return Stage(component, replace(problem, controls=[*(f for _, f in taken), *own]), inputs)


def check_initial_states(
    problems: Sequence[Problem],
    components: Sequence[Component],
    given: Sequence[Any],
    initials: Sequence[fem.Function],
    is_fixed: bool,
) -> None:
    """Refuse initial states that the steps would overwrite, or in which derivatives would miss something.

    Raises:
        BadProblem: saying which.
    """
    earlier = [f for c in components for f in c.earlier]
    for component, value, initial in zip(components, given, initials, strict=True):
        if not isinstance(value, fem.Function):
            continue
        if value.function_space != component.state.function_space:
            raise BadProblem(
                "initial: a Function must be in the space of the step's state; interpolate one of another space first"
            )
        if any(value is c.state for c in components):
            raise BadProblem("initial is the state itself, which the steps overwrite; expected another Function")
        if is_fixed and any(
            c is f for problem in problems for c in problem.controls for f in (value, *component.earlier)
        ):
            raise BadProblem("initial_is_fixed: the initial state is among the step's controls; remove it there")
        if is_fixed or any(value is f for f in earlier):
            continue
        for problem in problems:
            if stands_in(initial, problem.residual, problem.bcs) and not any(initial is c for c in problem.controls):
                raise BadProblem(
                    "initial is a control, and stands in the step's residual or gives boundary values, too: name it "
                    "among the controls of the step, so that derivatives see both"
                )


def check_controls(
    problems: Sequence[Problem], components: Sequence[Component], per_step: Sequence[Control], initials: Sequence[Any]
) -> None:
    """Refuse states among the controls, what derivatives would miss, and controls per step that are none of the step's.

    Raises:
        BadProblem: saying which.
    """
    earlier = [f for c in components for f in c.earlier]
    for c in [c for problem in problems for c in problem.controls]:
        if any(c is other.state for other in components):
            raise BadProblem(f"step: the state {c} is among the controls; what an equation holds of others is known")
        for problem in problems if not any(c is f for f in earlier) else ():
            if stands_in(c, problem.residual, problem.bcs) and not any(is_same(c, own) for own in problem.controls):
                raise BadProblem(
                    f"step: the control {c} stands in the problem of {problem.state.name!r}, too; name it among the "
                    "controls of each problem in which it stands, so that derivatives see all of them"
                )
    starts = [*initials, *earlier]
    for i, control in enumerate(per_step):
        known = any(is_same(control, c) for problem in problems for c in problem.controls)
        if not known or any(control is f for f in starts):
            raise BadProblem(f"per_step[{i}] ({control}): expected a control of the step other than the initial state")
        if any(is_same(control, other) for other in per_step[:i]):
            raise BadProblem(f"per_step[{i}] is an earlier one again")


def check_clock(problems: Sequence[Problem], time: Any, dt: Any, start: float, times: Any, *, needs_time: bool) -> None:
    """Refuse a time and lengths of steps that do not fit together.

    Raises:
        BadProblem: saying what.
    """
    for what, constant in (("time", time), ("dt", dt)):
        if isinstance(constant, fem.Constant) and constant.ufl_shape:
            raise BadProblem(f"{what}: expected a scalar Constant, got shape {constant.ufl_shape}")
    controls = [c for problem in problems for c in problem.controls]
    if time is not None:
        if not isinstance(time, fem.Constant):
            raise BadProblem(f"time: expected the Constant that stands in the residual, got {type(time).__name__}")
        if dt is None and times is None:
            raise BadProblem("time: the length of a step is not known; pass dt= as well, or times=")
        if any(time is c for c in controls):
            raise BadProblem("time is set by the steps; expected it not to be among the controls")
    if dt is not None and times is None:
        check_length(dt, "dt")
    if times is not None and any(dt is c for c in controls):
        raise BadProblem("dt is set by the steps, by times; expected it not to be among the controls")
    if any(dt is c for c in controls) and (time is not None or needs_time):
        raise BadProblem(
            f"dt: the length of a step is the control {dt}, and the steps hold the time, or data that are functions of "
            "it, which would have to be differentiated; write the time as dt * n with a Constant n that is data, or "
            "take a dt that is no control"
        )
    if not np.isfinite(start):
        raise BadProblem(f"start: expected a finite time, got {start!r}")
    if dt is None and times is None and needs_time:
        raise BadProblem("data: a function of the time, and the length of a step is not known; pass dt= or times=")


def check_sums(stages: Sequence[Any], dt: Any, times: Any, controls: Sequence[Control]) -> None:
    """Refuse weights of combinations by a length of steps that is not known, or would be differentiated in.

    Raises:
        BadProblem: then.
    """
    if not any(callable(weight) for stage in stages if isinstance(stage, Sum) for weight in stage.weights):
        return
    if dt is None and times is None:
        raise BadProblem("dt: a combination depends on the length of a step, which is not known; pass dt= or times=")
    if any(dt is c for c in controls):
        raise BadProblem(
            f"dt: the length of a step is the control {dt}, and weights of a combination depend on it, which are not "
            "differentiated in it"
        )


def check_beside_times(times: Array, num_steps: Any, start: float, dt: Any) -> None:
    """Refuse what times say already.

    Raises:
        BadProblem: then.
    """
    N = len(times) - 1
    if num_steps not in (0, N):
        raise BadProblem(f"num_steps: expected {N}, one fewer than times, or nothing, got {num_steps!r}")
    if start not in (0.0, times[0]):
        raise BadProblem(f"start: expected nothing beside times, whose first is {times[0]:g}, got {start!r}")
    if not isinstance(dt, fem.Constant | None):
        raise BadProblem(
            f"dt: expected the Constant that stands for the length of a step in the residual, or nothing, as times say "
            f"how long steps are; got {dt!r}"
        )


def check_data(data: Any, taken: Sequence[tuple[Any, str]]) -> None:
    """Refuse data that something else sets: ``taken``, and what each of these is.

    Raises:
        BadProblem: saying what.
    """
    for f in data:
        for other, what in taken:
            if f is other:
                raise BadProblem(f"data: {f} is {what}; expected what nothing else sets")


def steps_of(dt: Any, num_steps: int, times: Any, domain: mesh.Mesh) -> tuple[fem.Constant, int]:
    """The Constant that stands for the length of a step, which is made of a number; how many steps there are.

    Raises:
        BadInput, BadProblem: for a length that is none, or is one beside times.
    """
    if times is None:
        length = check_length(dt, "dt")
        return dt if isinstance(dt, fem.Constant) else fem.Constant(domain, default_scalar_type(length)), num_steps
    of_kind(dt, (fem.Constant, type(None)), "a Constant, or nothing beside times", "dt")
    k = fem.Constant(domain, default_scalar_type(1.0)) if dt is None else dt
    return k, len(checked_times(times)) - 1


def check_length(dt: object, what: str) -> float:
    """The length of a step, a number or a scalar Constant, as a number.

    Raises:
        BadProblem: unless it is finite and above 0.
    """
    length = number_now(dt)
    if not 0.0 < length < np.inf:
        raise BadProblem(f"{what}: expected a finite length above 0, got {dt!r}")
    return length
