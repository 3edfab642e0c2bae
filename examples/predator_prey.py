"""Two species on a disk: the equation of each found in states with noise, and both refined as one system.

Run: python3 examples/predator_prey.py, or mpirun -n 2 python3 examples/predator_prey.py
"""

import sys

import relax
import numpy as np
import ufl
from relax import discovery
from dolfinx import fem

relax.init(sys.argv)
V = fem.functionspace(disk := relax.meshes.disk(0.45), ("Lagrange", 2, (2,)))
state, (w, z), (x, y) = fem.Function(V), ufl.TestFunction(V), ufl.SpatialCoordinate(disk)
p, q = state
lap = lambda u, v: -ufl.inner(ufl.grad(u), ufl.grad(v))  # noqa: E731
rest = (-0.05 * lap(p, w) - 0.1 * lap(q, z) + (p * q - p) * w + (0.5 * q - p * q) * z) * ufl.dx
lumps = ufl.as_vector([1 + 0.5 * ufl.sin(2 * x) * ufl.cos(y), 0.8 + 0.5 * ufl.exp(-3 * (x - 0.3) ** 2 - 3 * y**2)])
steps = relax.theta_evolution(rest, state, initial=lumps, dt=0.05, num_steps=40)
with relax.ReducedMap(steps, relax.FieldValues(V)) as G:
    exact = discovery.samples(G, G.present_control())
noise, rng = 0.01, np.random.default_rng(0)
data = [(t, values + noise * rng.standard_normal(len(values))) for t, values in exact]

u, v = discovery.unknown(V), discovery.test(fem.functionspace(disk, ("Lagrange", 1)))
also = {"p": u[0] * v, "q": u[1] * v, "p^2": u[0] ** 2 * v, "pq": u[0] * u[1] * v, "q^2": u[1] ** 2 * v}
libraries = [{"u_t": u.dt[k] * v, "lap": lap(u[k], v), **also} for k in (0, 1)]
found = [discovery.null_space(each, data, noise=noise, tests=discovery.bumps(4, 4)) for each in libraries]
system = discovery.System(found)
refined = system.refine(data[::8], noise=noise, num_steps=15)
if disk.comm.rank == 0:
    print(system, np.column_stack([refined.coefficients, refined.std]).round(4), sep="\n")
assert np.abs(refined.coefficients - [-0.05, -1.0, 1.0, -0.1, 0.5, -1.0]).max() < 0.05
