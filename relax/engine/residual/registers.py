"""What a user may change between two calls: Functions and Constants that are neither state nor control.

Those that stand in the residual or in the observable, and the values of boundary conditions.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from relax.base import parallel
from relax.base.fem.forms import Control, holds, values_of
from relax.base.la.factors import Key
from relax.base.types import Array
from relax.engine.residual.residual import Residual
from relax.problem.problem import is_value_of


class Parameters:
    """Snapshots of a residual's parameters, and keys for what depends on nothing else. Collective, as are all methods.

    Args:
        residual: the residual.
        but: a parameter that is set by the solution itself, the time of a step.

    Attributes:
        operator_key: names ∂F/∂u as long as no parameter in it changes.
        everything_key: names what depends on any parameter.
    """

    def __init__(self, residual: Residual, but: Control | None = None) -> None:
        self._comm = residual.comm
        registers = [p for p in residual.parameters if p is not but]
        controls = residual.controls
        values = [bc.g for bc in residual.problem.bcs if not any(is_value_of(bc, c) for c in (*controls, *registers))]
        self._views = [partial(values_of, p) for p in registers] + [partial(_value_of, g) for g in values]
        self._in_operator = [holds(residual.weak.J, p) for p in registers] + [False] * len(values)
        self._values = self._present()
        self.operator_key = Key()
        self.everything_key = Key()

    def _present(self) -> list[Array]:
        return [np.array(view()) for view in self._views]

    def snapshot(self) -> list[Array]:
        """The values now; the very list of the last time while they stay the same. Keys are renewed where they must."""
        now = self._present()
        changed = [not np.array_equal(a, b) for a, b in zip(now, self._values, strict=True)]
        if not now or not parallel.any_rank(self._comm, any(changed)):
            return self._values
        if parallel.any_rank(self._comm, any(c and held for c, held in zip(changed, self._in_operator, strict=True))):
            self.operator_key = Key()
        self.everything_key = Key()
        self._values = now
        return self._values

    def take(self) -> list[Array]:
        """Copies of the values as they stand, to be given back by ``install``. Local."""
        return self._present()

    def install(self, values: list[Array]) -> None:
        """Write values. Local."""
        for view, value in zip(self._views, values, strict=True):
            view()[...] = value


def _value_of(g: Any) -> Array:
    """The live values of what a boundary condition takes its values from: DOLFINx keeps the C++ object alone. Local."""
    values: Array = g.x.array if hasattr(g, "x") else g.value
    return values
