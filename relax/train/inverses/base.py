"""The common part of the inverses of reduced maps: batches, tensors and arrays, ranks, and samples over teams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from relax.base import parallel
from relax.base.fem.layout import as_rows
from relax.base.la.factors import Key
from relax.base.teams import Teams, by_teams, check_teams
from relax.base.types import Array
from relax.engine.protocols import check_has_controls, check_is_map
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput


class MapInverse(ABC):
    """Corrections dx with G(x + dx) near G(x) + residual, for batches.

    Collective, to make and to call. ``inverse.at(x)(residual)``: x (..., size_in), residual (..., size_out), the same
    leading axes, gives dx (..., size_in); ``inverse(residual, x)`` is the same, and x may be left out where the
    correction does not depend on it. Tensors give tensors of their dtype and device, of float64 where they hold
    integers, and arrays give arrays; computed in float64. Under the replicated layout rank 0's values count, and every
    rank gets the same dx.

    Args:
        G: the map, in the replicated layout.
        teams: share the samples among teams of ranks. G is then on a mesh over ``teams.space``.

    Attributes:
        comm: the ranks that call together.
    """

    def __init__(self, G: ReducedMap, teams: Teams | None = None) -> None:
        check_is_map(G, type(self).__name__)
        check_has_controls(G, type(self).__name__, "correct")
        check_teams(teams)
        self.G = G
        self.teams = teams
        self.comm: MPI.Comm = G.comm if teams is None else teams.comm
        self.name = type(self).__name__
        if G.layout.kind != "replicated" or (teams is not None and G.comm.size != teams.space.size):
            where = "" if teams is None else f" on a mesh over teams.space ({teams.space.size} ranks)"
            raise BadInput(
                f"{self.name}: expected a map with the replicated layout{where}, got layout {G.layout.kind!r} on "
                f"{G.comm.size} ranks"
            )

    def at(self, x: Any) -> Callable[[Any], Any]:
        """The inverse near x, (..., size_in): a function of the residual."""
        return lambda residual: self(residual, x)

    def __call__(self, residual: Any, x: Any = None) -> Any:
        """dx for residuals (..., size_out) at x (..., size_in)."""
        wanted = self._checked(residual, self.G.size_out, "residual")
        lead = wanted.shape[:-1]
        points = None if x is None else self._checked(x, self.G.size_in, "x")
        # Shapes are those of every rank by now.
        if points is not None and points.shape[:-1] != lead:
            raise BadInput(
                f"{self.name}: expected as many x as residuals, got shapes {points.shape} and {wanted.shape}"
            )
        here, way = None if points is None else as_rows(points), as_rows(wanted)
        dx = by_teams(
            self.teams, len(way), lambda mine: self._computed(None if here is None else here[mine], way[mine])
        )
        return like(residual, dx.reshape(*lead, self.G.size_in))

    def _computed(self, x: Array | None, residual: Array) -> Array:
        if len(residual) == 0:
            return np.empty((0, self.G.size_in))
        # Ranks on different processors may round differently.
        return parallel.from_rank_0(self.G.comm, self._corrections(x, residual))

    def _checked(self, values: Any, last: int, what: str) -> Array:
        return parallel.checked_on_all(self.comm, as_array(values), last, f"{self.name}: {what}")

    def _needed(self, x: Array | None) -> Array:
        """x, where the correction depends on it.

        Raises:
            BadInput: when it was not given.
        """
        if x is None:
            raise BadInput(
                f"{self.name}: this correction depends on where the physics is; call inverse.at(x)(residual)"
            )
        return x

    @abstractmethod
    def _corrections(self, x: Array | None, residual: Array) -> Array:
        """dx (k, size_in) for x (k, size_in), if known, and residuals (k, size_out), k >= 1. Collective over G.comm."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Free what PETSc holds for the inverse; the map is the caller's. Collective."""


class over_teams:  # noqa: N801 - used as a function
    """An inverse of one's own, with the samples of a batch shared among teams.

    Collective to call, over ``teams.comm``. Each team calls the inverse for its samples, a team without samples does
    not; every rank gets the whole correction, in the dtype of the residual, float64 for integers.

    Args:
        inverse: a function of the residual, or an object with a method ``at``; axis 0 is samples.
        teams: the teams.
    """

    def __init__(self, inverse: Any, teams: Teams) -> None:
        self.inverse = inverse
        self.teams = teams
        self.comm: MPI.Comm = teams.comm

    def at(self, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The shared inverse near x."""
        return lambda residual: self._shared(residual, x)

    def _shared(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        local = getattr(self.inverse, "at", None)

        def corrections(mine: slice) -> Array:
            here, way = x[mine], residual[mine]
            if len(way) == 0:
                return np.empty(here.shape)
            given = self.inverse(way) if local is None else local(here)(way)
            dx: Array = torch.as_tensor(given).detach().cpu().to(torch.float64).numpy()
            if dx.shape != tuple(here.shape):
                raise BadInput(
                    f"over_teams: inverse: expected a correction of shape {tuple(here.shape)} for this team's samples, "
                    f"got {dx.shape}"
                )
            return dx

        return like(residual, by_teams(self.teams, len(residual), corrections))


def as_array(values: Any) -> Any:
    """A tensor as an array, anything else as it is. Local."""
    if not isinstance(values, torch.Tensor):
        return values
    tensor = values.detach().cpu()
    # NumPy has no bfloat16.
    return (tensor.to(torch.float64) if tensor.is_floating_point() else tensor).numpy()


def like(given: Any, values: Array) -> Any:
    """A tensor of the device and the dtype (float64 for integers) of a tensor, an array for anything else."""
    if isinstance(given, torch.Tensor):
        dtype = given.dtype if given.is_floating_point() else torch.float64
        return torch.from_numpy(np.ascontiguousarray(values)).to(device=given.device, dtype=dtype)
    return values


def parameters_key(G: ReducedMap) -> Key:
    """A key for what depends on parameters alone, which a user may change: another object once they have changed.

    Collective.
    """
    parameters = G.residual.parameters
    parameters.snapshot()
    return parameters.everything_key
