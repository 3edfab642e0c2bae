"""Going through a run: its steps, installed one by one, and what is carried along with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from relax.base.types import Array
from relax.engine.march.plan import Run
from relax.engine.march.runs import Runs
from relax.engine.march.storage import Walk
from relax.engine.residual.registers import Point
from relax.errors import SolveFailed


class Sweeps:
    """Sweeps through one run. Collective, as are all methods.

    Args:
        runs: the steps.
        run: the controls and parameters that they were made with.
        walk: the states; None for tangents along a run, step by step, alone.
    """

    def __init__(self, runs: Runs, run: Run, walk: Walk | None = None) -> None:
        self._runs = runs
        self._run = run
        self._given = walk

    @property
    def _walk(self) -> Walk:
        assert self._given is not None, "without a walk there are tangents along a run, step by step, alone"
        return self._given

    # -- forwards ------------------------------------------------------------------------------------------------------

    def initial_tangents(self, parts: list[list[Array]]) -> Array:
        """du_0 for each direction: (k, local)."""
        place = self._runs.system.plan.initial
        if place is None:
            return np.zeros((len(parts), len(self._run.initial)))
        changes = np.array([of_direction[place] for of_direction in parts]).reshape(len(parts), -1)
        substitution = self._runs.evolution.substitution
        return changes if substitution is None else changes * substitution.unknown_slope(self._run.parts[place])

    def advance(
        self,
        n: int,
        before: Array,
        after: Array,
        du: Array,
        parts: list[list[Array]],
        *,
        counted_as: str = "tangent",
    ) -> Array:
        """du_{n+1} from du_n, (k, local), at a step whose two states are known."""
        runs = self._runs
        plan = runs.system.plan
        with self._step(n, before, after) as point:
            directions: list[list[Array]] = [[du[i], *plan.of_step(p, n)] for i, p in enumerate(parts)]
            with runs.system.operators.factor_here(point.key, derivatives=True) as factor:
                owned = runs.system.sensitivity.state_tangents(point, directions, factor)
        runs.counts[counted_as] += len(du)
        result = np.empty((len(du), len(after)))
        registers = runs.system.registers
        for i in range(len(du)):
            registers.install_state_tangent(owned[i])
            result[i] = registers.tangent_state.x.array
        return result

    def _walk_with_tangents(self, parts: list[list[Array]]) -> Walk:
        """A walk whose records are a state and its tangents, (1 + l, local), gone forwards once."""
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

    # -- backwards -----------------------------------------------------------------------------------------------------

    def _adjoints(self, point: Point, duals: Array) -> Array:
        """λ_n for each dual vector of u_n: (k, owned)."""
        runs = self._runs
        with runs.system.operators.factor_here(point.key, derivatives=True) as factor:
            adjoints = runs.system.sensitivity.adjoints(duals, factor)
        runs.counts["adjoint"] += len(duals)
        return adjoints

    # -- where we are --------------------------------------------------------------------------------------------------

    @contextmanager
    def _parameters(self) -> Iterator[None]:
        """Parameters are those of the run within the block, and the user's again after it."""
        system = self._runs.system
        with system.registers.lent():
            system.begin(self._run)
            try:
                yield
            finally:
                system.end()

    @contextmanager
    def _step(self, n: int, before: Array, after: Array) -> Iterator[Point]:
        """Registers hold the step from u_n to u_{n+1}; a solve that fails within the block says where."""
        evolution = self._runs.evolution
        try:
            yield self._runs.system.install(self._run, n, before, after)
        except SolveFailed as failure:
            raise SolveFailed(f"{evolution.name}: derivatives at {evolution.place(n + 1)}: {failure}") from failure
