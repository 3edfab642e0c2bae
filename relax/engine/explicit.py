"""How an observable depends on the controls themselves, beside what it sees of the state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from dolfinx import fem

from relax.base.fem.forms import Control, values_of
from relax.base.types import Array
from relax.observe.base import Observable


class ExplicitPart:
    """∂B/∂m at a fixed state, and its derivatives, where registers hold the point. Collective.

    Nothing is computed where no control stands in B.

    Args:
        observable: B.
        places: each control, and where it lies in what the methods call ``parts``: ``parts[place]`` are its local
            values.
    """

    def __init__(self, observable: Observable, places: Iterable[tuple[Control, Any]]) -> None:
        self._observable = observable
        self._places = [(c, place) for c, place in places if observable.holds(c)]

    def __bool__(self) -> bool:
        return bool(self._places)

    def install(self, parts: Any) -> None:
        """Write the controls that stand in B into their registers. Local."""
        for control, place in self._places:
            values = values_of(control)
            values[...] = np.reshape(parts[place], values.shape)

    def _changes(self, parts: Any) -> dict[Control, Array]:
        return {control: parts[place] for control, place in self._places}

    def tangent(self, u: fem.Function, parts: Any) -> Array | float:
        """∂B/∂m dm, (size,)."""
        return self._observable.control_tangent(u, self._changes(parts)) if self else 0.0

    def gradients(self, u: fem.Function, dy: Array) -> Iterator[tuple[Any, Array]]:
        """(place, (∂B/∂m)ᵀ dy) for each control that stands in B."""
        for control, place in self._places:
            yield place, self._observable.control_adjoint(u, dy, control)

    def second_state(self, u: fem.Function, dy: Array, du: fem.Function, parts: Any) -> Array | float:
        """d/dε B'(u)ᵀ dy along dm alone: (owned,)."""
        return self._observable.control_second(u, dy, u, du, self._changes(parts)) if self else 0.0

    def second_gradients(self, u: fem.Function, dy: Array, du: fem.Function, parts: Any) -> Iterator[tuple[Any, Array]]:
        """(place, d/dε (∂B/∂m)ᵀ dy along (du, dm)) for each control that stands in B."""
        for control, place in self._places:
            yield place, self._observable.control_second(u, dy, control, du, self._changes(parts))
