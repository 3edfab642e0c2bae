"""A map as a torch module, real or complex."""

from relax.layer.complex import ComplexLayer, as_complex, as_real
from relax.layer.layer import SolutionLayer
from relax.layer.mesh_graph import Graph, graph
from relax.layer.residual_loss import ResidualLoss

__all__ = ["ComplexLayer", "Graph", "ResidualLoss", "SolutionLayer", "as_complex", "as_real", "graph"]
