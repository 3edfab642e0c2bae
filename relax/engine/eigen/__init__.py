"""Energies and states of a Schrödinger operator as a differentiable map of its potential."""

from relax.engine.eigen.map import EigenMap
from relax.engine.eigen.system import EigenProblem

__all__ = ["EigenMap", "EigenProblem"]
