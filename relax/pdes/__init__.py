"""Equations: a function returns a ``Problem`` or an ``Evolution``, and its docstring is the equation."""

from relax.pdes import burgers, heat, poisson, schrodinger

__all__ = ["burgers", "heat", "poisson", "schrodinger"]
