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
from relax.jobs import report
from relax.jobs.contents import FIGURE, SENSORS, STRIP
from relax.jobs.inverse.figure import can_draw, inverse_figure
from relax.jobs.inverse.job import InverseJob
from relax.jobs.inverse.setting import InverseSetting
from relax.jobs.setting import csv_files
from relax.jobs.setting.sensors import as_columns, columns
from relax.jobs.view import series, style
from relax.jobs.view.paraview import write_fields
from relax.jobs.view.pictures import gather
from relax.jobs.view.strip import draw_strip
from relax.problem.evolution import Evolution

# A misfit of so many noise levels, or one part of it, is said to be far from what is expected.
_FAR = 3.0


class InverseReport:
    """Of one inverse problem. Collective, as are all methods but ``closing``."""

    def __init__(self, job: InverseJob, setting: InverseSetting) -> None:
        self._job = job
        self._setting = setting

    def errors(self, predicted: Array) -> dict[str, Any]:
        """Misfit, and the error against the truth, while the controls hold the recovery."""
        setting = self._setting
        errors = {"misfit_in_noise_levels": report.misfit(setting.data, setting.noise, predicted)}
        if setting.truth is not None:
            comm = setting.G.comm
            errors["relative_l2"] = _norm(comm, setting.control - setting.truth) / _norm(comm, setting.truth)
        return {"errors": errors, "noise_level": float(setting.noise.max())}

    def write(self, folder: Path, value: Array, predicted: Array, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Fields, sensors, figures, while state and controls hold the recovery; more entries of the summary."""
        setting = self._setting
        comm, recovery, state = setting.G.comm, setting.control, setting.problem.state
        fields = {} if setting.truth is None else {"truth": setting.truth}
        fields["recovery"] = recovery
        pictures = {title: gather(u) for title, u in fields.items() if can_draw(u)}
        write_fields(folder, {**fields, "state": state})
        parallel.on_rank_0(comm, lambda: csv_files.write(folder / SENSORS, self._sensors(predicted)))
        more: dict[str, Any] = {}
        states = None
        if isinstance(setting.problem, Evolution):
            states = series.record(folder, setting.G, value, frames=self._job.output.frames)
            more = draw_strip(comm, folder / STRIP, states)
        style.draw(comm, folder / FIGURE, lambda plt: inverse_figure(
            plt, {title: picture for title, picture in pictures.items() if picture is not None}, setting.sensors.points,
            history, label=_words(recovery.name), method=self._job.method.name, states=states,
        ))  # fmt: skip
        return more

    def _sensors(self, predicted: Array) -> dict[str, Array]:
        setting = self._setting
        table: dict[str, Array] = dict(zip(("x", "y", "z"), setting.sensors.points.T, strict=False))
        wanted = {"value": setting.data, "sigma": setting.noise, "predicted": predicted, "exact": setting.exact}
        for stem, values in wanted.items():
            if values is not None:
                names = columns(stem, setting.sensors.components, setting.sensors.steps)
                table.update(as_columns(values, setting.sensors.components, names))
        return table

    def closing(self, summary: dict[str, Any]) -> str:
        """How it went, in words."""
        errors = summary["errors"]
        error = f", relative L2 error {errors['relative_l2']:.3f}" if "relative_l2" in errors else ""
        levels = errors["misfit_in_noise_levels"]
        return f"misfit {levels:.3f} noise levels{_doubt(levels)}{error}"


def _doubt(levels: float) -> str:
    """What a misfit far from one noise level says, in words."""
    if levels > _FAR:
        return " (far above 1: the model does not explain the data to their noise, or the noise is larger)"
    if levels < 1.0 / _FAR:
        return " (far below 1: the noise is smaller than was said, or fewer data than unknowns are fitted)"
    return ""


def _words(name: str) -> str:
    """A control's name as words."""
    return "initial state" if name == "initial" else name.replace("_", " ")


def _norm(comm: MPI.Comm, expression: Any) -> float:
    local = fem.assemble_scalar(fem.form(ufl.inner(expression, expression) * ufl.dx))
    return float(np.sqrt(parallel.sum_over_ranks(comm, np.array([float(np.real(local))]))[0]))
