"""A map as a torch module, real or complex; a torch module in a form."""

from relax.layer.complex import ComplexLayer, as_complex, as_real
from relax.layer.layer import SolutionLayer
from relax.layer.learned import LearnedCoefficient
from relax.layer.mesh_graph import Graph, graph
from relax.layer.residual_loss import ResidualLoss

__all__ = [
    "ComplexLayer",
    "Graph",
    "LearnedCoefficient",
    "ResidualLoss",
    "SolutionLayer",
    "as_complex",
    "as_real",
    "graph",
]
