"""The figure of a control job: density, control and populations over time, and the history of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relax.base.types import Array
from relax.jobs.view import maps, style
from relax.jobs.view.curves import convergence
from relax.jobs.view.series import Series
from relax.jobs.view.states import draw_states, height_of_states

# Of the left column, and of control and populations in it.
_WIDTH, _BELOW = 8.0, 4.2


@dataclass(frozen=True)
class Drive:
    """What was driven and what came of it.

    Attributes:
        times: (num_steps + 1,) at the ends of the steps, the start first.
        control: (num_steps,).
        populations: (num_steps + 1, num_states).
        wanted: (num_states,) at the end.
        fidelity: at the end.
    """

    times: Array
    control: Array
    populations: Array
    wanted: Array
    fidelity: float


def control_figure(plt: Any, states: Series, drive: Drive, history: Sequence[dict[str, Any]], *, method: str) -> Any:
    """The figure of a control job. On rank 0.

    Args:
        plt: pyplot.
        states: the density over time: on a line an image over time, else some frames.
        drive: the control and the populations.
        history: one dict per iteration, as in ``history.jsonl``.
        method: of the optimisation.
    """
    frames = states.frames or []
    on_a_line = frames[0].picture.dim == 1
    above = 3.0 if on_a_line else height_of_states(frames, _WIDTH)
    figure = plt.figure(figsize=(_WIDTH + 4.0, above + _BELOW), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
    left, right = figure.subfigures(1, 2, width_ratios=[_WIDTH, 4.0])
    if on_a_line:
        axes = left.subplots(3, 1, sharex=True, height_ratios=[above, _BELOW / 2, _BELOW / 2])
        maps.image_over_time(left, axes[0], frames, states.label, "")
        below = axes[1:]
    else:
        upper, lower = left.subfigures(2, 1, height_ratios=[above, _BELOW])
        draw_states(upper, states)
        below = lower.subplots(2, 1, sharex=True)
    _over_time(below[0], below[1], drive, states.unit)
    misfit, gradient = right.subplots(2, 1, sharex=True)
    convergence(misfit, gradient, history, method=method, unit="tolerance")
    return figure


def _over_time(upper: Any, lower: Any, drive: Drive, unit: str) -> None:
    times = drive.times
    upper.stairs(drive.control, times, color=style.BLUE, linewidth=1.2, baseline=None)
    upper.axhline(0.0, color=style.INK, linewidth=0.5, alpha=0.4)
    upper.set_ylabel("control")
    for k, wanted in enumerate(drive.wanted):
        colour = style.LINES[k % len(style.LINES)]
        lower.plot(times, drive.populations[:, k], color=colour, linewidth=1.4, label=f"state {k + 1}")
        lower.scatter(times[-1:], [wanted], s=28, facecolor="none", edgecolor=colour, zorder=4, clip_on=False)
    lower.set_ylabel("populations")
    lower.set_ylim(-0.03, 1.03)
    lower.set_xlabel(unit)
    lower.set_title(f"fidelity {drive.fidelity:.4f}", loc="left", fontsize=10, fontweight="normal")
    lower.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=6, fontsize=9)
    for axis in (upper, lower):
        axis.set_xlim(times[0], times[-1])
        axis.grid(True, alpha=0.25)
        style.bare(axis)
