"""Inverse problems: find the control whose observations fit the data, given a prior."""

from relax.invert.gauss_newton import gauss_newton
from relax.invert.lbfgs import lbfgs
from relax.invert.result import Result, Stats, Status

__all__ = ["Result", "Stats", "Status", "gauss_newton", "lbfgs"]
