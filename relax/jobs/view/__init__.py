"""Figures, drawn by rank 0 from what was gathered there. Matplotlib is imported when drawing."""

from relax.jobs.control.figure import Drive, draw_control
from relax.jobs.inverse.figure import Panel, States, can_draw, draw_inverse
from relax.jobs.landscape.figure import Relaxation, draw_landscape
from relax.jobs.misfit.figure import MisfitMap, Searches, draw_misfit
from relax.jobs.view.strip import draw_strip

__all__ = [
    "Drive",
    "MisfitMap",
    "Panel",
    "Relaxation",
    "Searches",
    "States",
    "can_draw",
    "draw_control",
    "draw_inverse",
    "draw_landscape",
    "draw_misfit",
    "draw_strip",
]
