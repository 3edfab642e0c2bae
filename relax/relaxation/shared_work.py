"""Many pieces of work, shared among teams of ranks, and kept as they are done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Generic, TypeVar

import numpy as np

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.log import LongRun
from relax.base.teams import Teams
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.result import Result, Stats, Status

T = TypeVar("T")


class Pieces(Generic[T]):
    """Work for each of some rows, and what came of those that are done.

    Args:
        teams: who shares the rows; None for one team.
        work: what to do with a row; gives a number, a ``Result`` or None. Collective over the team.
        what: the pieces, in the plural.
        given: numbers that tell this work from another one.
    """

    def __init__(self, teams: Teams | None, work: Callable[[Array], T], what: str, given: Array) -> None:
        self._teams = teams
        self._given = given
        self._work = work
        self._what = what
        self._rows: Array = np.empty(0)
        self._done: dict[int, T] = {}

    def each(self, rows: Array, checkpoint: Checkpoint | None = None) -> list[T]:
        """What comes of each row, in their order, on every rank. Collective over all teams.

        With a checkpoint one piece of each team is done at a time, and kept when that is due; what it has of these very
        rows is not done again.
        """
        if self._rows.shape != rows.shape or not np.allclose(self._rows, rows, rtol=1e-9, atol=1e-12):
            self._done = {}
        self._rows = rows
        pending = [i for i in range(len(rows)) if i not in self._done]
        at_once = len(pending) if checkpoint is None else 1 if self._teams is None else self._teams.batch.size
        with LongRun(self._what, len(pending)) as run:
            for first in range(0, len(pending), max(at_once, 1)):
                run.reached(first)
                self._do(pending[first : first + at_once], run)
                if checkpoint is not None:
                    checkpoint.save(len(self._done))
        return [self._done[i] for i in range(len(rows))]

    def _do(self, pieces: list[int], run: LongRun) -> None:
        teams = self._teams
        mine = pieces if teams is None else pieces[teams.mine(len(pieces))]
        results: dict[int, T] = {}
        with nullcontext() if teams is None else parallel.together(teams.comm):
            for i in mine:
                results[i] = self._work(self._rows[i])
                run.reached(len(self._done) + len(results))
        for part in [results] if teams is None else parallel.on_each_rank(teams.batch, results):
            self._done |= part

    def state_dict(self) -> dict[str, Any]:
        # The clocks of the teams differ; the first one's results are everyone's.
        comm = None if self._teams is None else self._teams.comm
        done = [[i, _plain(result)] for i, result in self._done.items()]
        return {
            "given": self._given,
            "rows": self._rows,
            "done": done if comm is None else parallel.of_rank_0(comm, done),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not np.allclose(state["given"], self._given, rtol=1e-6):
            raise BadInput("data or noise are not those of the run that the checkpoint is of; give each its own folder")
        self._rows = state["rows"]
        self._done = {i: _built(result) for i, result in state["done"]}


def _plain(result: Any) -> Any:
    if not isinstance(result, Result):
        return result
    stats = asdict(result.stats)
    return {"value": result.value, "status": result.status.name, "stats": stats, "history": result.history}


def _built(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    return Result(state["value"], Status[state["status"]], Stats(**state["stats"]), state["history"])
