"""Where a run through a trajectory is, as a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.types import Array
from relax.engine.march.runs import Runs
from relax.errors import BadInput


class KeptState:
    """The last step of a run at one control, and its state. Collective, as are the methods.

    Attributes:
        at: (n, the record at u_n), in local values with ghosts; None before the start.
    """

    def __init__(self, runs: Runs, row: Array) -> None:
        self.at: tuple[int, Array] | None = None
        self._runs = runs
        self._row = row

    def state_dict(self) -> dict[str, Any]:
        assert self.at is not None
        n, record = self.at
        kept: dict[str, Any] = {"step": n, "control": self._runs.layout.as_kept(self._row)}
        for name, V, place in self._parts():
            kept[name] = fem.Function(V)
            kept[name].x.array[:] = record[place]
        return kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        layout, comm = self._runs.layout, self._runs.evolution.mesh.comm
        row = layout.restored(state["control"], "the control of the checkpoint")
        size = parallel.largest(comm, float(np.abs(row).max(initial=0.0)))
        if parallel.any_rank(comm, bool(np.abs(row - self._row).max(initial=0.0) > 1e-6 * size)):
            raise BadInput("the control: is not that of the run that the checkpoint is of; give each its own folder")
        record = np.empty(self._runs.system.records.num_local)
        for name, V, place in self._parts():
            u = fem.Function(V)
            state[name].into(u)
            record[place] = u.x.array
        self.at = int(state["step"]), record

    def _parts(self) -> Iterator[tuple[str, fem.FunctionSpace, slice]]:
        """Each state of a record: what is marched; where there is a substitution, the state is computed from it."""
        records, components = self._runs.system.records, self._runs.evolution.components
        for i, (component, ages) in enumerate(zip(components, records.local, strict=True)):
            for age, place in enumerate(ages):
                yield "state" if i == age == 0 else f"state_{i}_{age}", component.state.function_space, place
