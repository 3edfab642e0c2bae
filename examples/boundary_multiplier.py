"""The flux that holds a side at given values, by a multiplier there. Run: python3 examples/boundary_multiplier.py

Δu = 0 in the unit square, u = m at the top and 0 on the other sides (dimensionless). The condition at the top stands in
the equations, with lam = -∂u/∂n on the mesh of that side beside u: m to lam is Dirichlet to Neumann,
which takes sin(k π x) to -k π coth(k π) sin(k π x).
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from ufl import dx, grad, inner

relax.init(sys.argv)
mesh = relax.meshes.unit_square(16)
top = relax.meshes.submesh(mesh, 1, relax.meshes.facets(mesh, "top"))
V, M = fem.functionspace(mesh, ("Lagrange", 2)), fem.functionspace(top, ("Lagrange", 1))
u, lam, m = fem.Function(V, name="u"), fem.Function(M, name="lam"), fem.Function(M, name="m")
v, mu = ufl.TestFunctions(ufl.MixedFunctionSpace(V, M))
ds = relax.meshes.ds(mesh, "top")
F = inner(grad(u), grad(v)) * dx + lam * v * ds + (u - m) * mu * ds
walls = relax.clamp(V, ["left", "right", "bottom"])
problem = relax.Problem(residual=F, state=[u, lam], controls=[m], bcs=[walls], name="dirichlet_to_neumann")

flux = relax.FieldValues(M)
G = relax.ReducedMap(problem, flux)
relax.check_map(G)
x = flux.coordinates[:, 0]
for k in (1, 2):
    wave = np.sin(k * np.pi * x)
    assert np.abs(G(wave) + k * np.pi / np.tanh(k * np.pi) * wave).max() < 0.04 * k**3  # of order h² k³
energy = relax.Functional(-lam * m * ds)  # ∫ |∇u|² dx
with relax.ReducedMap(problem, energy) as E, E.linearize(np.sin(np.pi * x)) as lin:
    assert np.isclose(lin.vjp([1.0]) @ np.sin(np.pi * x), 2.0 * lin.value[0])
