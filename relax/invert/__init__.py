"""Inverse problems: the control whose observations fit the data, given a prior."""

from relax.invert.methods.gauss_newton import gauss_newton
from relax.invert.methods.lbfgs import lbfgs
from relax.invert.result import Result, Stats, Status
from relax.invert.table import METHODS, Optimiser

__all__ = ["METHODS", "Optimiser", "Result", "Stats", "Status", "gauss_newton", "lbfgs"]
