"""The exchange between the teams of a distributed batch: factors of rows, products, sums; never a Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.teams import Teams
from relax.base.types import Array
from relax.errors import BadInput


class Exchange:
    """The exchange between the teams that share a batch; of a single process, nothing is sent.

    Args:
        teams: None for a batch of one process.
    """

    def __init__(self, teams: Teams | None) -> None:
        self._teams = teams

    # Asked for, not kept: what holds a communicator cannot always be copied.

    @property
    def _comm(self) -> MPI.Comm:
        return MPI.COMM_SELF if self._teams is None else self._teams.comm

    @property
    def _batch(self) -> MPI.Comm:
        return MPI.COMM_SELF if self._teams is None else self._teams.batch

    @property
    def is_shared(self) -> bool:
        """Whether there are teams."""
        return self._teams is not None

    def together(self) -> AbstractContextManager[None]:
        """A block in which an error of one rank is raised on all."""
        # Alone, an error is raised as it is, and its traceback is nobody's.
        return nullcontext() if self._teams is None else parallel.together(self._comm)

    def same_start(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank rank 0's values of some tensors."""
        if self._teams is None:
            return
        with self.together():
            if any(torch.nn.parameter.is_lazy(t) for t in tensors):
                raise BadInput("HalfInverse: expected parameters with shapes; call a lazy network once, then make this")
        sizes = parallel.on_each_rank(self._comm, [tuple(t.shape) for t in tensors])
        if any(other != sizes[0] for other in sizes):
            raise BadInput(
                "HalfInverse: expected the same parameters on each rank, got others; make the same network on all ranks"
            )
        with torch.no_grad():
            for t in tensors:
                told = parallel.from_rank_0(self._comm, t.detach().reshape(-1).to("cpu", torch.float64).numpy())
                t.copy_(torch.from_numpy(told).view(t.shape))

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return parallel.any_rank(self._comm, flag)

    def agree(self, what: str) -> bool:
        """Whether it is the same on all ranks."""
        return len(set(parallel.on_each_rank(self._comm, what))) == 1

    def samples_before(self, count: int, outputs: int) -> tuple[int, int]:
        """(samples of the teams before this one, samples of all), of which this one has ``count``.

        Raises:
            BadInput: on every rank, when teams have other numbers of outputs.
        """
        shapes = parallel.on_each_rank(self._batch, (count, outputs))
        if not self.agree(str(outputs)):
            numbers = sorted({o for _, o in shapes})
            raise BadInput(f"HalfInverse: expected as many outputs on each team, got {', '.join(map(str, numbers))}")
        counts = [samples for samples, _ in shapes]
        return sum(counts[: self._batch.rank]), sum(counts)

    def share(self, count: int) -> slice:
        """Which of ``count`` things are this team's."""
        return slice(0, count) if self._teams is None else self._teams.mine(count)

    def all_samples(self, mine: Tensor) -> Tensor:
        """The rows of all teams, in the order of the samples."""
        if self._batch.size == 1:
            return mine
        return torch.from_numpy(parallel.gather_rows(self._batch, mine.cpu().numpy())).to(mine.device)

    def all_rows(self, mine: Array) -> Array:
        """The rows of all teams."""
        return parallel.gather_rows(self._batch, mine)

    def sum(self, values: Array) -> Array:
        """The sum over the teams; the same bits on every rank."""
        values = parallel.sum_over_ranks(self._batch, values)
        if self._teams is None or self._teams.space.size == 1:
            return values
        return parallel.from_rank_0(self._teams.space, values)

    def of_first(self, values: Array) -> Array:
        """Rank 0's values, so that all ranks go on with the same bits."""
        return parallel.from_rank_0(self._comm, values)
