"""Electrical impedance tomography: where a disk conducts better, from currents through 16 electrodes on its boundary.

-div(exp(m) ∇u_k) = 0, exp(m) ∂u_k/∂n = j_k, ∫ u_k dx = 0 (dimensionless), for the eight currents of currents.csv, each
a line with what goes into each electrode. Seen are the voltages at the electrodes, with noise. All experiments have one
operator: Experiments factors it once at each m, and solves for the eight states, and adjoints, in one block.

Run: python3 examples/inverse/eit.py, or mpirun -n 2 python3 examples/inverse/eit.py
"""

import sys
from pathlib import Path

import relax
import numpy as np
import ufl
from dolfinx import fem

HERE, HALF_WIDTH = Path(__file__).resolve().parent, 0.1
relax.init(sys.argv)
domain = relax.meshes.read(HERE.parents[1] / "meshes/disk.msh")
currents = np.loadtxt(HERE / "currents.csv", delimiter=",")
angles = 2.0 * np.pi * np.arange(currents.shape[1]) / currents.shape[1]
electrodes = np.stack([np.cos(angles), np.sin(angles)], axis=1)

V = fem.functionspace(domain, ("Lagrange", 1))
m, u, v, x = fem.Function(V), fem.Function(V), ufl.TestFunction(V), ufl.SpatialCoordinate(domain)
ds = ufl.ds(domain, degree=4)
radius = ufl.sqrt(x[0] ** 2 + x[1] ** 2)
cosines = [(e[0] * x[0] + e[1] * x[1]) / radius for e in electrodes]
covers = [ufl.conditional(ufl.gt(cosine, np.cos(HALF_WIDTH)), 1.0, 0.0) for cosine in cosines]


def total(integrand):
    return domain.comm.allreduce(fem.assemble_scalar(fem.form(integrand * ds)))


def experiment(current):
    """One current: what goes in comes out, in the quadrature of the boundary, too."""
    strengths = fem.Constant(domain, current / (2.0 * HALF_WIDTH))
    j = sum(strengths[i] * cover for i, cover in enumerate(covers))
    j -= fem.Constant(domain, total(j) / total(fem.Constant(domain, 1.0)))
    F = ufl.exp(m) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - j * v * ds
    problem = relax.Problem(residual=F, state=u, controls=[m], nullspace="constants", name="eit")
    return relax.ReducedMap(problem, relax.PointValues(V, 0.99 * electrodes))


G = relax.Experiments([experiment(current) for current in currents])
assert G.num_operators == 1
centre = np.array([0.35, 0.2])
truth = relax.control_values(G, lambda x: np.exp(-((np.hypot(x[0] - centre[0], x[1] - centre[1]) / 0.3) ** 4)))
rng = np.random.default_rng(1)
noise = 2e-3 * np.abs(G(truth)).max()
data = G(truth) + noise * rng.standard_normal(G.size_out)
found = relax.gauss_newton(G, data, noise=noise, prior=relax.SmoothnessPrior(V, length=0.4, std=0.5))
likeness = np.corrcoef(found.value, truth)[0, 1]
misfit = found.history[-1]["misfit_in_noise_levels"]
if domain.comm.rank == 0:
    print(f"{found.status}: correlation with the truth {likeness:.3f}, misfit {misfit:.2f} noise levels")
assert likeness > 0.9 and misfit < 1.0
