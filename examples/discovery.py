"""The equation behind readings of moving sensors with 5 % noise: its terms and coefficients.

Run: python3 examples/discovery.py, or mpirun -n 2 python3 examples/discovery.py
"""

import sys

import relax
import numpy as np
import ufl
from relax import discovery
from dolfinx import fem

relax.init(sys.argv)
rng = np.random.default_rng(0)
V = fem.functionspace(disk := relax.meshes.disk(0.25), ("Lagrange", 2))
state, w = fem.Function(V), ufl.TestFunction(V)
truth = 0.05 * ufl.inner(ufl.grad(state), ufl.grad(w)) - 2.0 * (state - state**3) * w
x, y = ufl.SpatialCoordinate(disk)
lumps = 0.9 * ufl.exp(-6 * (x + 0.4) ** 2 - 6 * y**2) - 0.8 * ufl.exp(-6 * (x - 0.3) ** 2 - 4 * y**2)
steps = relax.theta_evolution(truth * ufl.dx, state, initial=lumps, dt=0.05, num_steps=40)

phase, radius, speed = rng.uniform(0, 6, 30), np.sqrt(rng.uniform(0, 0.9, 30)), rng.uniform(-3, 3, 30)
times = 0.05 * np.arange(41)
angles = phase + times[:, None] * speed
paths = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=-1)  # (times, sensors, 2)
sees = relax.Stack([relax.AtSteps(relax.PointValues(V, p), n) for n, p in enumerate(paths)])
with relax.ReducedMap(steps, sees) as G:
    values = G(G.present_control())
noise = 0.05 * values.std()
data = (paths.reshape(-1, 2), np.repeat(times, 30), values + noise * rng.standard_normal(len(values)))

u, v = discovery.unknown(V), discovery.test(V)
library = {"u_t": u.dt * v, "lap u": -ufl.inner(ufl.grad(u), ufl.grad(v)), "u": u * v, "u^2": u**2 * v, "u^3": u**3 * v}
library |= {"u_x": u.dx(0) * v, "u_y": u.dx(1) * v, "|grad u|^2": ufl.inner(ufl.grad(u), ufl.grad(u)) * v}
found = discovery.null_space(library, data, noise=noise, tests=discovery.bumps(5, 6))
if disk.comm.rank == 0:
    print(found, *found.path, sep="\n")
assert set(found.terms) == {"u_t", "lap u", "u", "u^3"}
