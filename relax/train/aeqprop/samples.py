"""What a step is given: inputs and data of one sample or several, looked at before any of them is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from dolfinx import fem
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.checks import array_like
from relax.base.fem.coefficients import interpolated
from relax.base.fem.expansion import Expansion
from relax.base.fem.forms import Control, values_of
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.misfit import Misfit, data_of
from relax.problem.problem import gives
from relax.train.aeqprop.energy import Energy


class Sample(NamedTuple):
    """Values of the inputs, with ghosts, and data."""

    inputs: list[tuple[Control, Array]]
    data: Array

    def write(self) -> None:
        """The inputs hold its values. Local."""
        for terminal, values in self.inputs:
            values_of(terminal)[...] = values


class Batch(NamedTuple):
    """This team's samples, and how many all teams have."""

    mine: list[Sample]
    total: int


def samples_of(energy: Energy, misfit: Misfit, x: Any, y: Any) -> list[Sample]:
    """The samples of a step. Collective.

    Args:
        energy: what stands in it may be an input.
        misfit: its data are those of all samples where y is None.
        x: {Function or Constant: values} or None; or a list of these.
        y: (size,), or (k, size) for k samples; or None.

    Raises:
        BadInput: on every rank.
    """
    comm = energy.state.function_space.mesh.comm
    data: Array = np.empty(0)
    is_batch = isinstance(x, list | tuple)
    given = list(x) if is_batch else [x]
    with parallel.together(comm):
        _check_inputs(energy, misfit, given)
        if y is None and misfit.data is None:
            raise BadInput("Aeqprop: expected data, in the step or when the misfit was made, got none")
        data = data_of(misfit.data if y is None else y, misfit.observable.size, "Aeqprop: y")
    data = parallel.checked_on_all(comm, data, misfit.observable.size, "Aeqprop: y")
    if data.ndim == 1 and (y is None or not is_batch):
        data = np.broadcast_to(data, (len(given), len(data)))
    if data.ndim != 2 or not len(data) or (is_batch and len(given) != len(data)):
        n = misfit.observable.size
        raise BadInput(
            f"Aeqprop: y: expected shape ({n},) for one sample, (k, {n}) for several and as many in x where that is a "
            f"list, got {data.shape} for {len(given)}"
        )
    values = [[(f, _values(comm, f, v)) for f, v in (inputs or {}).items()] for inputs in given]
    return [Sample(values[i if is_batch else 0], data[i, :]) for i in range(len(data))]


def _check_inputs(energy: Energy, misfit: Misfit, given: list[Any]) -> None:
    own = (energy.state, *energy.parameters)
    standing = (*energy.E.coefficients(), *energy.E.constants(), *misfit.observable.parameters)
    if not given:
        raise BadInput("Aeqprop: x: expected at least one sample, got an empty list")
    for inputs in given:
        if inputs is not None and not isinstance(inputs, Mapping):
            raise BadInput(f"Aeqprop: x: expected {{Function or Constant of E: values}}, got {inputs!r:.80}")
        for terminal in inputs or {}:
            is_terminal = isinstance(terminal, fem.Function | fem.Constant)
            known = is_terminal and (
                any(terminal is t for t in standing) or any(gives(terminal, bc) for bc in energy.bcs)
            )
            if not known or any(terminal is t for t in own):
                raise BadInput(
                    f"Aeqprop: x: expected Functions and Constants of E, of its boundary values or of G besides state "
                    f"and parameters, got {terminal!s:.80}"
                )
        if {id(t) for t in inputs or {}} != {id(t) for t in given[0] or {}}:
            raise BadInput("Aeqprop: x: expected values of the same inputs in each sample, got others in some")


def _values(comm: Any, terminal: Control, value: Any) -> Array:
    """What the input is to hold, ghosts included. Collective."""
    if isinstance(terminal, Expansion):
        return terminal.spread(terminal.checked(value, f"Aeqprop: x: {terminal}"))
    is_field = isinstance(terminal, fem.Function)
    if is_field and (callable(value) or isinstance(value, Expr)):
        values = interpolated(value, terminal.function_space).x.array
    else:
        shape = tuple(terminal.function_space.value_shape) if is_field else terminal.value.shape
        numbers: Array = np.empty(0)
        with parallel.together(comm):
            try:
                numbers = np.broadcast_to(np.asarray(array_like(value, "x"), dtype=np.float64), shape).reshape(-1)
            except (TypeError, ValueError) as cause:
                words = f"a number or an array of shape {shape} for {terminal}, got {value!r:.80}"
                raise BadInput(f"Aeqprop: x: expected {words}") from cause
        values = parallel.checked_on_all(comm, numbers, len(numbers), f"Aeqprop: x: {terminal}").reshape(shape)
        if is_field:
            values = interpolated(values, terminal.function_space).x.array
    if parallel.any_rank(comm, not np.isfinite(values).all()):
        raise BadInput(f"Aeqprop: x: the values for {terminal} are NaN or infinite somewhere; expected finite ones")
    return values
