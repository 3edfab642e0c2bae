"""A map as a torch module, real or complex."""

from relax.layer.complex import ComplexLayer, as_complex, as_real
from relax.layer.layer import SolutionLayer

__all__ = ["ComplexLayer", "SolutionLayer", "as_complex", "as_real"]
