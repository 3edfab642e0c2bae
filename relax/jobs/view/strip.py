"""``strip.png``: frames of one size and one scale side by side, to be cut into an animation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.types import Array
from relax.jobs.view import maps, style
from relax.jobs.view.pictures import Picture
from relax.jobs.view.series import Frame, Series

_DPI = 100
_WIDTH = 360
# Programs that read PNG files count their pixels in sixteen bits.
_WIDEST = 65_535
# Fractions of a frame's width, and pixels above and below the axes.
_LEFT, _RIGHT, _BAR = 0.14, 0.18, 0.03
_TOP, _BOTTOM = 30, 40


def draw_strip(comm: MPI.Comm, path: Path, series: Series) -> dict[str, Any]:
    """Draw the frames that were written, at most as many as a PNG is wide.

    Collective; rank 0 draws.

    Args:
        comm: the ranks of the run.
        path: the PNG file.
        series: frames on rank 0.

    Returns:
        Under "strip" what is needed to cut it up: ``file``, ``frames`` (how many), ``width`` and ``height`` of each in
        pixels, ``steps``, ``times``; nothing where matplotlib is missing.
    """
    if not style.is_there(comm):
        style.left_out(path.name)
        return {}
    return {"strip": parallel.on_rank_0(comm, lambda: _draw(path, series))}


def _draw(path: Path, series: Series) -> dict[str, Any]:
    written = set(series.written)
    frames = maps.some_of([f for f in series.frames or [] if f.step in written], _WIDEST // _WIDTH)
    with style.pyplot() as plt:
        pixels = np.concatenate(_frames(plt, frames, series.label, series.unit), axis=1)
        plt.imsave(path, pixels)
    return {
        "file": path.name,
        "frames": len(frames),
        "width": _WIDTH,
        "height": int(pixels.shape[0]),
        "steps": [frame.step for frame in frames],
        # Sums of dt carry rounding that no reader wants to see.
        "times": [float(f"{frame.time:.12g}") for frame in frames],
    }


def _frames(plt: Any, frames: Sequence[Frame], label: str, unit: str) -> list[Any]:
    """Each frame as (height, width, 3) pixels."""
    first = frames[0].picture
    height = round(_WIDTH * (1.0 - _LEFT - _RIGHT) * maps.height_over_width(first)) + _TOP + _BOTTOM
    figure = plt.figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI)
    axis = figure.add_axes((_LEFT, _BOTTOM / height, 1.0 - _LEFT - _RIGHT, 1.0 - (_TOP + _BOTTOM) / height))
    axis.tick_params(labelsize=8)
    axis.set_xlabel("x", fontsize=8, labelpad=1)
    values = np.concatenate([frame.picture.values for frame in frames])
    moving, show = (_line if first.dim == 1 else _surface)(figure, axis, first, values, label)
    title = axis.set_title("", fontsize=10, fontweight="normal")
    # Axes and their numbers, which take most of the time, are drawn once.
    for artist in (*moving, title):
        artist.set_animated(True)
    figure.canvas.draw()
    still = figure.canvas.copy_from_bbox(figure.bbox)
    pixels = []
    for frame in frames:
        figure.canvas.restore_region(still)
        show(frame.picture)
        title.set_text(maps.stamp(frame, unit))
        for artist in (*moving, title):
            axis.draw_artist(artist)
        pixels.append(np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy())
    plt.close(figure)
    return pixels


_Moving: TypeAlias = tuple[list[Any], Callable[[Picture], object]]


def _line(figure: Any, axis: Any, first: Picture, values: Array, label: str) -> _Moving:
    """A function on a line: what changes, and how a picture is put into it."""
    order = np.argsort(first.points[:, 0])
    (line,) = axis.plot(first.points[order, 0], first.values[order], color=style.BLUE)
    room = 0.05 * (float(np.ptp(values)) or 1.0)
    axis.set_ylim(values.min() - room, values.max() + room)
    axis.set_title(label, loc="left", fontsize=8, fontweight="normal")
    style.few_ticks(axis)
    style.bare(axis)
    return [line], lambda picture: line.set_ydata(picture.values[order])


def _surface(figure: Any, axis: Any, first: Picture, values: Array, label: str) -> _Moving:
    """A surface with its colour bar: what changes, and how a picture is put into it."""
    image = maps.paint(axis, first, style.colours(values))
    box = axis.get_position(original=True)
    bar = figure.colorbar(image, cax=figure.add_axes((box.x1 + 0.02, box.y0, _BAR, box.height)))
    bar.ax.tick_params(labelsize=7)
    bar.ax.set_title(label, fontsize=8, fontweight="normal")
    return [image, *axis.collections[1:]], lambda picture: image.set_array(picture.values)
