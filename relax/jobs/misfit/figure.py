"""The figure of a misfit job: the misfit over its box, where Gauss–Newton goes from each start, with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base.types import Array
from relax.jobs.view import style

_LABEL = "misfit / noise"


@dataclass(frozen=True)
class MisfitMap:
    """The misfit over a lattice, in noise levels.

    Attributes:
        axes: the lattice's values of each number.
        misfit: (n_1, ..., n_d).
        relaxed: (time, the relaxed misfit), the largest time last.
    """

    axes: tuple[Array, ...]
    misfit: Array
    relaxed: list[tuple[float, Array]]


@dataclass(frozen=True)
class Searches:
    """Where searches went from each start.

    Attributes:
        starts: (k, d).
        path: (steps + 1, k, d) the descents.
        plain: the ends of Gauss–Newton from the starts; None where it failed.
        after: its ends from those of the descents.
        plain_solved: (k,) whether that is the lowest misfit.
        after_solved: (k,).
        truth: (d,), where it is known.
    """

    starts: Array
    path: Array
    plain: Sequence[Array | None]
    after: Sequence[Array | None]
    plain_solved: npt.NDArray[np.bool_]
    after_solved: npt.NDArray[np.bool_]
    truth: Array | None


def misfit_figure(plt: Any, levels: MisfitMap, searches: Searches) -> Any:
    """The figure of a misfit job. On rank 0. Of three numbers the first two are shown, with the least over the third.

    Args:
        plt: pyplot.
        levels: the misfit.
        searches: where they went.
    """
    on_a_line = len(levels.axes) == 1
    size = (7.0, 4.4) if on_a_line else (13.2, 4.4)
    figure = plt.figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    (_line if on_a_line else _plane)(figure, levels, searches)
    return figure


def _line(figure: Any, levels: MisfitMap, searches: Searches) -> None:
    axis = figure.subplots()
    x = levels.axes[0]
    axis.plot(x, levels.misfit, color=style.INK, linewidth=1.2, label="misfit")
    for (t, values), colour in zip(levels.relaxed, (style.BLUE, style.LINES[4]), strict=False):
        axis.plot(x, values, color=colour, linewidth=1.4, label=f"relaxed, t = {t:.3g}")
    marks = (
        (list(searches.starts), "|", style.INK, "starts"),
        (searches.plain, "x", style.RED, f"Gauss–Newton: {searches.plain_solved.sum()} solved"),
        (searches.after, "^", style.BLUE, f"after relaxation: {searches.after_solved.sum()} solved"),
    )
    floor = -0.06 * float(levels.misfit.max())
    for row, (ends, marker, colour, label) in enumerate(marks):
        there = [float(np.asarray(end)[0]) for end in ends if end is not None]
        at = [m for m in there if x[0] <= m <= x[-1]]
        axis.scatter(at, np.full(len(at), (1 + row) * floor), marker=marker, color=colour, s=30, label=label)
    if searches.truth is not None:
        axis.axvline(searches.truth[0], color=style.INK, linewidth=0.7, linestyle=":")
    axis.set_xlabel("parameter")
    axis.set_ylabel(_LABEL)
    axis.legend(frameon=False, fontsize=9)
    style.bare(axis)


def _plane(figure: Any, levels: MisfitMap, searches: Searches) -> None:
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    t, relaxed = levels.relaxed[0]
    panels = [_over_third(levels.misfit), _over_third(relaxed), _over_third(levels.misfit)]
    titles = [
        f"Gauss–Newton: {searches.plain_solved.sum()} of {len(searches.starts)}",
        f"relaxed, t = {t:.3g}",
        f"after relaxation: {searches.after_solved.sum()} of {len(searches.starts)}",
    ]
    low, high = float(panels[0].min()), float(panels[0].max())
    image = None
    for axis, values, title in zip(axes, panels, titles, strict=True):
        look = {"cmap": "viridis", "vmin": low, "vmax": high, "shading": "gouraud", "rasterized": True}
        image = axis.pcolormesh(levels.axes[0], levels.axes[1], values.T, **look)
        axis.set_title(title)
        axis.set_xlabel("first parameter")
        axis.set_xlim(levels.axes[0][0], levels.axes[0][-1])
        axis.set_ylim(levels.axes[1][0], levels.axes[1][-1])
        style.bare(axis)
    axes[0].set_ylabel("second parameter")
    bar = figure.colorbar(image, ax=list(axes), shrink=0.9, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label(_LABEL)
    for i, start in enumerate(searches.starts):
        _way(axes[0], [np.asarray(start), searches.plain[i]], style.RED, good=bool(searches.plain_solved[i]))
        _way(axes[2], [*searches.path[:, i], searches.after[i]], "white", good=bool(searches.after_solved[i]))
    for axis in axes:
        axis.scatter(searches.starts[:, 0], searches.starts[:, 1], s=12, **style.SENSOR)
        if searches.truth is not None:
            axis.scatter(*searches.truth[:2], marker="+", s=140, color="white", linewidth=1.6, zorder=6)


def _way(axis: Any, points: Sequence[Array | None], colour: str, *, good: bool) -> None:
    """From a start to an end, which is marked where the misfit is not the lowest."""
    there = np.array([point[:2] for point in points if point is not None])
    axis.plot(there[:, 0], there[:, 1], color=colour, linewidth=0.8, alpha=0.8, zorder=2)
    if not good:
        axis.scatter(*there[-1], marker="x", s=28, color=style.RED, linewidth=1.3, zorder=5)


def _over_third(values: Array) -> Array:
    """As a function of the first two numbers: the least over a third."""
    return values if values.ndim == 2 else np.asarray(values.min(axis=2))
