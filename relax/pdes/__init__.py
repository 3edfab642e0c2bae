"""Equations, one file each. A PDE is a function that returns a ``Problem``; its docstring is the equation."""

from relax.pdes import burgers, heat, poisson, schrodinger

__all__ = ["burgers", "heat", "poisson", "schrodinger"]
