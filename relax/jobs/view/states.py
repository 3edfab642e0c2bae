"""A state over time in a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from relax.jobs.view import maps
from relax.jobs.view.series import Frame

_FRAMES = 5


@dataclass(frozen=True)
class States:
    """The state over time: frames on rank 0, what is drawn, and of what the time axis is, "t" or "step"."""

    frames: list[Frame] | None
    label: str
    unit: str


def height_of_states(frames: Sequence[Frame], width: float) -> float:
    """What :func:`draw_states` needs in a figure of this width."""
    picture = frames[0].picture
    if picture.dim == 1:
        return 2.6
    num = min(_FRAMES, len(frames))
    return float(np.clip((width - 1.5) / num * maps.height_over_width(picture) + 0.9, 1.4, 6.0))


def draw_states(figure: Any, frames: Sequence[Frame], label: str, unit: str) -> None:
    """Some frames side by side on one scale; of a state on a line all of them, as one image over time."""
    if frames[0].picture.dim == 1:
        maps.image_over_time(figure, figure.subplots(), frames, label, unit)
        return
    some = maps.some_of(frames, _FRAMES)
    axes = list(figure.subplots(1, len(some), squeeze=False).flat)
    titles = [maps.stamp(frame, unit) for frame in some]
    maps.maps(figure, axes, titles, [f.picture for f in some], np.empty((0, 2)), label, stacked=False)
