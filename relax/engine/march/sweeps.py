"""Going through a run: its steps, one by one, and what is carried along with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from relax.base.types import Array
from relax.engine.march.backwards import Backwards
from relax.engine.march.plan import Run
from relax.engine.march.runs import Runs
from relax.engine.march.storage import Walk
from relax.errors import SolveFailed


class Sweeps:
    """Sweeps through one run. Collective, as are all methods.

    Args:
        runs: the steps.
        run: the controls and parameters that they were made with.
        walk: the records; None for tangents along a run, step by step, alone.
    """

    def __init__(self, runs: Runs, run: Run, walk: Walk | None = None) -> None:
        self._runs = runs
        self._run = run
        self._given = walk
        self._backwards = Backwards(runs.system)

    @property
    def _walk(self) -> Walk:
        assert self._given is not None, "without a walk there are tangents along a run, step by step, alone"
        return self._given

    # -- forwards ------------------------------------------------------------------------------------------------------

    def initial_tangents(self, parts: list[list[Array]]) -> Array:
        """The change of the first record for each direction: (k, local)."""
        with self._at(-1):
            return self._runs.system.initial_tangents(self._run, parts)

    def advance(
        self, n: int, before: Array, after: Array, du: Array, parts: list[list[Array]], *, counted_as: str = "tangent"
    ) -> Array:
        """The change of record n + 1 from that of record n, (k, local), at a step whose two records are known."""
        with self._at(n):
            return self._runs.system.tangents(self._run, n, before, after, du, parts, counted_as=counted_as)

    def _walk_with_tangents(self, parts: list[list[Array]]) -> Walk:
        """A walk whose records are those of states and their tangents, (1 + l, local), gone forwards once."""
        runs, run = self._runs, self._run

        def advance(n: int, record: Array) -> Array:
            state = self._walk.held(n + 1)
            if state is None:
                state = runs.advance(run, n, record[0])
            return np.vstack([state[None, :], self.advance(n, record[0], state, record[1:], parts)])

        first = np.vstack([run.initial[None, :], self.initial_tangents(parts)])
        walk = runs.storage.walk(first, advance)
        walk.forward(lambda n, record: None)
        return walk

    # -- where we are --------------------------------------------------------------------------------------------------

    @contextmanager
    def _parameters(self) -> Iterator[None]:
        """Parameters are those of the run within the block, and the user's again after it."""
        system = self._runs.system
        with system.lent():
            system.begin(self._run)
            try:
                yield
            finally:
                system.end()

    @contextmanager
    def _at(self, n: int) -> Iterator[None]:
        """A solve of the step from u_n to u_{n+1} that fails within the block says where."""
        evolution = self._runs.evolution
        try:
            yield
        except SolveFailed as failure:
            raise SolveFailed(f"{evolution.name}: derivatives at {evolution.place(n + 1)}: {failure}") from failure
