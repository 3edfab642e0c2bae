"""The figure of a landscape job: the landscape as it is smoothed, its minima, its range over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relax.base.types import Array
from relax.jobs.view import maps, style
from relax.jobs.view.series import Frame, Series

_FRAMES = 4
_ON_TOP = {"facecolor": "white", "edgecolor": style.INK, "zorder": 5}


@dataclass(frozen=True)
class Relaxation:
    """What became of a landscape.

    Attributes:
        times: (num_steps + 1,).
        low: the least value at each time.
        high: the largest one.
        minima: step -> (k, gdim) local minimisers, the lowest first.
        inviscid: on a line, the Hopf–Lax solution at the last time at the nodes, from left to right; or None.
        descents: (k, gdim) starts and ends; or None.
    """

    times: Array
    low: Array
    high: Array
    minima: Mapping[int, Array]
    inviscid: Array | None
    descents: tuple[Array, Array] | None


def curves(axis: Any, x: Array, values: Mapping[str, Array]) -> None:
    """Functions on a line by label; the first, the landscape itself, in the background.

    Args:
        axis: where they go.
        x: (n,) from left to right.
        values: label -> (n,).
    """
    for i, (label, u) in enumerate(values.items()):
        look = {"color": "0.72", "linewidth": 1.1} if i == 0 else {"color": style.LINES[(i - 1) % 6], "linewidth": 1.7}
        axis.plot(x, u, label=label, **look)
    axis.legend(frameon=False, fontsize=9)
    axis.set_xlabel("x")
    style.few_ticks(axis)
    style.bare(axis)


def landscape_figure(plt: Any, states: Series, relaxation: Relaxation) -> Any:
    """The figure of a landscape job. On rank 0.

    Args:
        plt: pyplot.
        states: the landscape over time: on a line curves, in the plane (or a cut) maps with their minima.
        relaxation: minima and range over time.
    """
    frames = [frame for frame in states.frames or [] if frame.step in relaxation.minima]
    chosen = maps.some_of(frames, _FRAMES)
    on_a_line = chosen[0].picture.dim == 1
    shape = maps.height_over_width(chosen[0].picture)
    width = 6.0 if on_a_line else 3.0 * len(chosen)
    height = 5.0 if on_a_line else float(np.clip(3.0 * shape + 0.8, 3.2, 8.0))
    figure = plt.figure(figsize=(width + 3.8, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    left, right = figure.subfigures(1, 2, width_ratios=[width, 3.6])
    (_on_a_line if on_a_line else _in_the_plane)(left, chosen, states, relaxation)
    upper, lower = right.subplots(2, 1, sharex=True)
    _over_time(upper, lower, frames, states.unit, relaxation)
    return figure


def _on_a_line(figure: Any, chosen: Sequence[Frame], states: Series, relaxation: Relaxation) -> None:
    axis = figure.subplots()
    points = chosen[0].picture.points[:, 0]
    order = np.argsort(points)
    x = points[order]
    # The last state, drawn last, lies on top.
    values = {maps.stamp(frame, states.unit): frame.picture.values[order] for frame in chosen}
    if relaxation.inviscid is not None:
        values[f"Hopf–Lax, {maps.stamp(chosen[-1], states.unit)}"] = relaxation.inviscid
    curves(axis, x, values)
    for frame in chosen[1:]:
        at = relaxation.minima[frame.step][:, 0]
        axis.scatter(at, np.interp(at, x, frame.picture.values[order]), s=22, **_ON_TOP)
    if relaxation.descents is not None:
        starts, ends = relaxation.descents
        floor = axis.get_ylim()[0]
        for points, marker, colour in ((starts, "|", style.INK), (ends, "^", style.RED)):
            axis.scatter(points[:, 0], np.full(len(points), floor), s=40, marker=marker, color=colour, clip_on=False)
        axis.set_ylim(bottom=floor)
    axis.set_ylabel(states.label)


def _in_the_plane(figure: Any, chosen: Sequence[Frame], states: Series, relaxation: Relaxation) -> None:
    axes = list(figure.subplots(1, len(chosen), squeeze=False).flat)
    titles = [maps.stamp(frame, states.unit) for frame in chosen]
    maps.maps(
        figure, axes, titles, [frame.picture for frame in chosen], np.empty((0, 2)), states.label, stacked=False
    )  # fmt: skip
    if chosen[0].picture.cut is not None:
        # Minima of a landscape in space are not in the plane of the cut.
        return
    for axis, frame in zip(axes, chosen, strict=True):
        at = relaxation.minima[frame.step]
        axis.scatter(at[:, 0], at[:, 1], s=18, **_ON_TOP)
    if relaxation.descents is not None:
        starts, ends = relaxation.descents
        axes[0].scatter(starts[:, 0], starts[:, 1], s=8, color=style.INK, linewidth=0)
        axes[0].scatter(ends[:, 0], ends[:, 1], s=55, marker="x", color=style.RED, zorder=6)


def _over_time(upper: Any, lower: Any, frames: Sequence[Frame], unit: str, relaxation: Relaxation) -> None:
    from matplotlib.ticker import MaxNLocator

    upper.fill_between(relaxation.times, relaxation.low, relaxation.high, color=style.BLUE, alpha=0.15, linewidth=0)
    for values in (relaxation.low, relaxation.high):
        upper.plot(relaxation.times, values, color=style.BLUE, linewidth=1.4)
    upper.set_title("least and largest value", color=style.BLUE, loc="left")
    counts = [len(relaxation.minima[frame.step]) for frame in frames]
    lower.step([frame.time for frame in frames], counts, where="post", color=style.RED, linewidth=1.4)
    lower.set_title("local minima", color=style.RED, loc="left")
    lower.set_ylim(bottom=0.0)
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    lower.set_xlabel(unit)
    for axis in (upper, lower):
        axis.grid(True, alpha=0.25)
        style.bare(axis)
