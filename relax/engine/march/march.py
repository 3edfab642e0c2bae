"""Forward runs of an evolution, and the points where its derivatives are taken."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

from relax.base.checkpoint import Checkpoint
from relax.base.fem.expansion import held
from relax.base.log import LongRun
from relax.base.types import Array
from relax.engine.linearization import BLOCK, Derivatives
from relax.engine.march.derivatives import MarchDerivatives
from relax.engine.march.kept import KeptState
from relax.engine.march.plan import expanded
from relax.engine.march.runs import Runs


class March(Runs):
    """Solves an evolution at control vectors. Collective, as are all methods."""

    def values(self, rows: Array) -> Array:
        """Observations at several controls: (k, size_in) -> (k, size_out); in block solves where steps are affine."""
        values = np.zeros((len(rows), self.observation.size))
        try:
            if len(rows) > 1 and self.system.goes_in_blocks:
                for start in range(0, len(rows), BLOCK):
                    parts = [self.layout.split(row) for row in rows[start : start + BLOCK]]
                    for n, states in self._states_together(parts):
                        self._see_each(n, states, parts, values[start : start + BLOCK])
            else:
                for i in range(len(rows)):
                    values[i] = self._value_at(rows[i])
        finally:
            self.system.end()
        return values

    def _see_each(self, n: int, states: Array, parts: list[list[Array]], values: Array) -> None:
        """Add what is seen of each of several u_n, (k, local), to y, (k, size_out)."""
        for i in range(len(states)):
            self.observation.add_value(n, states[i], parts[i], values[i])

    def _states_together(self, parts: list[list[Array]]) -> Iterator[tuple[int, Array]]:
        """(n, the u_n at several controls, (k, local)) of affine steps, u_n(m) = u_n(0) + u_n'(0) m, in block solves.

        At the end the registers hold the last one of them.
        """
        base = self.begin(np.zeros(self.layout.size), from_zero=True)
        tangents = MarchDerivatives(self, base)
        du = np.array([self.system.run(of_row).initial for of_row in parts]) - base.initial
        self.system.begin(base)
        before = base.initial
        last = (before, before)
        for n, state in self.states(base):
            if n > 0:
                changed = tangents.advance(n - 1, before, state, du, parts, counted_as="forward")
                last = (before + du[-1], state + changed[-1])
                du, before = changed, state
            states = state + du
            for i in range(len(states)):
                self.system.check(states[i], n)
            yield n, states
        self.system.install(self.system.run(parts[-1]), self.evolution.num_steps - 1, *last)
        self.observation.show(self.evolution.num_steps, last[1])

    def _value_at(self, row: Array) -> Array:
        run = self.begin(row)
        value = np.zeros(self.observation.size)
        for n, state in self.states(run):
            self.observation.add_value(n, state, run.parts, value)
        self.observation.show(self.evolution.num_steps, state)
        return value

    def trajectory(self, row: Array, checkpoint: Checkpoint | None = None) -> Generator[tuple[int, float | None]]:
        """(n, time of u_n) with the state's register holding u_n; from the step on that a checkpoint has kept."""
        run = self.begin(row)
        kept = KeptState(self, row)
        if checkpoint is not None:
            checkpoint.add(trajectory=kept)
            checkpoint.restore()
        try:
            for n, state in self.states(run, kept.at):
                self.system.begin(run)
                self.observation.show(n, state)
                kept.at = n, state
                yield n, self.evolution.time_at(n)
                if checkpoint is not None:
                    checkpoint.save(n, now=n == self.evolution.num_steps)
        finally:
            self.system.end(run)

    def linearize(self, rows: Array) -> list[tuple[Derivatives, Array]]:
        """Derivatives and observations at several controls; in block solves where steps are affine, and states kept."""
        points: list[tuple[Derivatives, Array]] = []
        try:
            if len(rows) == 1 or not self.system.goes_in_blocks or not self.storage.keeps_all:
                points += [self._linearize(row) for row in rows]
            else:
                for start in range(0, len(rows), BLOCK):
                    points += self._linearize_together(rows[start : start + BLOCK])
        finally:
            self.system.end()
        return points

    def _linearize_together(self, rows: Array) -> list[tuple[Derivatives, Array]]:
        values = np.zeros((len(rows), self.observation.size))
        records: list[list[Array]] = [[] for _ in rows]
        parts = [self.layout.split(row) for row in rows]
        for n, states in self._states_together(parts):
            self._see_each(n, states, parts, values)
            for i in range(len(rows)):
                records[i].append(states[i].copy())
        runs = [self.begin(rows[i]) for i in range(len(rows))]
        walks = [self.storage.kept(r) for r in records]
        for walk in walks:
            self.note(walk)
        points = [MarchDerivatives(self, run, walk) for run, walk in zip(runs, walks, strict=True)]
        return list(zip(points, values, strict=True))

    def _linearize(self, row: Array) -> tuple[Derivatives, Array]:
        run = self.begin(row)
        value = np.zeros(self.observation.size)
        walk = self.storage.walk(run.initial, lambda n, state: self.advance(run, n, state))
        with LongRun(f"{self.evolution.name}: steps", self.evolution.num_steps) as progress:

            def visit(n: int, state: Array) -> None:
                self.observation.add_value(n, state, run.parts, value)
                progress.reached(n)
                if n == self.evolution.num_steps:
                    self.observation.show(n, state)

            walk.forward(visit)
        self.note(walk)
        return MarchDerivatives(self, run, walk), value

    def present_parts(self) -> list[Array]:
        """What the controls hold now, the same for each step, as ``held``. Collective."""
        return [held(control) for control in expanded(self.evolution)]

    def close(self) -> None:
        """Free the factors and matrices."""
        self.system.close()
