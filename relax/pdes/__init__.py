"""Equations, one file each. A PDE is a function that returns a ``Problem``; its docstring is the equation."""

from relax.pdes import poisson

__all__ = ["poisson"]
