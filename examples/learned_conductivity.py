"""A law of conductivity k(u, |grad u|) that nobody knows, learnt by a network from 81 sensors under three heat sources.

Run: python3 examples/learned_conductivity.py, or mpirun -n 2 python3 examples/learned_conductivity.py
"""

import sys

import relax
import numpy as np
import torch
from dolfinx import fem
from ufl import SpatialCoordinate, TestFunction, as_vector, dx, grad, inner, sqrt

relax.init(sys.argv)
domain = relax.meshes.unit_square(8)
V = fem.functionspace(domain, ("Lagrange", 1, (3,)))  # three solutions side by side: they share the law alone
u, v, x = fem.Function(V), TestFunction(V), SpatialCoordinate(domain)
z = [(u[i], sqrt(1e-6 + inner(grad(u[i]), grad(u[i])))) for i in range(3)]
f = as_vector([8.0, 30.0 * x[0], 40.0 * x[0] * x[1]])
sensors = np.stack(np.mgrid[0.1:0.9:9j, 0.1:0.9:9j], axis=-1).reshape(-1, 2)
truth = [1.0 + 0.5 * u**2 + 1.0 / (1.0 + slope**2) for u, slope in z]
net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1), torch.nn.Softplus()).double()
torch.nn.utils.vector_to_parameters(torch.from_numpy(np.random.default_rng(0).normal(size=33)), net.parameters())
learned = [relax.LearnedCoefficient(net, inputs) for inputs in z]

maps = []
for laws, controls in ((truth, ()), (learned, learned[:1])):  # one's weights are those of all three
    F = sum((laws[i] * inner(grad(u[i]), grad(v[i])) - f[i] * v[i]) * dx for i in range(3))
    problem = relax.Problem(residual=F, state=u, controls=controls, bcs=[relax.clamp_boundary(V)])
    maps.append(relax.ReducedMap(problem, relax.PointValues(V, sensors)))
data = maps[0]([]) + 1e-4 * np.random.default_rng(1).standard_normal(243)
G, prior = maps[1], relax.IdentityPrior(maps[1], std=3.0)
found = relax.gauss_newton(G, data, G.present_control(), noise=1e-4, prior=prior, rtol=1e-6)
G(found.value)  # network and state hold what was found
seen = relax.ExpressionValues(as_vector([*sum(z, ()), *truth]), sensors).value(u).reshape(-1, 9)
error = np.abs(net(torch.tensor(seen[:, :6]).reshape(-1, 3, 2))[..., 0].detach().numpy() / seen[:, 6:] - 1.0)
if domain.comm.rank == 0:
    print(f"{G.size_in} weights: the law within {error.mean():.4f} of the truth")
assert error.mean() < 0.02
