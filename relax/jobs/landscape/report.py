"""What a landscape job leaves: the trajectory, its minima over time, descents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.fem.forms import num_owned
from relax.base.files import write_json
from relax.base.types import Array
from relax.jobs import report
from relax.jobs.contents import DESCENTS, FIGURE, RESULT, STRIP
from relax.jobs.landscape.figure import Relaxation, landscape_figure
from relax.jobs.landscape.job import LandscapeJob
from relax.jobs.landscape.setting import Descents, LandscapeSetting
from relax.jobs.setting import csv_files
from relax.jobs.view import series, style
from relax.jobs.view.strip import draw_strip
from relax.observe import PointValues
from relax.relaxation import Descent, Minimisers, RelaxedLandscape, hopf_lax
from relax.relaxation.landscape.minima import lowest_nodes

# Minima of one state that are listed, the lowest first.
_LISTED = 20


class LandscapeReport:
    """Of one landscape job. Collective, as are all methods but ``closing``."""

    def __init__(self, job: LandscapeJob, setting: LandscapeSetting) -> None:
        self._job = job
        self._setting = setting
        self._watch = _Watch(setting, series.spread(setting.problem.num_steps, job.output.frames))

    def solve(self, folder: Path, checkpoint: Checkpoint | None = None) -> series.Series:
        """Run through the trajectory: ``states.bp``, and what is known of each state."""
        G = self._setting.G
        frames = self._job.output.frames
        return series.record(folder, G, G.present_control(), frames=frames, watch=self._watch, checkpoint=checkpoint)

    def descend(self, checkpoint: Checkpoint | None = None) -> Descent | None:
        """Follow minima from the starts of [descent], where there is that table."""
        setting, descents = self._setting, self._setting.descents
        if descents is None:
            return None
        keywords = self._job.pde.keywords
        given = {key: keywords[key] for key in ("theta", "stabilisation") if key in keywords}
        degree = int(setting.problem.state.function_space.ufl_element().degree)
        with RelaxedLandscape(
            setting.problem.mesh, setting.f, beta=descents.beta, times=descents.times,
            route=keywords.get("route", "auto"), degree=degree, checkpoint=checkpoint, **given,
        ) as landscape:  # fmt: skip
            return landscape.descend(descents.starts, descents.times, steps=descents.section.steps, path=True)

    def write(self, folder: Path, trajectory: series.Series, descent: Descent | None) -> dict[str, Any]:
        """``result.json``, tables and figures; the entries of the summary."""
        setting, watch = self._setting, self._watch
        comm = setting.G.comm
        told = {}
        if descent is not None and setting.descents is not None:
            told["descents"] = self._write_descents(folder, setting.descents, descent)
        route = "direct" if setting.problem.substitution is None else "cole_hopf"
        result = {"route": route, **watch.as_dict(), **told}
        parallel.on_rank_0(comm, lambda: write_json(folder, RESULT, result))
        more = draw_strip(comm, folder / STRIP, trajectory)
        states = replace(trajectory, label="u")
        relaxation = self._relaxation(trajectory, descent)
        style.draw(comm, folder / FIGURE, lambda plt: landscape_figure(plt, states, relaxation))
        counts = [len(watch.minima[n]) for n in sorted(watch.minima)]
        summary = {
            "status": "converged: the equation was solved to its last step",
            "converged": True,
            "function": self._job.landscape.function,
            "route": route,
            "local_minima": {"first": counts[0], "last": counts[-1]},
            "least": {"first": watch.low[0], "last": watch.low[-1]},
        }
        return {**summary, **told, "sizes": report.sizes(setting.problem), **more}

    def closing(self, summary: dict[str, Any]) -> str:
        """How it went, in words."""
        counts = summary["local_minima"]
        words = f"{counts['first']} local minima became {counts['last']}"
        if "descents" in summary:
            told = summary["descents"]
            words += f", {told['reached']} of {told['starts']} descents reached the least one"
        return words

    def _write_descents(self, folder: Path, asked: Descents, descent: Descent) -> dict[str, Any]:
        """``descents.csv``, and how many succeeded."""
        starts, least, largest = asked.starts, self._watch.low[0], self._watch.high[0]
        reached = descent.values <= least + asked.section.tolerance * (largest - least)
        axes = ("x", "y", "z")[: starts.shape[1]]
        columns: dict[str, npt.NDArray[Any]] = {f"start_{a}": starts[:, i] for i, a in enumerate(axes)}
        columns |= {a: descent.x[:, i] for i, a in enumerate(axes)}
        columns |= {"value": descent.values, "reached": reached.astype(int)}
        parallel.on_rank_0(self._setting.G.comm, lambda: csv_files.write(folder / DESCENTS, columns))
        return {"starts": len(reached), "reached": int(reached.sum()), "least": least}

    def _relaxation(self, trajectory: series.Series, descent: Descent | None) -> Relaxation:
        problem, watch = self._setting.problem, self._watch
        last = problem.time_at(problem.num_steps)
        inviscid = None
        if problem.mesh.geometry.dim == 1 and trajectory.frames is not None and last is not None:
            picture = trajectory.frames[0].picture
            order = np.argsort(picture.points[:, 0])
            inviscid = hopf_lax(picture.values[order], picture.points[order, 0], last).value
        ends = None if descent is None else (descent.path[0], descent.x)
        minima = {n: minimisers.x for n, minimisers in watch.minima.items()}
        return Relaxation(np.array(watch.times), np.array(watch.low), np.array(watch.high), minima, inviscid, ends)


class _Watch:
    """What is noted of each state. Collective to make and to call."""

    def __init__(self, setting: LandscapeSetting, written: tuple[int, ...]) -> None:
        self._setting = setting
        self._written = set(written)
        self._weight: fem.Function | None = None
        self._integral: fem.Form | None = None
        self.times: list[float] = []
        self.low: list[float] = []
        self.high: list[float] = []
        self.integral: list[float] = []
        self.minima: dict[int, Minimisers] = {}

    def __call__(self, u: fem.Function) -> Array:
        n = len(self.low)
        time = self._setting.problem.time_at(n)
        self.times.append(float(n) if time is None else time)
        owned = u.x.array[: num_owned(u.function_space)]
        low, high = parallel.extremes(self._setting.G.comm, owned[:, None])
        self.low.append(float(low[0]))
        self.high.append(float(high[0]))
        if self._setting.beta is not None:
            self.integral.append(self._weighed(u, self._setting.beta))
        if n in self._written:
            nodes = lowest_nodes(u)
            values = PointValues(u.function_space, nodes.x).value(u)
            order = np.argsort(values, kind="stable")
            self.minima[n] = Minimisers(nodes.x[order], values[order], nodes.at_boundary[order])
        return np.empty(0)

    def state_dict(self) -> dict[str, Any]:
        minima = [[n, m.x, m.values, m.at_boundary] for n, m in self.minima.items()]
        return {"times": self.times, "low": self.low, "high": self.high, "integral": self.integral, "minima": minima}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.times, self.low, self.high = state["times"], state["low"], state["high"]
        self.integral = state["integral"]
        self.minima = {n: Minimisers(*found) for n, *found in state["minima"]}

    def _weighed(self, u: fem.Function, beta: float) -> float:
        """The integral of exp(-beta (u - min f)), taken at the nodes as the elements do."""
        if self._weight is None:
            self._weight = fem.Function(u.function_space)
            self._integral = fem.form(self._weight * ufl.dx)
        self._weight.x.array[:] = np.exp(-beta * (u.x.array - self.low[0]))
        local = float(fem.assemble_scalar(self._integral))
        return float(parallel.sum_over_ranks(self._setting.G.comm, np.array([local]))[0])

    def as_dict(self) -> dict[str, Any]:
        """For ``result.json``: numbers of each step, minima of the steps that were written. Local."""
        known: dict[str, Any] = {"beta": self._setting.beta} if self._setting.beta is not None else {}
        if self.integral:
            drift = np.abs(np.array(self.integral) / self.integral[0] - 1.0).max()
            known |= {"integral": {"values": self.integral, "largest_relative_change": drift}}
        minima = [
            {"step": n, "time": self.times[n], "count": len(minimisers)}
            | {key: getattr(minimisers, key)[:_LISTED] for key in ("x", "values", "at_boundary")}
            for n, minimisers in sorted(self.minima.items())
        ]
        return {**known, "times": self.times, "least": self.low, "largest": self.high, "minimisers": minima}
