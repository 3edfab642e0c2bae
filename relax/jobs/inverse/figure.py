"""The figure of an inverse problem: truth, recovery, sensors, the state over time, the history of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dolfinx import fem

from relax.base.types import Array
from relax.jobs.view import maps
from relax.jobs.view.curves import convergence
from relax.jobs.view.pictures import Picture
from relax.jobs.view.series import Series
from relax.jobs.view.states import draw_states, height_of_states


def can_draw(u: object) -> bool:
    """Whether a control or state can be a panel: a scalar field."""
    return isinstance(u, fem.Function) and tuple(u.function_space.value_shape) == ()


def inverse_figure(
    plt: Any,
    panels: Mapping[str, Picture],
    points: Array,
    history: Sequence[dict[str, Any]],
    *,
    label: str = "",
    method: str = "gauss_newton",
    states: Series | None = None,
) -> Any:
    """The figure of an inverse problem. On rank 0.

    Args:
        plt: pyplot.
        panels: fields on one mesh by their titles, all on the same colour scale.
        points: (num_points, gdim) sensors.
        history: one dict per iteration, as in ``history.jsonl``.
        label: what the colours are, beside the colour bar; on a line the y axis.
        method: of the optimisation.
        states: for a row below: some frames, on a line all of them as one image over time.
    """
    rows, columns, wanted = maps.arrangement(list(panels.values()))
    narrowest = 0.0 if states is None else 9.0
    size = (max(wanted[0] + 4.2, narrowest), max(4.3, wanted[1]))
    below = 0.0 if states is None or states.frames is None else height_of_states(states.frames, size[0])
    whole = plt.figure(figsize=(size[0], size[1] + below), layout="constrained")
    whole.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    figure, row = whole.subfigures(2, 1, height_ratios=[size[1], below]) if below else (whole, None)
    left, right = figure.subfigures(1, 2, width_ratios=[size[0] - 4.0, 4.0]) if panels else (None, figure)
    if left is not None:
        # The first panel is the truth where there is one: an overshoot of the recovery must not wash out its colours.
        maps.panels(left, (rows, columns), panels, points, label, ruled_by_first=True)
    upper, lower = right.subplots(2, 1, sharex=True)
    convergence(upper, lower, history, method=method, unit="noise", band=(0.8, 1.2))
    if row is not None and states is not None and states.frames is not None:
        draw_states(row, states)
    return whole
