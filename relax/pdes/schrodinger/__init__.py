"""Schrödinger's equation, i psi_t = -1/2 Lap psi + V psi (hbar = m = 1, dimensionless): psi = u_0 + i u_1."""

from relax.pdes.schrodinger.eigenstates import Eigenstates, eigenstates
from relax.pdes.schrodinger.evolution import absorbing_layer, dipole, evolution, wave_function
from relax.pdes.schrodinger.observables import Density, Overlaps, Populations, energy, norm, position

__all__ = [
    "Density",
    "Eigenstates",
    "Overlaps",
    "Populations",
    "absorbing_layer",
    "dipole",
    "eigenstates",
    "energy",
    "evolution",
    "norm",
    "position",
    "wave_function",
]
