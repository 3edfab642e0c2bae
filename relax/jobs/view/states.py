"""A state over time in a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from relax.jobs.view import maps
from relax.jobs.view.series import Frame, Series

_FRAMES = 5


def height_of_states(frames: Sequence[Frame], width: float) -> float:
    """What :func:`draw_states` needs in a figure of this width."""
    picture = frames[0].picture
    if picture.dim == 1:
        return 2.6
    num = min(_FRAMES, len(frames))
    return float(np.clip((width - 1.5) / num * maps.height_over_width(picture) + 0.9, 1.4, 6.0))


def draw_states(figure: Any, states: Series) -> None:
    """Some frames side by side on one scale; of a state on a line all of them, as one image over time. On rank 0."""
    frames = states.frames or []
    if frames[0].picture.dim == 1:
        maps.image_over_time(figure, figure.subplots(), frames, states.label, states.unit)
        return
    some = maps.some_of(frames, _FRAMES)
    axes = list(figure.subplots(1, len(some), squeeze=False).flat)
    titles = [maps.stamp(frame, states.unit) for frame in some]
    maps.maps(figure, axes, titles, [f.picture for f in some], np.empty((0, 2)), states.label, stacked=False)
