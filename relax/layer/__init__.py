"""A map as a torch module, real or complex."""

from relax.layer.complex import ComplexLayer
from relax.layer.layer import SolutionLayer

__all__ = ["ComplexLayer", "SolutionLayer"]
