"""The history of a run: misfit and gradient norm over the steps of the method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relax.invert.table import METHODS
from relax.jobs.view.style import BLUE, RED, bare


def convergence(
    upper: Any,
    lower: Any,
    history: Sequence[dict[str, Any]],
    *,
    method: str,
    unit: str,
    band: tuple[float, float] | None = None,
) -> None:
    """Draw the history into two axes, one above the other.

    Args:
        upper: for the misfit.
        lower: for the gradient norm.
        history: one dict per iteration, as in ``history.jsonl``.
        method: its name in the job.
        unit: of the misfit.
        band: where the misfit is meant to end, to be shaded.
    """
    from matplotlib.ticker import MaxNLocator

    for axis, key, colour, label in (
        (upper, "misfit_in_noise_levels", RED, f"misfit / {unit}"),
        (lower, "gradient_norm", BLUE, "gradient norm"),
    ):
        pairs = [(h["step"], h[key]) for h in history if h.get(key)]
        marks = {"marker": "o", "markersize": 3.5} if len(pairs) < 40 else {}
        if pairs:
            axis.semilogy(*zip(*pairs, strict=True), color=colour, linewidth=1.4, **marks)
            if axis is upper and band is not None:
                axis.axhspan(*band, color=colour, alpha=0.12, linewidth=0)
            _number(axis)
        axis.set_title(label, color=colour, loc="left")
        axis.grid(True, which="major", alpha=0.25)
        bare(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.set_xlabel(f"{METHODS[method].label} step")


def _number(axis: Any) -> None:
    """Numbers along a logarithmic y axis, two at the least: powers of ten alone may leave one or none."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_ylim()
    if high >= 100.0 * low:
        return
    few = high < 10.0 * low
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5) if few else LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.yaxis.set_minor_locator(NullLocator())
