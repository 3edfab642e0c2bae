"""What teams of ranks share of a sum over samples."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.teams import Teams
from relax.base.types import Array


class Shares:
    """Samples over teams, whose ranks in the same place own the same parameters; or one team that has them all.

    Args:
        comm: of the mesh.
        teams: None for one.
    """

    def __init__(self, comm: MPI.Comm, teams: Teams | None) -> None:
        self.comm, self.teams = comm, teams

    def mine(self, samples: int) -> slice:
        """Which are this team's. Local."""
        return slice(0, samples) if self.teams is None else self.teams.mine(samples)

    def alone(self) -> AbstractContextManager[None]:
        """A block that each team runs by itself; what fails in one does in all. Collective."""
        return nullcontext() if self.teams is None else parallel.together(self.teams.comm)

    def sum(self, values: Array) -> Array:
        """Over the teams, the same to the bit in each place of all teams. Collective."""
        return values if self.teams is None else parallel.sum_over_ranks(self.teams.batch, values)

    def sum_of_numbers(self, values: Array) -> Array:
        """As ``sum``, of what all ranks of a team have, and the same on all ranks. Collective."""
        return values if self.teams is None else parallel.from_rank_0(self.comm, self.sum(values))

    def dot(self, a: Array, b: Array) -> float:
        """The inner product of two vectors of owned parameters, the same on all ranks. Collective."""
        found = parallel.sum_over_ranks(self.comm, np.array([np.dot(a, b)]))
        return float(found[0] if self.teams is None else parallel.from_rank_0(self.teams.batch, found)[0])

    def largest(self, value: float) -> float:
        """Of numbers that all ranks of a team have. Collective."""
        return value if self.teams is None else parallel.largest(self.teams.comm, value)

    def agree(self, values: Array) -> bool:
        """Whether all teams have the same ones, to the bit. Collective."""
        if self.teams is None:
            return True
        differs = not np.array_equal(parallel.from_rank_0(self.teams.batch, values), values)
        return not parallel.any_rank(self.teams.comm, differs)
