"""A particle in a box, driven from its ground state to the next one by a field with one strength per step.

Run: python3 examples/quantum_control.py, or mpirun -n 2 python3 examples/quantum_control.py
"""

import sys

import relax
import numpy as np
from relax.pdes import schrodinger

relax.init(sys.argv)
mesh = relax.meshes.interval(16, (0.0, 2.0))
# i ψ_t = -½ ψ_xx + E_n x ψ, ψ = 0 at both ends; the control is E, one number per step
evolution = schrodinger.dipole(mesh, num_steps=100, dt=0.1, initial=1)
states = schrodinger.eigenstates(mesh, 0.0, 3).states
G = relax.ReducedMap(evolution, schrodinger.Populations(evolution.state.function_space, states))

guess = 0.2 * np.random.default_rng(1).standard_normal(G.size_in)  # at E = 0 the populations are stationary
price = relax.IdentityPrior(G, std=2.0)
target = np.array([0.0, 1.0, 0.0])
# The populations are there long before the field is the cheapest: |g| need not be small.
result = relax.lbfgs(G, target, guess, noise=0.01, prior=price, atol=0.5)

populations = G(result.value)  # more than 99 % in the second state
if mesh.comm.rank == 0:
    print(f"{result.status.value}; {result.stats}")
    print(f"populations {populations.round(4)}, largest field {np.abs(result.value).max():.2f}")
assert result.converged and populations[1] > 0.99
