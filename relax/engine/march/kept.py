"""Where a run through a trajectory is, as a checkpoint keeps it."""

from __future__ import annotations

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
        at: (n, u_n), in local values with ghosts; None before the start.
    """

    def __init__(self, runs: Runs, row: Array) -> None:
        self.at: tuple[int, Array] | None = None
        self._runs = runs
        self._row = row

    def _space(self) -> fem.FunctionSpace:
        # What is marched: where there is a substitution, the state is computed from it.
        return self._runs.evolution.step.state.function_space

    def state_dict(self) -> dict[str, Any]:
        assert self.at is not None
        n, values = self.at
        state = fem.Function(self._space())
        state.x.array[:] = values
        return {"step": n, "state": state, "control": self._runs.layout.as_kept(self._row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        layout, comm = self._runs.layout, self._runs.evolution.mesh.comm
        row = layout.restored(state["control"], "the control of the checkpoint")
        size = parallel.largest(comm, float(np.abs(row).max(initial=0.0)))
        if parallel.any_rank(comm, bool(np.abs(row - self._row).max(initial=0.0) > 1e-6 * size)):
            raise BadInput("the control: is not that of the run that the checkpoint is of; give each its own folder")
        u = fem.Function(self._space())
        state["state"].into(u)
        self.at = int(state["step"]), np.array(u.x.array)
