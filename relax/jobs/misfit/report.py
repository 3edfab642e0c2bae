"""What a misfit job leaves: samples, descents, Gauss–Newton with and without them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.types import Array
from relax.invert import Result
from relax.jobs import report, view
from relax.jobs.folder import DESCENTS, FIGURE, RESULT, SAMPLES, write_json
from relax.jobs.kinds import MisfitCase
from relax.jobs.setting import csv_files
from relax.jobs.toml import Job
from relax.relaxation import RelaxedMisfit, relax_misfit
from relax.relaxation.misfit import gauss_newton_each, lowest

# A start is solved when its misfit ½ Σ ((y - d)/σ)² comes this close to the lowest: half a unit is what one parameter
# explains of noise.
_AS_GOOD = 0.5


class MisfitReport:
    """Of one misfit job. Collective, as are all methods but ``closing``."""

    def __init__(self, job: Job, found: MisfitCase) -> None:
        self._job = job
        self._found = found
        self._relaxed: RelaxedMisfit | None = None
        self._plain: list[Result | None] = []

    def solve(self) -> None:
        """Sample, relax, descend, and run Gauss–Newton from where that leads."""
        found, section = self._found, self._job.misfit
        assert section is not None
        num = section.num if section.num is None or len(section.num) > 1 else section.num * len(found.box)
        self._relaxed = relax_misfit(
            found.G,
            found.data,
            found.box,
            noise=found.noise,
            num=num,
            beta=section.beta,
            times=section.times,
            starts=section.starts,
            teams=found.teams,
            max_steps=self._job.method.max_steps,
            rtol=self._job.method.rtol,
        )

    def compare(self) -> None:
        """Run Gauss–Newton from the starts themselves."""
        found, relaxed = self._found, self._relaxed
        assert relaxed is not None
        self._plain = gauss_newton_each(
            found.G,
            found.data,
            relaxed.starts,
            noise=found.noise,
            prior=relaxed.prior,
            teams=found.teams,
            max_steps=self._job.method.max_steps,
            rtol=self._job.method.rtol,
        )

    def write(self, folder: Path) -> dict[str, Any]:
        """``result.json``, tables, the figure; the entries of the summary."""
        found, relaxed = self._found, self._relaxed
        assert relaxed is not None
        comm = found.teams.comm
        results = list(relaxed.results)
        best = lowest([*results, *self._plain])
        level = float(best.history[-1]["misfit"]) + _AS_GOOD
        solved = [np.array([_misfit(r) <= level for r in each]) for each in (self._plain, results)]
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
            "truth": found.truth,
            "misfit": _misfit(relaxed.result),
            "box": found.box,
            "beta": relaxed.landscape.beta,
            "times": times,
            "routes": relaxed.landscape.routes,
            "samples": {"number": relaxed.samples.size, "range": relaxed.scale, "least": relaxed.samples.min()},
            **counts,
        }
        parallel.on_rank_0(comm, lambda: write_json(folder, RESULT, result))
        parallel.on_rank_0(comm, lambda: csv_files.write(folder / DESCENTS, self._starts(relaxed, solved)))
        parallel.on_rank_0(comm, lambda: csv_files.write(folder / SAMPLES, _samples(relaxed, shown, smooth)))
        numbers = (
            [None if r is None else r.value for r in self._plain],
            [None if r is None else r.value for r in results],
        )
        drawn = view.draw_misfit(
            comm, folder / FIGURE,
            view.MisfitMap(relaxed.axes, _levels(relaxed.samples, found.G.size_out), [
                (t, _levels(u, found.G.size_out)) for t, u in zip(shown, smooth, strict=True)
            ]),
            view.Searches(relaxed.starts, relaxed.path, numbers[0], numbers[1], solved[0], solved[1], found.truth),
        )  # fmt: skip
        if not drawn:
            report.left_out(FIGURE)
        last = relaxed.result
        relaxed.close()
        return {
            "status": last.status.value,
            "converged": last.converged,
            "method": "relax_misfit",
            "value": last.value,
            "errors": {"misfit_in_noise_levels": last.history[-1]["misfit_in_noise_levels"]}
            | ({} if found.truth is None else {"largest": float(np.abs(last.value - found.truth).max())}),
            **counts,
            "noise_level": float(found.noise.max()),
            # Of this rank's team.
            "solves": dict(found.G.counts),
            "sizes": report.sizes(found),
        }

    def closing(self, summary: dict[str, Any]) -> str:
        """How it went, in words."""
        numbers = ", ".join(f"{v:.5g}" for v in summary["value"])
        plain, relaxed = summary["solved_by_gauss_newton"], summary["solved_after_relaxation"]
        return (
            f"misfit {summary['errors']['misfit_in_noise_levels']:.3f} noise levels at {numbers}; Gauss-Newton solves "
            f"{plain} of {summary['starts']} starts, after relaxation {relaxed}"
        )

    def _starts(self, relaxed: RelaxedMisfit, solved: list[npt.NDArray[np.bool_]]) -> dict[str, npt.NDArray[Any]]:
        """A row for each start: where it is, where each way from it ends, and whether that is the lowest misfit."""
        columns: dict[str, npt.NDArray[Any]] = {}
        # A run that failed has no end; it is told by its misfit, which is -1.
        ends = [[relaxed.starts[i] if r is None else r.value for i, r in enumerate(each)]
                for each in (self._plain, relaxed.results)]  # fmt: skip
        named = {"start": relaxed.starts, "gauss_newton": np.array(ends[0]), "descent": relaxed.ends}
        for name, points in {**named, "relaxed": np.array(ends[1])}.items():
            columns |= {f"{name}_{i}": points[:, i] for i in range(points.shape[1])}
        for name, results, good in (
            ("gauss_newton", self._plain, solved[0]),
            ("relaxed", relaxed.results, solved[1]),
        ):
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
