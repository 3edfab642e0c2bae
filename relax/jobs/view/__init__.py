"""Figures and files for ParaView. Matplotlib is imported when drawing, by rank 0, from what was gathered there."""
