"""Mosaic's heated slab and cantilever: compliances on hexahedra whose stiffness goes with the cube of a density (SIMP).

Heat: -div(k(ρ) ∇T) = s in [0, 2] x [0, 1] x [0, h], a layer of cubes of edge h = 2 / n; T = 0 at x = 0, a flux 1 / h
comes in at x = 2. Elasticity: [0, 2] x [0, 1] x [0, 1] in n x 2 x 4 parts, held at x = 0, a traction (0, 0, -1) at
x = 2; Young's modulus 70 000 k(ρ) (MPa), Poisson's ratio 0.3. k(ρ) = 0.001 + 0.999 ρ³, elements are trilinear, ρ and s
constant in each; the compliance is the work of flux or traction at x = 2. `mosaic.csv` has what six solvers agree on in
single precision (Mosaic, a benchmark suite for differentiable physics solvers, https://github.com/pasteurlabs/mosaic).

Run: python3 examples/benchmarks/mosaic.py
"""

import csv
import functools
import sys
from pathlib import Path

import relax
import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI


@functools.cache
def compliance(n, *, elastic):
    """The map from ρ and, for heat, s in each cell to the compliance."""
    corner, parts = ((2.0, 1.0, 1.0), (n, 2, 4)) if elastic else ((2.0, 1.0, 2.0 / n), (n, n // 2, 1))
    domain = relax.meshes.box((0.0, 0.0, 0.0), corner, parts, cell="hexahedron")
    V = fem.functionspace(domain, ("Lagrange", 1, (3,)) if elastic else ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    rho, source = (fem.Function(fem.functionspace(domain, ("DG", 0)), name=name) for name in ("density", "source"))
    k, end = 0.001 + 0.999 * rho**3, relax.meshes.ds(domain, "right")
    if elastic:
        strain, nu = ufl.sym(ufl.grad(u)), 0.3
        stress = 70_000.0 * k / (1 + nu) * (strain + nu / (1 - 2 * nu) * ufl.tr(strain) * ufl.Identity(3))
        load, F = ufl.as_vector([0.0, 0.0, -1.0]), ufl.inner(stress, ufl.sym(ufl.grad(v))) * ufl.dx
    else:
        load, F = fem.Constant(domain, n / 2), (k * ufl.inner(ufl.grad(u), ufl.grad(v)) - source * v) * ufl.dx
    F, controls = F - ufl.inner(load, v) * end, [rho] if elastic else [rho, source]
    problem = relax.Problem(residual=F, state=u, controls=controls, bcs=[relax.clamp(V, "left", 0.0)], name="simp")
    return relax.ReducedMap(problem, relax.Functional(ufl.inner(load, u) * end))


def drawn(n):
    """A density as a function of x: numbers drawn cell after cell, first along x."""
    normal = np.random.default_rng(0).standard_normal(n * (n // 2)).astype(np.float32)
    numbers = np.clip(0.5 + 0.3 * normal, 0.05, 0.95)
    return lambda x: numbers[np.floor(x[0] * n / 2).astype(int) + n * np.floor(x[1] * (n // 2)).astype(int)]


def gaussian(amplitude):
    """A source as a function of x, in single precision as all numbers here."""
    return lambda x: np.float32(amplitude * np.exp(-((x[0] - 1.0) ** 2 + (x[1] - 0.5) ** 2) / 0.08))


relax.init(sys.argv)
errors = {}
for row in csv.DictReader(Path(__file__).with_suffix(".csv").read_text().splitlines()):
    elastic, case, value = row["domain"] == "structural_mesh", row["case"], float(row["value"])
    n = int(value) if case.endswith("baseline") else 8 if elastic else 16
    density = np.float32(value if case == "forward_agreement" else 0.5)
    if case == "forward_baseline" and not elastic:
        density = drawn(n)
    amplitude = value if case.endswith("linearity") else 1.0 if case.endswith("source_baseline") else 0.0
    G = compliance(n, elastic=elastic)
    m = relax.control_values(G, *([density] if elastic else [density, gaussian(amplitude)]))
    errors.setdefault((row["domain"], case), []).append(abs(G(m)[0] / float(row["published"]) - 1.0))

differences = []
for elastic in (False, True):  # the gradient against a difference quotient of double precision
    G = compliance(8, elastic=elastic)
    m = np.random.default_rng(1).uniform(0.3, 0.9, G.size_in)
    step = 3e-5 * np.random.default_rng(2).standard_normal(G.size_in)
    with G.linearize(m) as lin:
        slope = lin.vjp([1.0]) @ step
    differences.append(abs(0.5 * (G(m + step) - G(m - step))[0] / slope - 1.0))
if MPI.COMM_WORLD.rank == 0:
    for (domain, case), found in errors.items():
        print(f"{domain}, {case}: {len(found)} values within {max(found):.1e}")
    print("gradients against differences: {:.1e} (heat), {:.1e} (elasticity)".format(*differences))
assert max(map(max, errors.values())) < 2e-6 and max(differences) < 1e-6
