"""What a misfit job leaves: samples, descents, Gauss–Newton with and without them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.files import write_json
from relax.base.types import Array
from relax.invert import Result
from relax.jobs import report
from relax.jobs.contents import DESCENTS, FIGURE, RESULT, SAMPLES
from relax.jobs.misfit.figure import MisfitMap, Searches, misfit_figure
from relax.jobs.misfit.job import MisfitJob
from relax.jobs.misfit.setting import MisfitSetting
from relax.jobs.setting import csv_files
from relax.jobs.view import style
from relax.relaxation import RelaxedMisfit, relax_misfit
from relax.relaxation.misfit import gauss_newton_each, lowest

# A start is solved when its misfit ½ Σ ((y - d)/σ)² comes this close to the lowest: half a unit is what one parameter
# explains of noise.
_AS_GOOD = 0.5


class MisfitReport:
    """Of one misfit job. Collective, as are all methods but ``closing``."""

    def __init__(self, job: MisfitJob, setting: MisfitSetting) -> None:
        self._setting = setting
        self._section = job.misfit
        #: Of every run of Gauss-Newton.
        self._keywords: dict[str, Any] = {
            "noise": setting.noise, "teams": setting.teams, "max_steps": job.method.max_steps, "rtol": job.method.rtol
        }  # fmt: skip

    def solve(self, checkpoint: Checkpoint | None = None) -> RelaxedMisfit:
        """Sample, relax, descend, and run Gauss–Newton from where that leads."""
        setting, section = self._setting, self._section
        num = section.num if section.num is None or len(section.num) > 1 else section.num * len(setting.box)
        return relax_misfit(
            setting.G, setting.data, setting.box, num=num, beta=section.beta, times=section.times,
            starts=section.starts, checkpoint=checkpoint, **self._keywords,
        )  # fmt: skip

    def compare(self, relaxed: RelaxedMisfit, checkpoint: Checkpoint | None = None) -> list[Result | None]:
        """Run Gauss–Newton from the starts themselves."""
        setting = self._setting
        return gauss_newton_each(
            setting.G, setting.data, relaxed.starts, prior=relaxed.prior, checkpoint=checkpoint, **self._keywords
        )

    def write(self, folder: Path, relaxed: RelaxedMisfit, plain: list[Result | None]) -> dict[str, Any]:
        """``result.json``, tables, the figure; the entries of the summary."""
        setting = self._setting
        comm = setting.teams.comm
        results = list(relaxed.results)
        best = lowest([*results, *plain])
        level = float(best.history[-1]["misfit"]) + _AS_GOOD
        solved = [np.array([_misfit(r) <= level for r in each]) for each in (plain, results)]
        counts = {
            "starts": len(results),
            "solved_by_gauss_newton": int(solved[0].sum()),
            "solved_after_relaxation": int(solved[1].sum()),
        }
        times = relaxed.landscape.times
        # A while before what is left is one smooth valley, and that.
        shown = [float(times[len(times) // 2]), float(times[-1])]
        smooth = [relaxed.relaxed_samples(t) for t in shown]
        result = {
            "value": relaxed.result.value,
            "truth": setting.truth,
            "misfit": _misfit(relaxed.result),
            "box": setting.box,
            "beta": relaxed.landscape.beta,
            "times": times,
            "routes": relaxed.landscape.routes,
            "samples": {"number": relaxed.samples.size, "range": relaxed.scale, "least": relaxed.samples.min()},
            **counts,
        }
        parallel.on_rank_0(comm, lambda: write_json(folder, RESULT, result))
        parallel.on_rank_0(comm, lambda: csv_files.write(folder / DESCENTS, _starts(relaxed, plain, solved)))
        parallel.on_rank_0(comm, lambda: csv_files.write(folder / SAMPLES, _samples(relaxed, shown, smooth)))
        before, after = ([None if r is None else r.value for r in each] for each in (plain, results))
        searches = Searches(relaxed.starts, relaxed.path, before, after, solved[0], solved[1], setting.truth)
        levels, *smoothed = (_levels(u, setting.G.size_out) for u in (relaxed.samples, *smooth))
        shown_levels = MisfitMap(relaxed.axes, levels, list(zip(shown, smoothed, strict=True)))
        style.draw(comm, folder / FIGURE, lambda plt: misfit_figure(plt, shown_levels, searches))
        last = relaxed.result
        relaxed.close()
        return {
            "status": last.status.value,
            "converged": last.converged,
            "method": "relax_misfit",
            "value": last.value,
            "errors": {"misfit_in_noise_levels": last.history[-1]["misfit_in_noise_levels"]}
            | ({} if setting.truth is None else {"largest": float(np.abs(last.value - setting.truth).max())}),
            **counts,
            "noise_level": float(setting.noise.max()),
            # Of this rank's team.
            "solves": dict(setting.G.counts),
            "sizes": report.sizes(setting.problem, setting.G.size_out),
        }

    def closing(self, summary: dict[str, Any]) -> str:
        """How it went, in words."""
        numbers = ", ".join(f"{v:.5g}" for v in summary["value"])
        plain, relaxed = summary["solved_by_gauss_newton"], summary["solved_after_relaxation"]
        return (
            f"misfit {summary['errors']['misfit_in_noise_levels']:.3f} noise levels at {numbers}; Gauss-Newton solves "
            f"{plain} of {summary['starts']} starts, after relaxation {relaxed}"
        )


def _starts(
    relaxed: RelaxedMisfit, plain: list[Result | None], solved: list[npt.NDArray[np.bool_]]
) -> dict[str, npt.NDArray[Any]]:
    """A row for each start: where it is, where each way from it ends, and whether that is the lowest misfit."""
    columns: dict[str, npt.NDArray[Any]] = {}
    # A run that failed has no end; it is told by its misfit, which is -1.
    ends = [[relaxed.starts[i] if r is None else r.value for i, r in enumerate(each)]
            for each in (plain, relaxed.results)]  # fmt: skip
    named = {"start": relaxed.starts, "gauss_newton": np.array(ends[0]), "descent": relaxed.ends}
    for name, points in {**named, "relaxed": np.array(ends[1])}.items():
        columns |= {f"{name}_{i}": points[:, i] for i in range(points.shape[1])}
    for name, results, good in (("gauss_newton", plain, solved[0]), ("relaxed", relaxed.results, solved[1])):
        columns[f"{name}_misfit"] = np.array([-1.0 if r is None else _misfit(r) for r in results])
        columns[f"{name}_solved"] = good.astype(int)
    return columns


def _misfit(result: Result | None) -> float:
    return math.inf if result is None else float(result.history[-1]["misfit"])


def _levels(samples: Array, size_out: int) -> Array:
    """½ Σ ((y - d)/σ)² as √ of the mean of ((y - d)/σ)²; what is not finite is the largest of the others."""
    there = samples[np.isfinite(samples)]
    return np.asarray(np.sqrt(2.0 * np.maximum(np.where(np.isfinite(samples), samples, there.max()), 0.0) / size_out))


def _samples(relaxed: RelaxedMisfit, times: list[float], smooth: list[Array]) -> dict[str, npt.NDArray[Any]]:
    """A row for each node of the lattice: the numbers, the misfit, the relaxed one at some times."""
    grid = np.meshgrid(*relaxed.axes, indexing="ij")
    columns: dict[str, npt.NDArray[Any]] = {f"m_{i}": axis.ravel() for i, axis in enumerate(grid)}
    columns["misfit"] = relaxed.samples.ravel()
    return columns | {f"relaxed_t_{t:.4g}": u.ravel() for t, u in zip(times, smooth, strict=True)}
