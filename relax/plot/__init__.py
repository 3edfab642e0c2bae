"""Figures, drawn by rank 0 from what was gathered there. Matplotlib is imported when drawing."""

from relax.plot.control import Drive, draw_control
from relax.plot.inverse import Panel, States, can_draw, draw_inverse
from relax.plot.landscape import Relaxation, draw_landscape
from relax.plot.misfit import MisfitMap, Searches, draw_misfit
from relax.plot.strip import draw_strip

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
