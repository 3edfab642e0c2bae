"""Posteriors over paths of stochastic equations, and network layers whose weights are such paths."""

from relax.train.paths.layer import SDELayer
from relax.train.paths.posterior import PathPosterior

__all__ = ["PathPosterior", "SDELayer"]
