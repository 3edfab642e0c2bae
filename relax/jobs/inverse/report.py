"""What an inverse problem leaves: fields, sensors, figures, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI

from relax.base import parallel
from relax.base.types import Array
from relax.jobs import kinds, report, view
from relax.jobs.folder import FIGURE, SENSORS, write_fields
from relax.jobs.kinds import InverseCase
from relax.jobs.setting import csv_files
from relax.jobs.toml import Job
from relax.jobs.view import series
from relax.problem.evolution import Evolution


class InverseReport:
    """Of one inverse problem. Collective, as are all methods but ``closing``."""

    def __init__(self, job: Job, found: InverseCase) -> None:
        self._job = job
        self._found = found

    def errors(self, predicted: Array) -> dict[str, Any]:
        """Misfit, and the error against the truth, while the controls hold the recovery."""
        found = self._found
        errors = {"misfit_in_noise_levels": report.misfit(found, predicted)}
        if found.truth is not None:
            comm = found.G.comm
            errors["relative_l2"] = _norm(comm, found.control - found.truth) / _norm(comm, found.truth)
        return {"errors": errors, "noise_level": float(found.noise.max())}

    def write(self, folder: Path, value: Array, predicted: Array, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Fields, sensors, figures, while state and controls hold the recovery; more entries of the summary."""
        found = self._found
        comm, recovery, state = found.G.comm, found.control, found.problem.state
        fields = {"recovery": recovery, "state": state}
        panels = [view.Panel("recovery", recovery)]
        if found.truth is not None:
            fields = {"truth": found.truth, **fields}
            panels = [view.Panel("truth", found.truth), *panels]
        write_fields(folder, fields)
        parallel.on_rank_0(comm, lambda: csv_files.write(folder / SENSORS, self._sensors(predicted)))
        more: dict[str, Any] = {}
        states = None
        if isinstance(found.problem, Evolution):
            trajectory = series.record(folder, found.G, value, frames=self._job.output.frames)
            states = view.States(trajectory.frames, trajectory.label, report.time_unit(found.problem))
            more = report.write_strip(folder, found.problem, trajectory)
        drawn = view.draw_inverse(
            comm, folder / FIGURE, panels if view.can_draw(recovery) else [], found.points, history,
            label=_words(recovery.name), method=self._job.method.name, states=states,
        )  # fmt: skip
        if not drawn:
            report.left_out(FIGURE)
        return more

    def _sensors(self, predicted: Array) -> dict[str, Array]:
        found = self._found
        columns: dict[str, Array] = dict(zip(("x", "y", "z"), found.points.T, strict=False))
        wanted = {"value": found.data, "sigma": found.noise, "predicted": predicted, "exact": found.exact}
        for stem, values in wanted.items():
            if values is not None:
                names = kinds.columns(stem, found.components, found.steps)
                columns.update(kinds.as_columns(values, found.components, names))
        return columns

    def closing(self, summary: dict[str, Any]) -> str:
        """How it went, in words."""
        errors = summary["errors"]
        error = f", relative L2 error {errors['relative_l2']:.3f}" if "relative_l2" in errors else ""
        return f"misfit {errors['misfit_in_noise_levels']:.3f} noise levels{error}"


def _words(name: str) -> str:
    """A control's name as words."""
    return "initial state" if name == "initial" else name.replace("_", " ")


def _norm(comm: MPI.Comm, expression: Any) -> float:
    local = fem.assemble_scalar(fem.form(ufl.inner(expression, expression) * ufl.dx))
    return float(np.sqrt(parallel.sum_over_ranks(comm, np.array([float(np.real(local))]))[0]))
