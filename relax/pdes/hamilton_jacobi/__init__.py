"""Viscous Hamilton–Jacobi equations with the Hamiltonian ½ |p|², in time and stationary.

The equation in time smooths a landscape f by what lies around each point, weighted by exp(-beta f): its solution at
time t is the local entropy of Entropy-SGD, and the value function of a problem of stochastic control (Chaudhari,
Oberman, Osher, Soatto and Carlier, "Deep Relaxation: partial differential equations for optimizing deep neural
networks", 2017, arXiv:1704.04932).
"""

from relax.pdes.hamilton_jacobi.evolution import viscous_evolution
from relax.pdes.hamilton_jacobi.stabilisation import cell_peclet
from relax.pdes.hamilton_jacobi.stationary import viscous

__all__ = ["cell_peclet", "viscous", "viscous_evolution"]
