"""``figure.png``: truth, recovery and sensors beside the history of the run. Matplotlib is imported when drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from mpi4py import MPI

from relax import parallel, slices

Array = npt.NDArray[np.float64]

_INK = "#22313f"
_MISFIT = "#b3423a"
_GRADIENT = "#2b6a99"
_SENSOR = {"facecolor": "white", "edgecolor": _INK, "linewidth": 0.6, "zorder": 3}


@dataclass(frozen=True)
class Panel:
    """A scalar field to draw, under its title."""

    title: str
    field: fem.Function


def can_draw(u: object) -> bool:
    """Whether a control or state can be a panel: a scalar field."""
    return isinstance(u, fem.Function) and tuple(u.function_space.value_shape) == ()


def draw(
    comm: MPI.Comm,
    path: Path,
    panels: Sequence[Panel],
    points: Array,
    history: Sequence[dict[str, Any]],
    *,
    label: str = "",
) -> bool:
    """Draw a run.

    Collective: the fields are gathered on rank 0, which draws. A mesh in three dimensions is cut half-way up its last
    axis.

    Args:
        comm: the ranks of the run.
        path: the PNG file.
        panels: fields on one mesh, all on the same colour scale.
        points: (num_points, gdim) sensors.
        history: one dict per iteration, as in ``history.jsonl``.
        label: what the colours are, beside the colour bar.

    Returns:
        Whether there is a figure: False where matplotlib is missing.
    """
    if not parallel.on_rank_0(comm, lambda: find_spec("matplotlib") is not None):
        return False
    pictures = [slices.gather(panel.field) for panel in panels]
    drawn = [p for p in pictures if p is not None]
    parallel.on_rank_0(comm, lambda: _draw(path, panels, drawn, points, history, label))
    return True


def _draw(
    path: Path,
    panels: Sequence[Panel],
    pictures: Sequence[slices.Picture],
    points: Array,
    history: Sequence[dict[str, Any]],
    label: str,
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style = {"font.size": 10, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK,
             "xtick.color": _INK, "ytick.color": _INK, "axes.titlesize": 11, "axes.titleweight": "bold"}  # fmt: skip
    shape = _shape(pictures)
    stacked = len(panels) > 1 and shape < 0.75
    rows, columns = (len(panels), 1) if stacked else (1, max(len(panels), 1))
    width = 6.2 if stacked else 4.3
    with plt.rc_context(style):
        size = (width * columns * bool(panels) + 4.2, max(4.3, rows * ((width - 1.6) * shape + 0.55) + 0.3))
        figure = plt.figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
        left, right = figure.subfigures(1, 2, width_ratios=[size[0] - 4.0, 4.0]) if panels else (None, figure)
        if left is not None:
            axes = list(left.subplots(rows, columns, squeeze=False).flat)
            if pictures[0].dim == 1:
                _lines(axes, panels, pictures, points)
            else:
                _maps(left, axes, panels, pictures, points, label, stacked)
        upper, lower = right.subplots(2, 1, sharex=True)
        _curves(upper, lower, history)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def _shape(pictures: Sequence[slices.Picture]) -> float:
    """Height over width of what is drawn."""
    if not pictures or pictures[0].dim == 1:
        return 0.9
    width, height = np.ptp(pictures[0].points, axis=0)
    return float(np.clip(height / max(width, 1e-300), 0.2, 3.0))


def _maps(
    figure: Any,
    axes: Sequence[Any],
    panels: Sequence[Panel],
    pictures: Sequence[slices.Picture],
    points: Array,
    label: str,
    stacked: bool,
) -> None:
    from matplotlib.collections import LineCollection

    values = np.concatenate([p.values for p in pictures])
    low, high = float(values.min()), float(values.max())
    if low < 0.0 < high:
        # The first panel is the truth where there is one: an overshoot of the recovery must not wash out its colours.
        high = max(float(np.abs(pictures[0].values).max()), 0.6 * max(-low, high))
        low, colours = -high, "RdBu_r"
    else:
        colours = "viridis"
    if high - low <= 1e-12 * max(abs(high), abs(low), 1e-300):
        low, high = low - 0.5, high + 0.5
    clipped = bool(values.min() < low or values.max() > high)
    image = None
    for axis, panel, picture in zip(axes, panels, pictures, strict=True):
        x, y = picture.points.T
        scale = {"cmap": colours, "vmin": low, "vmax": high}
        image = axis.tripcolor(x, y, picture.triangles, picture.values, shading="gouraud", **scale)
        axis.add_collection(LineCollection(list(picture.outline()), colors=_INK, linewidths=0.7))
        seen = {"s": np.clip(1200.0 / len(points), 2.5, 10.0), "alpha": 0.9 if picture.cut is None else 0.45}
        axis.scatter(points[:, 0], points[:, 1], **_SENSOR, **seen)
        axis.set_aspect("equal")
        axis.set_title(panel.title if picture.cut is None else f"{panel.title}, z = {picture.cut:.3g}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(0.02)
        if stacked or axis is axes[0]:
            axis.set_ylabel("y")
        else:
            axis.set_yticklabels([])
        if not stacked or axis is axes[-1]:
            axis.set_xlabel("x")
        else:
            axis.set_xticklabels([])
    extend = "both" if clipped else "neither"
    bar = figure.colorbar(image, ax=list(axes), shrink=0.8, pad=0.02, aspect=36, extend=extend)
    bar.outline.set_visible(False)
    bar.set_label(label)


def _lines(axes: Sequence[Any], panels: Sequence[Panel], pictures: Sequence[slices.Picture], points: Array) -> None:
    values = np.concatenate([p.values for p in pictures])
    room = 0.08 * (float(np.ptp(values)) or 1.0)
    for axis, panel, picture in zip(axes, panels, pictures, strict=True):
        order = np.argsort(picture.points[:, 0])
        axis.plot(picture.points[order, 0], picture.values[order], color=_GRADIENT)
        axis.scatter(points[:, 0], np.full(len(points), values.min() - room), s=9, **_SENSOR)
        axis.set_ylim(values.min() - 2 * room, values.max() + room)
        axis.set_title(panel.title)
        axis.set_xlabel("x")
        axis.spines[["top", "right"]].set_visible(False)


def _curves(upper: Any, lower: Any, history: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    for axis, key, colour, label in (
        (upper, "misfit_in_noise_levels", _MISFIT, "misfit / noise"),
        (lower, "gradient_norm", _GRADIENT, "gradient norm"),
    ):
        pairs = [(h["step"], h[key]) for h in history if h.get(key)]
        if pairs:
            axis.semilogy(*zip(*pairs, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.4)
        axis.set_title(label, color=colour, loc="left")
        axis.grid(True, which="major", alpha=0.25)
        if pairs and max(v for _, v in pairs) < 30.0 * min(v for _, v in pairs):
            # Less than a decade or two would otherwise have one labelled tick.
            axis.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axis.yaxis.set_minor_locator(NullLocator())
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    upper.axhspan(0.8, 1.2, color=_MISFIT, alpha=0.12, linewidth=0)
    lower.set_xlabel("Gauss-Newton step")
