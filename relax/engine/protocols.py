"""What maps have in common: ``ReducedMap`` and ``EigenMap`` are such, and whatever else has these members."""

from __future__ import annotations

from typing import Protocol

from relax.base.types import Array
from relax.engine.linearization import ControlSpace, Linearization


class Map(ControlSpace, Protocol):
    """G: control vectors (size_in,) to observations (size_out,), with derivatives. All methods are collective.

    Attributes:
        counts: how many states, tangents and adjoints have been solved for: "forward", "tangent", "adjoint".
    """

    counts: dict[str, int]

    def __call__(self, m: Array) -> Array:
        """G(m): (..., size_in) -> (..., size_out). Leading axes are samples."""

    def linearize(self, m: Array) -> Linearization:
        """The linearisation point at one control (size_in,).

        Raises:
            BadInput: on every rank, for anything else.
            SolveFailed: when the state cannot be solved for.
        """

    def linearize_rows(self, rows: Array) -> list[Linearization]:
        """The linearisation points at rows (k, size_in) that ``layout.checked`` has seen: they are not looked at again.

        Raises:
            SolveFailed: as above.
        """
