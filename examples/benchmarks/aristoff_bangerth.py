"""The benchmark of Aristoff and Bangerth: 64 stiffnesses of a membrane from 169 of its displacements.

-div(a ∇u) = 10 in the unit square, u = 0 on its boundary (dimensionless), in bilinear elements on 32 x 32 squares. a is
constant on each of 8 x 8 squares; what is inferred are the 64 numbers m = log a. Seen is u at 13 x 13 points, with
noise of standard deviation 0.05; a priori m is normal with mean 0 and standard deviation 2 ("A benchmark for the
Bayesian inversion of coefficients in partial differential equations", SIAM Review 65, 2023). The folder of this name
has the measurements z_hat and the ten published cases: a, what is seen of it, log likelihood and log prior up to
constants.

Run: python3 examples/benchmarks/aristoff_bangerth.py
"""

import sys
from pathlib import Path

import relax
import numpy as np
import ufl
from dolfinx import fem, mesh


def published(name):
    return np.loadtxt(Path(__file__).with_suffix("") / f"{name}.txt").ravel()


relax.init(sys.argv)
domain = relax.meshes.unit_square(32, cell="quadrilateral")
cells = np.arange(domain.topology.index_map(2).size_local, dtype=np.int32)
column, row = np.floor(8.0 * mesh.compute_midpoints(domain, 2, cells)[:, :2]).astype(np.int32).T
m = relax.pieces(domain, mesh.meshtags(domain, 2, cells, column + 8 * row))
V = fem.functionspace(domain, ("Lagrange", 1))
u, v = fem.Function(V), ufl.TestFunction(V)
F = (ufl.exp(m) * ufl.inner(ufl.grad(u), ufl.grad(v)) - 10.0 * v) * ufl.dx
problem = relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name="membrane")
lattice = np.arange(1, 14) / 14.0
G = relax.ReducedMap(problem, relax.PointValues(V, [(x, y) for x in lattice for y in lattice]))
z_hat, noise, std = published("z_hat"), 0.05, 2.0


def densities(z, m):
    """log likelihood, log prior."""
    return -0.5 * np.sum((z - z_hat) ** 2) / noise**2, -0.5 * np.sum(m**2) / std**2


errors = np.zeros(3)
for case in range(10):
    m = np.log(published(f"input.{case}"))
    z, *expected = (published(f"output.{case}.{name}") for name in ("z", "loglikelihood", "logprior"))
    seen = G(m)
    of_densities = [abs(f - e[0]) / (abs(e[0]) or 1.0) for f, e in zip(densities(seen, m), expected, strict=True)]
    errors = np.maximum(errors, [np.abs(seen - z).max(), *of_densities])

with G.linearize(m) as lin:  # the gradient of the log posterior: one adjoint solve, with the factor of the forward one
    gradient = lin.vjp((z_hat - lin.value) / noise**2) - m / std**2
step = 1e-4 * np.random.default_rng(0).standard_normal(m.size)
slope = 0.5 * (sum(densities(G(m + step), m + step)) - sum(densities(G(m - step), m - step)))
if domain.comm.rank == 0:
    print("largest errors: z {:.1e}, log likelihood {:.1e}, log prior {:.1e};".format(*errors), end=" ")
    print(f"gradient against a difference {abs(gradient @ step / slope - 1.0):.1e}")
# Published are iterates of CG, which stop at 1e-10 of the load, and twelve digits of the densities.
assert errors[0] < 1e-10 and errors[1:].max() < 5e-12
assert np.isclose(gradient @ step, slope, rtol=1e-6, atol=0.0)
