"""A plate on supports: DOLFINx's biharmonic demo, P2 with penalties on jumps of slopes, the load as a control.

Δ² u = f in the unit square, u = Δu = 0 on its boundary (dimensionless); with f = 4 pi⁴ sin(pi x) sin(pi y) it bends to
u = sin(pi x) sin(pi y). Controls are the load and the penalty; seen are the load's work and the volume under the plate.

Run: python3 examples/fenicsx/biharmonic.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, solve
from ufl import avg, div, dS, dx, grad, inner, jump

relax.init(sys.argv)
domain = relax.meshes.unit_square(10)
V = fem.functionspace(domain, ("Lagrange", 2))
u, v, f, alpha = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(domain, 8.0)
n, h = ufl.FacetNormal(domain), ufl.CellDiameter(domain)
F = inner(div(grad(u)), div(grad(v))) * dx - f * v * dx + alpha / avg(h) * jump(grad(u), n) * jump(grad(v), n) * dS
F -= (avg(div(grad(u))) * jump(grad(v), n) + jump(grad(u), n) * avg(div(grad(v)))) * dS
bcs = [relax.clamp_boundary(V)]

problem = relax.Problem(residual=F, state=u, controls=[f, alpha], bcs=bcs, name="plate")
seen = [f * u * dx, u * dx]
G = relax.ReducedMap(problem, relax.Stack([relax.Functional(form) for form in seen]))


def plain():
    u.x.array[:] = 0.0
    solve(F, u, bcs)
    return [integral(form) for form in seen]


def load(x):
    return 4 * np.pi**4 * np.sin(np.pi * x[0]) * np.sin(np.pi * x[1])


work, volume = compare(G, [load, 8.0], [lambda x: 100 * x[0] * x[1], 0.5], plain)
assert np.allclose([work, volume], [np.pi**4, 4 / np.pi**2], rtol=0.05)
