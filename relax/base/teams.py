"""Ranks in teams: a mesh over each team, samples over the teams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from relax.base.checks import at_least, of_kind
from relax.base.parallel import check_comm, gather_rows, together
from relax.base.types import Array
from relax.errors import BadInput


class Teams:
    """``comm`` cut into teams of neighbouring ranks. Collective to make.

    For problems that fit one rank, a rank a sample beats all ranks on each sample: triangular solves scale badly.

    Args:
        comm: the communicator to cut.
        ranks_per_solve: ranks of a team; divides the size of ``comm``.

    Attributes:
        space: this rank's team: the communicator for meshes.
        batch: the ranks that hold the same place in each team: the communicator over samples.

    Raises:
        BadInput: when the teams do not come out even.
    """

    def __init__(self, comm: MPI.Comm, ranks_per_solve: int) -> None:
        check_comm(comm)
        at_least(ranks_per_solve, 1, "Teams: ranks_per_solve")
        if comm.size % ranks_per_solve:
            raise BadInput(f"Teams: expected a divisor of {comm.size} ranks as ranks_per_solve, got {ranks_per_solve}")
        self.comm = comm
        self.space = comm.Split(comm.rank // ranks_per_solve, comm.rank)
        self.batch = comm.Split(comm.rank % ranks_per_solve, comm.rank)

    def __deepcopy__(self, memo: dict[int, object]) -> Teams:
        """Copies share the communicators. Local."""
        return self

    def mine(self, samples: int) -> slice:
        """Which of ``samples`` are this team's: a run of neighbours. Local."""
        bounds = np.linspace(0, samples, self.batch.size + 1).round().astype(int)
        return slice(int(bounds[self.batch.rank]), int(bounds[self.batch.rank + 1]))

    def gather(self, rows: Array) -> Array:
        """Every team's rows, in the order of the samples, on every rank. Collective over ``batch``."""
        return gather_rows(self.batch, rows)

    def close(self) -> None:
        """Free the communicators. Collective."""
        self.space.Free()
        self.batch.Free()


def check_teams(teams: object) -> None:
    """Refuse what is neither teams nor None. Local.

    Raises:
        BadInput: then.
    """
    if teams is not None:
        of_kind(teams, Teams, "relax.Teams", "teams")


def by_teams(teams: Teams | None, samples: int, rows_of: Callable[[slice], Array]) -> Array:
    """The rows of all samples, each team's made by itself; when one fails, all raise. Collective over ``teams.comm``.

    Args:
        teams: None for one that does them all.
        samples: how many there are.
        rows_of: makes the rows of some of the samples. Collective over the team.
    """
    if teams is None:
        return rows_of(slice(0, samples))
    mine: Array = np.empty(0)
    with together(teams.comm):
        mine = rows_of(teams.mine(samples))
    return teams.gather(mine)
