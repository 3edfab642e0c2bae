"""Fields beside each other on one scale, and a state over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relax.base.types import Array
from relax.jobs.view.pictures import Picture
from relax.jobs.view.series import Frame
from relax.jobs.view.style import BLUE, INK, RED, SENSOR, bare, colours, few_ticks


def height_over_width(picture: Picture) -> float:
    """Of what is drawn."""
    if picture.dim == 1:
        return 0.9
    width, height = np.ptp(picture.points, axis=0)
    return float(np.clip(height / max(width, 1e-300), 0.2, 3.0))


def arrangement(pictures: Sequence[Picture]) -> tuple[int, int, tuple[float, float]]:
    """Rows and columns of panels, and inches of width and height for them; wide ones are stacked.

    Functions on a line share one axis. Of no pictures the width is 0.
    """
    if not pictures:
        return 1, 1, (0.0, 0.0)
    shape = height_over_width(pictures[0])
    num = 1 if pictures[0].dim == 1 else len(pictures)
    rows, columns, width = (num, 1, 6.2) if num > 1 and shape < 0.75 else (1, num, 4.3)
    return rows, columns, (width * columns, rows * ((width - 1.6) * shape + 0.55) + 0.3)


def panels(
    figure: Any,
    grid: tuple[int, int],
    drawn: Mapping[str, Picture],
    points: Array,
    label: str,
    *,
    ruled_by_first: bool = False,
) -> None:
    """Fields by their titles in so many rows and columns, all on one scale, with sensors."""
    titles, pictures = list(drawn), list(drawn.values())
    axes = list(figure.subplots(*grid, squeeze=False).flat)
    if pictures[0].dim == 1:
        lines(axes[0], titles, pictures, points, label)
    else:
        maps(figure, axes, titles, pictures, points, label, stacked=grid[0] > 1, ruled_by_first=ruled_by_first)


def paint(axis: Any, picture: Picture, scale: tuple[str, float, float]) -> Any:
    """A surface in colours, with its outline."""
    from matplotlib.collections import LineCollection

    name, low, high = scale
    x, y = picture.points.T
    look = {"cmap": name, "vmin": low, "vmax": high, "shading": "gouraud"}
    image = axis.tripcolor(x, y, picture.triangles, picture.values, **look)
    axis.add_collection(LineCollection(list(picture.outline()), colors=INK, linewidths=0.7))
    axis.set_aspect("equal")
    axis.margins(0.02)
    bare(axis)
    return image


def maps(
    figure: Any,
    axes: Sequence[Any],
    titles: Sequence[str],
    pictures: Sequence[Picture],
    points: Array,
    label: str,
    *,
    stacked: bool,
    ruled_by_first: bool = False,
) -> None:
    """Surfaces on one colour scale, with sensors, one above the other or side by side."""
    values = np.concatenate([p.values for p in pictures])
    scale = colours(values, pictures[0].values if ruled_by_first else None)
    clipped = bool(values.min() < scale[1] or values.max() > scale[2])
    image = None
    for axis, title, picture in zip(axes, titles, pictures, strict=True):
        image = paint(axis, picture, scale)
        if len(points):
            seen = {"s": np.clip(1200.0 / len(points), 2.5, 10.0), "alpha": 0.9 if picture.cut is None else 0.45}
            axis.scatter(points[:, 0], points[:, 1], **SENSOR, **seen)
        axis.set_title(title if picture.cut is None else f"{title}, z = {picture.cut:.3g}")
        if stacked or axis is axes[0]:
            axis.set_ylabel("y")
        else:
            axis.set_yticklabels([])
        if not stacked or axis is axes[-1]:
            axis.set_xlabel("x")
        else:
            axis.set_xticklabels([])
    bar = figure.colorbar(
        image, ax=list(axes), shrink=0.8, pad=0.02, aspect=36, extend="both" if clipped else "neither"
    )
    _label_bar(bar, label)


def lines(axis: Any, titles: Sequence[str], pictures: Sequence[Picture], points: Array, label: str) -> None:
    """Functions on a line in one axis, told apart by a legend, with sensors below.

    Args:
        axis: where they go.
        titles: what each is called.
        pictures: the functions, the most important one last: it is drawn as a full line, on top.
        points: (num_points, 1) sensors.
        label: of the y axis.
    """
    values = np.concatenate([p.values for p in pictures])
    room = 0.08 * (float(np.ptp(values)) or 1.0)
    for title, picture in zip(titles, pictures, strict=True):
        order = np.argsort(picture.points[:, 0])
        last = picture is pictures[-1]
        look = {"color": BLUE, "linestyle": "-"} if last else {"color": RED, "linestyle": "--"}
        axis.plot(picture.points[order, 0], picture.values[order], label=title, linewidth=1.6, **look)
    axis.scatter(points[:, 0], np.full(len(points), values.min() - room), s=9, **SENSOR)
    axis.set_ylim(values.min() - 2 * room, values.max() + room)
    if len(titles) > 1:
        axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(titles))
    else:
        axis.set_title(titles[0])
    axis.set_xlabel("x")
    axis.set_ylabel(label)
    few_ticks(axis)
    bare(axis)


def _label_bar(bar: Any, label: str) -> None:
    """Name what the colours are: a symbol upright, words along the bar."""
    bar.outline.set_visible(False)
    upright = {"rotation": 0, "ha": "left", "va": "center"} if len(label) <= 3 else {}
    bar.set_label(label, **upright)


def image_over_time(figure: Any, axis: Any, frames: Sequence[Frame], label: str, unit: str) -> None:
    """A state on a line: time to the right, the line upwards."""
    order = np.argsort(frames[0].picture.points[:, 0])
    x = frames[0].picture.points[order, 0]
    values = np.array([frame.picture.values[order] for frame in frames])
    name, low, high = colours(values)
    times = np.array([frame.time for frame in frames])
    image = axis.pcolormesh(times, x, values.T, cmap=name, vmin=low, vmax=high, shading="gouraud", rasterized=True)
    axis.set_ylabel("x")
    axis.set_xlabel(unit)
    _label_bar(figure.colorbar(image, ax=axis, pad=0.02, aspect=24), label)


def some_of(frames: Sequence[Frame], num: int) -> list[Frame]:
    """At most ``num`` of them, evenly, the first and the last among them."""
    chosen = np.unique(np.rint(np.linspace(0, len(frames) - 1, min(num, len(frames)))).astype(int))
    return [frames[i] for i in chosen]


def stamp(frame: Frame, unit: str) -> str:
    """When a frame was taken: "t = 0.25", or "step 5"."""
    return f"t = {frame.time:.3g}" if unit == "t" else f"step {frame.step}"
