"""What runs have come to: tables and figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from mpi4py import MPI
from relax.jobs.view import style

COMM = MPI.COMM_WORLD


@dataclass
class Run:
    """A method with one seed.

    Attributes:
        times: CPU seconds (rank 0's) spent in steps when a test loss was computed; the first is 0.
        losses: the test losses; infinite from where the run broke down.
        counts: how many steps had been done by then.
        steps: how many.
        wall: seconds on the wall in steps.
        memory: growth of the peak of resident memory over the run, MB (rank 0's).
    """

    name: str
    seed: int
    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    steps: int = 0
    wall: float = 0.0
    memory: float = 0.0

    def loss_at(self, seconds: float) -> float:
        """The last loss computed by then; the initial one before the first step was done."""
        return self._last(self.times, seconds)

    def loss_after(self, steps: float) -> float:
        """The same, by number of steps."""
        return self._last(self.counts, steps)

    def look(self, spent: float, loss: float) -> None:
        """Note a test loss."""
        self.times.append(spent)
        self.losses.append(loss)
        self.counts.append(self.steps)

    def _last(self, at: Sequence[float], now: float) -> float:
        return self.losses[max(i for i, mark in enumerate(at) if mark <= now or i == 0)]

    @property
    def step_time(self) -> float:
        """CPU seconds per step."""
        return self.times[-1] / max(self.steps, 1)


def of(runs: Sequence[Run], name: str) -> list[Run]:
    """The runs of one method."""
    return [run for run in runs if run.name == name]


def median_at(runs: Sequence[Run], name: str, seconds: float) -> float:
    """The median over seeds of a method's test loss at a time."""
    return statistics.median(run.loss_at(seconds) for run in of(runs, name))


def table(title: str, runs: Sequence[Run], times: Sequence[float], epochs: Sequence[tuple[str, int]] = ()) -> str:
    """A table in Markdown: median over seeds, lowest and highest; at CPU seconds, and after so many named steps."""
    seeds = len({run.seed for run in runs})
    heads = [
        *("method", *(f"after {name}" for name, _ in epochs), *(f"at {t:.3g} s" for t in times)),
        *("steps", "CPU ms per step", "wall / CPU", "memory, MB"),
    ]
    lines = [
        f"{title}: test loss{' after epochs and' if epochs else ''} at CPU seconds, median (lowest to highest) of "
        f"{seeds} seed{'s' if seeds > 1 else ''}, {COMM.size} rank{'s' if COMM.size > 1 else ''}",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for name in dict.fromkeys(run.name for run in runs):
        mine = of(runs, name)
        cells = [name]
        found = [[run.loss_after(count) for run in mine] for _, count in epochs]
        found += [[run.loss_at(t) for run in mine] for t in times]
        cells += [spread(losses) for losses in found]
        cpu = sum(run.times[-1] for run in mine)
        cells += [
            f"{statistics.median(run.steps for run in mine):.0f}",
            f"{1e3 * statistics.median(run.step_time for run in mine):.3g}",
            f"{sum(run.wall for run in mine) / max(cpu, 1e-9):.1f}",
            f"{max(run.memory for run in mine):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def epochs_table(
    title: str, losses: Mapping[tuple[str, int], list[float]], at: Sequence[int], form: str = ".1e"
) -> str:
    """Losses of method and seed after epochs that all seeds saw, in Markdown: median, lowest and highest."""
    lines = [f"{title}, median (lowest to highest)", "", "| method | " + " | ".join(f"epoch {n}" for n in at) + " |"]
    lines.append("|---" * (1 + len(at)) + "|")
    for name in dict.fromkeys(name for name, _ in losses):
        mine = [of_seed for (method, _), of_seed in losses.items() if method == name]
        cells = [
            spread([of_seed[n] for of_seed in mine], form) if all(len(one) > n for one in mine) else "-" for n in at
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(losses: Sequence[float], form: str = ".1e") -> str:
    """The median over seeds; of several seeds the lowest and the highest, too."""
    between = f" ({min(losses):{form}} to {max(losses):{form}})" if len(losses) > 1 else ""
    return f"{statistics.median(losses):{form}}{between}"


def curves(path: Path, title: str, runs: Sequence[Run]) -> None:
    """Test loss against CPU seconds: the median over seeds, and all between the lowest and the highest. On one rank."""
    with style.pyplot() as plt:
        figure, axis = plt.subplots(figsize=(6.4, 4.2), constrained_layout=True)
        draw(axis, runs)
        axis.set(xscale="log", xlabel="CPU seconds in steps", ylabel="test loss", title=title)
        axis.legend(frameon=False, fontsize=8)
        style.save(plt, figure, path)


def draw(axis: Any, runs: Sequence[Run], colours: Mapping[str, str] = MappingProxyType({})) -> None:
    """Lines and bands of ``curves``, in the colours of methods that have one."""
    for i, name in enumerate(dict.fromkeys(run.name for run in runs)):
        mine, colour = of(runs, name), colours.get(name, style.LINES[i % len(style.LINES)])
        shared = max(run.times[1] if len(run.times) > 1 else 0.0 for run in mine)
        times = np.geomspace(max(shared, 1e-3), max(run.times[-1] for run in mine), 200)
        losses = np.array([[run.loss_at(t) for t in times] for run in mine])
        losses[~np.isfinite(losses)] = np.nan
        if np.isnan(losses).all():
            continue
        axis.plot(times, np.nanmedian(losses, axis=0), color=colour, label=name)
        axis.fill_between(times, np.nanmin(losses, axis=0), np.nanmax(losses, axis=0), color=colour, alpha=0.2, lw=0)
    axis.set(yscale="log")
    style.bare(axis)
