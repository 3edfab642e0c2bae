"""A network learns which source gives wanted temperatures: by the physical gradient, and by the half-inverse gradient.

Run: python3 examples/half_inverse.py, or mpirun -n 2 python3 examples/half_inverse.py
"""

import sys

import relax
import numpy as np
import torch

relax.init(sys.argv)
problem = relax.pdes.poisson.source(relax.meshes.unit_square(12))
sensors = np.random.default_rng(1).uniform(0.1, 0.9, (12, 2))
G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, sensors))
prior = relax.SmoothnessPrior(problem.controls[0].function_space, length=0.3, std=10.0)
inverse = relax.gauss_newton_inverse(G, noise=1e-3, prior=prior)
physics = relax.SolutionLayer(G)
wanted = physics(torch.as_tensor(np.array([prior.sample(seed) for seed in range(24)])))
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.Tanh(), torch.nn.Linear(24, G.size_in)).double()
losses = [float(((physics(network(wanted)) - wanted) ** 2).mean())]

adam = torch.optim.Adam(network.parameters(), lr=3e-2)
for _ in range(30):
    adam.zero_grad()
    x = network(wanted)
    relax.physical_gradient(x, physics(x.detach()), wanted, inverse).backward()  # the inverse, not the adjoint
    adam.step()
half_inverse = relax.HalfInverse(network.parameters(), lr=np.inf, cap=0.5)  # half of the largest stable step
for _ in range(30):
    loss = half_inverse.step(lambda: (y := physics(network(wanted)), ((y - wanted) ** 2).mean()))  # no backward
    losses.append(float(loss))
print(f"{losses[0]:.1e} -> {losses[1]:.1e} -> {losses[-1]:.1e}") if problem.mesh.comm.rank == 0 else None
assert losses[1] < 0.2 * losses[0] and losses[-1] < 0.01 * losses[1]
