"""Derivatives in the controls, of what each rank adds to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dolfinx import fem, la

from relax.base import parallel
from relax.base.fem.forms import num_owned
from relax.base.types import Array
from relax.engine.residual.registers import Registers


class ControlDuals:
    """Dual vectors of the controls. Collective, as is every method.

    Args:
        registers: of the problem.
    """

    def __init__(self, registers: Registers) -> None:
        self._comm, self._controls = registers.comm, registers.controls
        self._fields = [fem.Function(c.function_space) if isinstance(c, fem.Function) else None for c in self._controls]

    def summed(self, add: Callable[[int, Array], None]) -> list[Array]:
        """A part per control: owned values of a field, all entries of a constant (the same on every rank).

        Args:
            add: adds what this rank has for control i to values, owned and ghosts, or entries.
        """
        parts = []
        for i, (control, field) in enumerate(zip(self._controls, self._fields, strict=True)):
            values = np.zeros(control.value.size) if field is None else field.x.array
            values[:] = 0.0
            add(i, values)
            if field is None:
                parts.append(parallel.sum_over_ranks(self._comm, values))
            else:
                field.x.scatter_reverse(la.InsertMode.add)
                parts.append(values[: num_owned(field.function_space)].copy())
        return parts
