"""A network that finds the source of a Poisson equation from point values, trained through the PDE itself.

Run: python3 examples/torch_layer.py, or mpirun -n 2 python3 examples/torch_layer.py
"""

import sys

import relax
import numpy as np
import torch

relax.init(sys.argv)
torch.manual_seed(0)
problem = relax.pdes.poisson.source(relax.meshes.unit_square(12))
sensors = np.random.default_rng(1).uniform(0.1, 0.9, (20, 2))
G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, sensors))
physics = relax.SolutionLayer(G)  # (..., size_in) -> (..., size_out)

centres = torch.rand(64, 2, dtype=torch.float64)
x = torch.as_tensor(relax.FieldValues(problem.controls[0].function_space).coordinates[:, :2])
sources = 100.0 * torch.exp(-20.0 * ((x[None] - centres[:, None]) ** 2).sum(-1))  # (64, size_in): blobs
with torch.no_grad():
    observed = physics(sources)  # 64 solves: one factorisation, one block of right-hand sides

network = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, G.size_in)).double()
optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
losses = []
for _ in range(200):
    optimiser.zero_grad()
    loss = torch.nn.functional.mse_loss(physics(100.0 * network(observed)), observed)  # the PDE is inside the loss
    loss.backward()  # an adjoint solve per sample; one block solve where they share a factor
    optimiser.step()
    losses.append(loss.item())
jacobian = torch.func.jacrev(physics)(sources[0])  # all rows in one block solve; jvp, vmap, jacfwd, hessian as well
print(f"loss {losses[0]:.2e} -> {losses[-1]:.2e}") if problem.mesh.comm.rank == 0 else None
assert losses[-1] < 0.01 * losses[0] and jacobian.shape == (20, G.size_in)
