"""Equations: a function returns a ``Problem`` or an ``Evolution``, and its docstring is the equation."""

from relax.pdes import burgers, hamilton_jacobi, heat, poisson, schrodinger

__all__ = ["burgers", "hamilton_jacobi", "heat", "poisson", "schrodinger"]
