"""What one step of an evolution consists of: equations solved one after the other, and sums of what is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import ufl
from dolfinx import fem, mesh
from ufl.core.expr import Expr

from relax.base.checks import as_number, of_kind, several
from relax.base.fem.forms import Control, holds
from relax.errors import BadProblem
from relax.problem.problem import Problem, gives

#: A weight of a sum: a number, or a function of the length of the step.
Weight: TypeAlias = float | Callable[[float], float]


@dataclass(frozen=True, eq=False)
class Combination:
    """A state that is a sum of others in each step, u_n = Σ_i w_i x_i, degree of freedom by degree of freedom.

    Stands in ``Evolution(step=[...])`` beside problems, as a velocity does that a displacement tells of.

    Args:
        state: u.
        terms: (x_i, w_i): states that are known already and Functions of ``previous``, all in the space of u. A weight
            is a number, or a function of the length of the step.

    Raises:
        BadProblem: for anything else.
    """

    state: fem.Function
    terms: Sequence[tuple[fem.Function, Weight]]

    def __post_init__(self) -> None:
        of_kind(self.state, fem.Function, "a dolfinx.fem.Function", "Combination: state")
        terms = several(self.terms, "pairs (x, weight)", "Combination: terms")
        object.__setattr__(self, "terms", terms)
        if not terms:
            raise BadProblem("Combination: terms: expected at least one pair (x, weight), got none")
        for i, term in enumerate(terms):
            if not isinstance(term, tuple | list) or len(term) != 2:
                raise BadProblem(f"Combination: terms[{i}]: expected a pair (x, weight), got {term!s:.80}")
            weight = term[1]
            if isinstance(weight, Expr) or not (callable(weight) or np.isfinite(as_number(weight))):
                raise BadProblem(
                    f"Combination: terms[{i}]: expected a weight that is a number, or a function of the length of the "
                    f"step, got {weight!s:.80}; what else changes, or is a control, stands in a Problem"
                )

    @property
    def mesh(self) -> mesh.Mesh:
        """The mesh of the state."""
        return self.state.function_space.mesh


@dataclass(frozen=True, eq=False)
class Component:
    """One of the states of an evolution.

    Attributes:
        state: holds u_n.
        earlier: hold u_{n-1}, u_{n-2}, ... in the equations of step n; none where nothing asks for them.
    """

    state: fem.Function
    earlier: tuple[fem.Function, ...]

    @property
    def depth(self) -> int:
        """How many of its states a step begins with, or is seen with: at least one."""
        return max(len(self.earlier), 1)


@dataclass(frozen=True)
class Input:
    """A state that step n takes: that of a component, ``back`` steps before."""

    component: int
    back: int


@dataclass(frozen=True, eq=False)
class Stage:
    """One equation of a step: ``problem``, whose first controls are the states ``inputs``, for those of a component."""

    component: int
    problem: Problem
    inputs: tuple[Input, ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """A combination in a step: the component that it gives, of which states, with which weights."""

    component: int
    inputs: tuple[Input, ...]
    weights: tuple[Weight, ...]

    def at(self, length: float | None) -> list[float]:
        """The weights in a step of this length.

        Raises:
            BadProblem: where one is no finite number.
        """
        weights = [as_number(w(length) if callable(w) else w) for w in self.weights]  # type: ignore[arg-type]
        if not np.isfinite(weights).all():
            raise BadProblem(f"Combination: expected weights that are finite numbers, got {weights} at dt = {length}")
        return weights


def components_of(items: Sequence[Problem | Combination], previous: object) -> list[Component]:
    """The states of a step with the Functions that hold them earlier. Local.

    Raises:
        BadProblem: when these do not fit together.
    """
    given = several(previous, "Functions, one for each problem, or None where a state is not held", "previous")
    if len(given) != len(items):
        raise BadProblem(
            f"previous: expected one entry for each of the {len(items)} problems of a step, None where its state "
            f"before the step stands nowhere, got {len(given)}"
        )
    components = []
    for i, (item, entry) in enumerate(zip(items, given, strict=True)):
        earlier = () if entry is None else (entry,) if isinstance(entry, fem.Function) else tuple(entry)
        for function in earlier:
            if not isinstance(function, fem.Function) or function.function_space != item.state.function_space:
                raise BadProblem(
                    f"previous[{i}]: expected Functions in the space of the state {item.state.name!r}, got {function!r}"
                )
        components.append(Component(item.state, earlier))
    everything = [f for c in components for f in (c.state, *c.earlier)]
    if len({id(f) for f in everything}) < len(everything):
        raise BadProblem("step: two of its states and previous ones are the same Function; expected one for each")
    if any(item.mesh is not items[0].mesh for item in items):
        raise BadProblem("step: expected problems on one mesh")
    return components


def stage_of(component: int, item: Problem | Combination, components: Sequence[Component]) -> Stage | Sum:
    """A part of a step as one that takes what it holds of other states. Local.

    Raises:
        BadProblem: where it holds a state that is not known yet.
    """
    places = {id(f): Input(j, b) for j, c in enumerate(components) for b, f in enumerate((c.state, *c.earlier))}
    own_state = item.state
    if isinstance(item, Combination):
        taken = [x for x, _ in item.terms]
        if any(id(x) not in places or x.function_space != own_state.function_space for x in taken):
            raise BadProblem(
                f"Combination: {own_state.name!r}: expected terms in its space that are states of the step, or "
                "Functions of previous"
            )
    else:
        everything = [f for c in components for f in (*c.earlier, c.state)]
        taken = [f for f in everything if f is not own_state and stands_in(f, item.residual, item.bcs)]
    for f in taken:
        place = places[id(f)]
        if place.back == 0 and place.component >= component:
            raise BadProblem(
                f"step: the problem of {own_state.name!r} holds {f.name!r}, which is solved for after it; expected the "
                "one before the step, a Function of previous, or another order"
            )
    inputs = tuple(places[id(f)] for f in taken)
    if isinstance(item, Combination):
        return Sum(component, inputs, tuple(w for _, w in item.terms))
    own = [c for c in item.controls if id(c) not in places]
    return Stage(component, replace(item, controls=[*taken, *own]), inputs)


def stands_in(function: Control, residual: ufl.Form, bcs: Sequence[fem.DirichletBC]) -> bool:
    """Whether a Function stands in a residual or in the value of a boundary condition. Local."""
    return holds(residual, function) or any(gives(function, bc) for bc in bcs)
