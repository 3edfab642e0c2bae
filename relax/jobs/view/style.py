"""What all figures share: colours, the look, whether matplotlib is there. Matplotlib is imported when drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.log import logger
from relax.base.types import Array

INK = "#22313f"
RED = "#b3423a"
BLUE = "#2b6a99"
#: Of what is written.
DPI = 160
#: Lines that are told apart by colour alone.
LINES = (BLUE, RED, "#d8972f", "#4f8a5b", "#7a5c99", "#5f6b73")
SENSOR = {"facecolor": "white", "edgecolor": INK, "linewidth": 0.6, "zorder": 3}

# What is smaller than this part of the largest value has no sign.
_ROUNDING = 1e-6

_LOOK = {"font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
         "xtick.color": INK, "ytick.color": INK, "axes.titlesize": 11, "axes.titleweight": "bold"}  # fmt: skip


def is_there(comm: MPI.Comm) -> bool:
    """Whether rank 0, which draws, has matplotlib. Collective."""
    return parallel.on_rank_0(comm, lambda: find_spec("matplotlib") is not None)


def left_out(name: str) -> None:
    """Say that a picture cannot be drawn here."""
    logger.warning("%s is left out: matplotlib is not installed", name)


def draw(comm: MPI.Comm, path: Path, figure_of: Callable[[Any], Any]) -> None:
    """Write the figure that ``figure_of(pyplot)`` makes, on rank 0; where matplotlib is missing, say so. Collective."""
    if not is_there(comm):
        return left_out(path.name)

    def write() -> None:
        with pyplot() as plt:
            save(plt, figure_of(plt), path)

    parallel.on_rank_0(comm, write)


@contextmanager
def pyplot() -> Iterator[Any]:
    """Matplotlib's pyplot without a screen, in the look of these figures. On one rank."""
    import matplotlib

    matplotlib.use("Agg")
    with look() as plt:
        yield plt


@contextmanager
def look() -> Iterator[Any]:
    """Matplotlib's pyplot with the screen that the user has chosen, in the look of these figures. On one rank."""
    from matplotlib import pyplot as plt

    with plt.rc_context(_LOOK):
        yield plt


def save(plt: Any, figure: Any, path: Path) -> None:
    """Write a figure and close it."""
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def few_ticks(axis: Any) -> None:
    """So few numbers along x that they stay apart in a narrow panel."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))


def bare(axis: Any) -> None:
    """Take away the two sides of the frame that carry no ticks."""
    axis.spines[["top", "right"]].set_visible(False)


def colours(values: Array, ruling: Array | None = None) -> tuple[str, float, float]:
    """The colour map and its limits: around white at 0 for values of both signs, rounding apart.

    Args:
        values: all that is drawn.
        ruling: where given, values of both signs are cut off at the largest of these in size, but not below 0.6 of all.
    """
    low, high = float(values.min()), float(values.max())
    name = "viridis"
    if min(-low, high) > _ROUNDING * max(-low, high):
        most = max(-low, high)
        high = most if ruling is None else max(float(np.abs(ruling).max()), 0.6 * most)
        low, name = -high, "RdBu_r"
    if high - low <= 1e-12 * max(abs(high), abs(low), 1e-300):
        low, high = low - 0.5, high + 0.5
    return name, low, high
