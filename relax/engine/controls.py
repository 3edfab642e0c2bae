"""Control vectors from what a user thinks of: functions of x, numbers, expressions."""

from __future__ import annotations

from typing import Any

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.coefficients import interpolated
from relax.base.fem.expansion import Expansion, num_entries
from relax.base.fem.forms import Control, num_owned
from relax.base.fem.pointwise import PointLaw
from relax.base.types import Array
from relax.engine.protocols import Map, check_has_controls, check_is_map
from relax.errors import BadInput
from relax.problem.evolution import Evolution


def control_values(G: Map, *functions: Any) -> Array:
    """The control vector of given controls.

    Collective.

    Args:
        G: the map whose control layout counts.
        functions: one per control, in the problem's order (a single one serves all): a function of x, x of shape
            (3, num_points) as DOLFINx has it; a number or an array; for a field also a UFL expression. For ``pieces``,
            a ``PointSource`` and a ``LearnedCoefficient`` a number, or an array of their numbers. For a control
            with a value in each step of an evolution: one of these for all steps, or a list of one for each step (an
            array whose first axis is the steps).

    Returns:
        (size_in,).

    Raises:
        BadInput: for another number of functions than controls, or a function of the wrong shape.
    """
    check_is_map(G, "control_values: G")
    controls = G.problem.controls
    if functions:
        check_has_controls(G, "control_values", "give values to")
    given: list[Any] = list(functions) * (len(controls) if len(functions) == 1 else 1)
    if len(given) != len(controls):
        raise BadInput(
            f"control_values: expected 1 or {len(controls)} functions, one per control, got {len(functions)}"
        )
    parts: list[Array] = []
    for control, value in zip(controls, given, strict=True):
        if isinstance(G.problem, Evolution) and G.problem.is_per_step(control):
            parts += _step_parts(G, control, value, G.problem.num_steps)
        else:
            parts.append(_control_part(G, control, value))
    return G.layout.of_values(parts)


def _step_parts(G: Map, control: Control, value: Any, num_steps: int) -> list[Array]:
    """Owned values of a control with a value in each step. Collective."""
    length = len(value) if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim) else None
    entries = num_entries(control) or int(np.prod(control.ufl_shape, dtype=np.int64))
    if length == num_steps == entries > 1 and all(np.ndim(v) == 0 and not callable(v) for v in value):
        raise BadInput(
            f"control_values: {num_steps} numbers can be one for each step or the {entries} entries of one value; pass "
            "a list of values, one for each step"
        )
    if length == num_steps:
        return [_control_part(G, control, v) for v in value]
    if length is not None and length != entries:
        raise BadInput(f"control_values: expected a value for each of {num_steps} steps, or one for all, got {length}")
    return [_control_part(G, control, value)] * num_steps


def _control_part(G: Map, control: Control, value: Any) -> Array:
    """Owned values of one control, or its numbers. Collective."""
    if isinstance(control, Expansion):
        return control.checked(value, "control_values")
    if isinstance(control, fem.Constant | PointLaw):
        with parallel.together(G.comm):
            numbers = value(np.zeros((3, 1))) if callable(value) else value
            part: Array = np.asarray(numbers, dtype=np.float64).reshape(-1)
            entries = control.value.size
            if part.size not in (1, entries):
                kind = "the weights" if isinstance(control, PointLaw) else "a constant"
                raise BadInput(f"control_values: expected {entries} numbers for {kind}, got {part.size}")
            part = np.broadcast_to(part, (entries,)).copy()
    else:
        V = control.function_space
        part = interpolated(value, V).x.array[: num_owned(V)].copy()
    with parallel.together(G.comm):
        if not np.isfinite(part).all():
            raise BadInput(f"control_values: expected finite values for {control}, got NaN or infinity")
    return part
