"""What the engine's parts ask of each other: a map, a map of batches, the solution behind a map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy.typing as npt

from relax.base.fem.forms import Control
from relax.base.fem.layout import as_rows
from relax.base.types import Array
from relax.engine.linearization import ControlSpace, Derivatives, Linearization
from relax.engine.residual.residual import Residual
from relax.errors import BadInput


def shared(self: Any, memo: dict[int, Any]) -> Any:
    """``__deepcopy__`` of what copies share: a mesh, factors and communicators are there once. Local."""
    return self


def itself(self: Any) -> Any:
    """``__copy__`` of the same. Local."""
    return self


def not_pickled(self: Any, protocol: Any) -> Any:
    """``__reduce_ex__`` of what lives in this process alone.

    Raises:
        BadInput: always, with the way out.
    """
    raise BadInput(
        f"{type(self).__name__}: cannot be pickled or sent to another process: its mesh and factors live in this one. "
        "Save `state_dict()` of the network, and build map and layer anew"
    )


def check_is_map(G: Any, what: str) -> None:
    """Refuse what is no map. Local.

    Raises:
        BadInput: then.
    """
    if isinstance(G, type) or not hasattr(G, "linearize"):
        raise BadInput(f"{what}: expected a map, such as relax.ReducedMap, got {type(G).__name__}")


def check_has_controls(G: ControlSpace, what: str, purpose: str) -> None:
    """Refuse a map of nothing, where there must be something to ``purpose``. Local.

    Raises:
        BadInput: then.
    """
    if G.layout.is_empty:
        raise BadInput(
            f"{what}: the problem has no controls, so there is nothing to {purpose}; expected in its controls= what to "
            "differentiate with respect to"
        )


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
    """G: m -> y, with derivatives where it is linearised: ``ReducedMap``, ``EigenMap``. Collective.

    A map of one's own inherits it: the four methods without a body are its own.

    Attributes:
        problem: what is solved.
        counts: of solves: "forward", "tangent", "adjoint".
    """

    problem: MappedProblem
    counts: dict[str, int]

    @abstractmethod
    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m): (..., size_in) -> (..., size_out)."""

    @abstractmethod
    def linearize_rows(self, rows: Array) -> list[Linearization]:
        """``linearize_each`` of rows that ``layout.checked`` has seen: they are not looked at again."""

    @abstractmethod
    def present_control(self) -> Array:
        """The control vector of what the problem's controls hold now, the same in each step."""

    @abstractmethod
    def close(self) -> None:
        """Free the factors and matrices. The map and its linearisation points are of no use afterwards."""

    def dot(self, a: Array, b: Array) -> float:
        """The inner product of two control vectors over all ranks. Local under ``layout="replicated"``."""
        return self.layout.dot(a, b)

    def linearize(self, m: npt.ArrayLike) -> Linearization:
        """Solve at one control, shape (size_in,), and return the linearisation point, which owns its state."""
        control = self.layout.checked(m, "control")
        if control.ndim != 1:
            raise BadInput(
                f"linearize: expected one control of shape ({self.size_in},), got {control.shape}; "
                "linearise at each sample by itself, or use linearize_each"
            )
        return self.linearize_rows(control[None, :])[0]

    def linearize_each(self, m: npt.ArrayLike) -> list[Linearization]:
        """Linearisation points of several controls (k, size_in); one block solve where the residual is affine."""
        return self.linearize_rows(as_rows(self.layout.checked(m, "control")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Solution(Protocol):
    """What solves the problem behind a ``ReducedMap``, in space or in time. Collective, as is every method.

    Attributes:
        residual: of the problem, or of one step.
    """

    residual: Residual

    def values(self, rows: Array) -> Array:
        """Observations at several controls: (k, size_in) -> (k, size_out)."""

    def linearize(self, rows: Array) -> list[tuple[Derivatives, Array]]:
        """Derivatives and observations at several controls."""

    def present_parts(self) -> list[Array]:
        """What the controls hold now: owned values of a field, the entries of others. Collective."""

    def close(self) -> None:
        """Free factors and matrices."""
