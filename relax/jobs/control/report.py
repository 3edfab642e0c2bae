"""What a control job leaves: the control over time, populations, the density, the fidelity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.types import Array
from relax.jobs import report
from relax.jobs.contents import DRIVE, FIGURE, STRIP
from relax.jobs.control.figure import Drive, control_figure
from relax.jobs.control.job import ControlJob
from relax.jobs.control.setting import ControlSetting, fidelity
from relax.jobs.setting import csv_files
from relax.jobs.view import series, style
from relax.jobs.view.paraview import write_fields
from relax.jobs.view.strip import draw_strip


class ControlReport:
    """Of one control job. Collective, as are all methods but ``closing``."""

    def __init__(self, job: ControlJob, setting: ControlSetting) -> None:
        self._job = job
        self._setting = setting

    def errors(self, predicted: Array) -> dict[str, Any]:
        """Fidelity and populations, while the state is the last one."""
        setting = self._setting
        populations = setting.watched.value(setting.problem.state)
        return {
            "fidelity": fidelity(populations, setting.wanted),
            "populations": populations.tolist(),
            "target": setting.wanted.tolist(),
            "errors": {"misfit_in_tolerances": report.misfit(setting.data, setting.noise, predicted)},
            "tolerance": float(setting.noise.max()),
        }

    def write(self, folder: Path, value: Array, predicted: Array, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Fields, the control, figures; more entries of the summary."""
        setting, evolution = self._setting, self._setting.problem
        comm = setting.G.comm
        write_fields(folder, {"state": evolution.state})
        trajectory = series.record(
            folder, setting.G, value, frames=self._job.output.frames, watch=setting.watched.value
        )
        known = evolution.time_at(0) is not None
        steps = range(evolution.num_steps + 1)
        times = np.array([evolution.time_at(n) if known else n for n in steps], dtype=np.float64)
        drive = Drive(
            # Under layout = "owned" the numbers are rank 0's.
            times=times, control=parallel.of_rank_0(comm, value), populations=trajectory.watched,
            wanted=setting.wanted, fidelity=fidelity(trajectory.watched[-1], setting.wanted),
        )  # fmt: skip
        parallel.on_rank_0(comm, lambda: csv_files.write(folder / DRIVE, _columns(drive, known)))
        more = draw_strip(comm, folder / STRIP, trajectory)
        name = self._job.method.name
        style.draw(comm, folder / FIGURE, lambda plt: control_figure(plt, trajectory, drive, history, method=name))
        return {"control": {"largest": float(np.abs(drive.control).max()), "energy": _energy(drive)}, **more}

    def closing(self, summary: dict[str, Any]) -> str:
        """How it went, in words."""
        shares = ", ".join(f"{p:.4f}" for p in summary["populations"])
        return f"fidelity {summary['fidelity']:.4f}, populations {shares}"


def _energy(drive: Drive) -> float:
    """The integral of the squared control over time."""
    return float(np.sum(drive.control**2 * np.diff(drive.times)))


def _columns(drive: Drive, with_time: bool) -> dict[str, npt.NDArray[Any]]:
    """A row for each step: the control in it, and what is there at its end."""
    columns: dict[str, npt.NDArray[Any]] = {"step": np.arange(1, len(drive.control) + 1)}
    if with_time:
        columns["time"] = drive.times[1:]
    columns["control"] = drive.control
    for k in range(len(drive.wanted)):
        columns[f"population_{k + 1}"] = drive.populations[1:, k]
    return columns
