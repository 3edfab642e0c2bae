"""A feedback law for an unstable rod, u_t = u_xx + 20 u + c with u = 0 at its ends: three sensors, four heaters.

Run: python3 examples/closed_loop.py, or mpirun -n 2 python3 examples/closed_loop.py
"""

import sys

import relax
import numpy as np
import torch
import ufl
from dolfinx import fem

relax.init(sys.argv)
V = fem.functionspace(mesh := relax.meshes.interval(40), ("Lagrange", 1))
u, v, c, bcs = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, np.zeros(4)), [relax.clamp_boundary(V)]
heat = sum(c[i] * ufl.exp(-(((ufl.SpatialCoordinate(mesh)[0] - 0.2 * (i + 1)) / 0.08) ** 2)) for i in range(4))
F = (u.dx(0) * v.dx(0) - 20.0 * u * v - heat * v) * ufl.dx
rod = relax.theta_evolution(F, u, initial=0.0, dt=0.01, num_steps=20, theta=1, controls=[c], per_step=[c], bcs=bcs)
step = relax.train.one_step(rod, control=c)  # (u_t, c_t) -> u_{t+1}
sensors = relax.PointValues(V, np.array([[0.25], [0.5], [0.75]]))
torch.manual_seed(0)
law = torch.nn.Linear(3, 4).double()  # any torch module; the same on each rank
loop = relax.train.ClosedLoop(step, law, steps=20, observe=sensors, losses=lambda u: (u**2).mean())
modes = np.sin(np.pi * np.outer([1, 2, 3], relax.FieldValues(V).coordinates[:, 0]))
starts = torch.randn(64, 3, dtype=torch.float64) @ torch.as_tensor(modes)
adam = torch.optim.Adam(law.parameters(), lr=0.5)
for update in range(80):
    adam.zero_grad()
    loop.backward(starts[8 * (update % 8) :][:8], flow="combined")  # 20 solves forwards, 20 block solves backwards
    adam.step()

with torch.no_grad():
    ruled = alone = starts
    for _ in range(20):
        ruled, alone = step(ruled, law(loop.observe(ruled))), step(alone, torch.zeros(64, 4))
if mesh.comm.rank == 0:
    print(f"{loop.report}\n|u| after 20 steps: {alone.norm():.0f} left alone, {ruled.norm():.1f} with the law")
assert ruled.norm() < 0.05 * alone.norm()
