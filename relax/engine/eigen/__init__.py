"""Eigenvalues and states of two symmetric forms as a differentiable map of what stands in them."""

from relax.engine.eigen.map import EigenMap

__all__ = ["EigenMap"]
