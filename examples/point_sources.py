"""Four heaters under a plate of 100 parts: how strong each one is, and how well each part conducts, from 441 sensors.

Run: python3 examples/point_sources.py, or mpirun -n 2 python3 examples/point_sources.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem, mesh

relax.init(sys.argv)
domain = relax.meshes.unit_square(20)
cells = np.arange(domain.topology.index_map(2).size_local, dtype=np.int32)
part = np.floor(10.0 * mesh.compute_midpoints(domain, 2, cells)).astype(np.int32)
kappa = relax.pieces(domain, mesh.meshtags(domain, 2, cells, 10 * part[:, 0] + part[:, 1]))  # one number per tag

V = fem.functionspace(domain, ("Lagrange", 1))
u, v = fem.Function(V), ufl.TestFunction(V)
f = relax.PointSource(V, [(0.31, 0.33), (0.72, 0.24), (0.23, 0.78), (0.64, 0.69)])
F = (ufl.exp(kappa) * ufl.inner(ufl.grad(u), ufl.grad(v)) + (10.0 * u - f) * v) * ufl.dx  # f is Σ s_i δ(x - x_i)
problem = relax.Problem(residual=F, state=u, controls=[kappa, f], bcs=[relax.clamp_boundary(V)])
G = relax.ReducedMap(problem, relax.FieldValues(V))

rng = np.random.default_rng(1)
truth = relax.control_values(G, 0.5 * rng.standard_normal(kappa.size), [1.0, 2.0, 3.0, 4.0])
noise = 1e-4 * np.abs(G(truth)).max()
data = G(truth) + noise * rng.standard_normal(G.size_out)
prior = relax.BlockPrior([relax.IdentityPrior(kappa.size, std=0.5), relax.IdentityPrior(f.size, std=3.0)])
found = relax.gauss_newton(G, data, noise=noise, prior=prior)
error = np.abs(found.value - truth)
if domain.comm.rank == 0:
    print(f"strengths {found.value[-4:].round(3)}; log conductivities within {error[:-4].max():.3f} of the truth")
assert error.max() < 0.05
