"""What equations in time share: controls by name, the initial state, a source for all steps or for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dolfinx import fem
from ufl.core.expr import Expr

from relax.base.checks import nearest
from relax.base.fem.coefficients import Coefficient, as_coefficient, interpolated
from relax.base.fem.forms import terminals_of
from relax.errors import BadInput
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem


def chosen(equation: str, controls: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """The names of controls, each known, each once, at least one. Local.

    Raises:
        BadInput: otherwise.
    """
    names = [controls] if isinstance(controls, str) else list(controls)
    for name in names:
        if name not in known:
            raise BadInput(f"{equation}: controls: expected names of controls, got {name!r}{nearest(str(name), known)}")
    if not names or len(set(names)) != len(names):
        raise BadInput(f"{equation}: controls: expected at least one of {', '.join(known)}, each once, got {names}")
    return names


def initial_state(value: Coefficient, V: fem.FunctionSpace) -> fem.Function:
    """u_0, a new Function with these values at this moment. Collective."""
    state = interpolated(value, V)
    state.name = "initial"
    return state


def given_or_control(
    equation: str,
    name: str,
    value: Coefficient,
    V: fem.FunctionSpace,
    wanted: Sequence[str],
    time: fem.Constant | None,
) -> tuple[Expr, fem.Function | None]:
    """A source as it stands in the residual, and the control that it is where ``wanted`` says so.

    Collective. The control is the whole source: one field in V for all steps under ``name``, one field for each step
    under ``name_per_step``. Its values at the start are those given.

    Raises:
        BadInput: when both are wanted, or the given values depend on time, which those of a control cannot.
    """
    kinds = [kind for kind in (name, f"{name}_per_step") if kind in wanted]
    if not kinds:
        return as_coefficient(value, V), None
    if len(kinds) > 1:
        raise BadInput(
            f"{equation}: controls: {kinds[0]!r} is one {name} for all steps and {kinds[1]!r} one for each step; "
            "expected one of them"
        )
    if isinstance(value, Expr) and any(terminal is time for terminal in terminals_of(value)):
        raise BadInput(
            f"{equation}: {name}: as a control it starts from values without time, got {value}; "
            f"leave {kinds[0]!r} out of controls, or {name} without time"
        )
    control = interpolated(value, V)
    control.name = kinds[0]
    return control, control


def with_controls(evolution: Evolution, wanted: Sequence[str], other: fem.Function | None) -> Evolution:
    """The evolution with the controls that these names stand for, in this order.

    Collective.

    Args:
        evolution: the equation; its initial state is a Function.
        wanted: names; "initial" is the initial state.
        other: what any other name stands for, once for each step where the name ends with "_per_step".
    """
    before = evolution.components[0].earlier[0]
    own = [before if name == "initial" else other for name in wanted]
    per_step = [other for name in wanted if name.endswith("_per_step")]
    assert isinstance(evolution.step, Problem)
    step = replace(evolution.step, controls=own)
    return replace(evolution, step=step, per_step=per_step, initial_is_fixed="initial" not in wanted)
