"""Runs of an evolution: what its derivatives need of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from relax.base.fem.layout import ControlLayout
from relax.base.log import LongRun
from relax.base.types import Array
from relax.engine.march.observation import Observation
from relax.engine.march.plan import Run
from relax.engine.march.storage import Storage, Walk
from relax.engine.march.system import AnyOptions, StepSystem
from relax.engine.solve.newton import Newton
from relax.observe import Observable
from relax.problem.evolution import Evolution


class Runs:
    """Steps from given controls, one after the other. Collective, as is every method unless it says "Local".

    Args:
        evolution: the equation.
        observable: what is seen of it.
        layout: of control vectors, over the expanded controls.
        counts: of solves, one for each step and right-hand side, added to; ``stored`` is the most states that a
            linearisation point has held at once.
        settings: tolerances of Newton's method; memory for factors.
        options: PETSc options or the name of a preset; for several equations also a list of one for each.
        storage: a schedule of ``checkpoint_schedules``; None keeps all states.
    """

    def __init__(
        self,
        evolution: Evolution,
        observable: Observable,
        layout: ControlLayout,
        counts: dict[str, int],
        settings: Newton,
        options: AnyOptions,
        storage: object,
    ) -> None:
        self.evolution = evolution
        self.layout = layout
        self.counts = counts
        counts["stored"] = 0
        self.storage = Storage(storage, evolution.num_steps, evolution.mesh.comm)
        self.system = StepSystem(evolution, observable, settings, options, counts)
        self.residual = self.system.residual
        self.observation = Observation(observable, self.system)

    def begin(self, row: Array, *, from_zero: bool = False) -> Run:
        """A run at a control vector, ready to be stepped through; ``from_zero`` whatever initial state it holds."""
        parts = self.layout.split(row)
        is_given = not from_zero or all(place is None for place in self.system.plan.initials)
        run = self.system.run(parts, None if is_given else np.zeros(self.system.records.num_local))
        self.system.begin(run)
        return run

    def states(self, run: Run, start: tuple[int, Array] | None = None) -> Iterator[tuple[int, Array]]:
        """(n, u_n) for n = 0, ..., N, or from a later (n, u_n) on, nothing kept; u_n in local values with ghosts."""
        first, state = (0, run.initial) if start is None else start
        yield first, state
        with LongRun(f"{self.evolution.name}: steps", self.evolution.num_steps) as progress:
            for n in range(first, self.evolution.num_steps):
                state = self.advance(run, n, state)
                yield n + 1, state
                progress.reached(n + 1)

    def advance(self, run: Run, n: int, state: Array) -> Array:
        """u_{n+1} from u_n."""
        after = self.system.solve(run, n, state)
        if not run.is_base:
            self.system.check(after, n + 1)
        return after

    def note(self, walk: Walk) -> None:
        """Take down how many states a walk has held. Local."""
        self.counts["stored"] = max(self.counts["stored"], walk.most)
