"""What the engine's parts ask of each other: a map, a map of batches, the solution behind a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from relax.base.fem.forms import Control
from relax.base.fem.layout import ControlLayout
from relax.base.types import Array
from relax.engine.linearization import ControlSpace, Derivatives, Linearization
from relax.engine.residual.residual import Residual


class MappedProblem(Protocol):
    """What a map solves: names, and registers that hold the point at which it last worked."""

    @property
    def name(self) -> str:
        """Part of the PETSc options prefix."""

    @property
    def state(self) -> Any:
        """The state, a Function."""

    @property
    def controls(self) -> Sequence[Control]:
        """What the map is differentiated in."""


class Map(ControlSpace, Protocol):
    """G: m -> y, with derivatives where it is linearised: ``ReducedMap``, ``EigenMap``. Collective, as is every method.

    Attributes:
        counts: of solves: "forward", "tangent", "adjoint".
    """

    counts: dict[str, int]

    @property
    def problem(self) -> MappedProblem:
        """What is solved. Local."""

    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m): (..., size_in) -> (..., size_out)."""

    def linearize(self, m: npt.ArrayLike) -> Linearization:
        """At one control, (size_in,)."""

    def linearize_rows(self, rows: Array) -> list[Linearization]:
        """At several, (k, size_in), that ``layout.checked`` has seen: they are not looked at again."""

    def present_control(self) -> Array:
        """The control vector of what the registers hold."""


class Solution(Protocol):
    """What solves the problem behind a ``ReducedMap``, in space or in time. Collective, as is every method.

    Attributes:
        residual: of the problem, or of one step.
        layout: of control vectors.
        counts: of solves, added to.
    """

    residual: Residual
    layout: ControlLayout
    counts: dict[str, int]

    def values(self, rows: Array) -> Array:
        """Observations at several controls: (k, size_in) -> (k, size_out)."""

    def linearize(self, rows: Array) -> list[tuple[Derivatives, Array]]:
        """Derivatives and observations at several controls."""

    def present_parts(self) -> list[Array]:
        """What the controls hold now: owned values of a field, the entries of a constant."""

    def close(self) -> None:
        """Free factors and matrices."""
