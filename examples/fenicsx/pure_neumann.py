"""A source and a sink in a body that nothing holds: Poisson's equation with Neumann data alone, and its null space.

-div(exp(m) ∇u) = s f in the unit square, no flux through its boundary, ∫ u dx = 0 (dimensionless). The demo tells PETSc
of the constants, relax is told by a word. Controls are the field m and the number s.

Run: python3 examples/fenicsx/pure_neumann.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, pinned, solve
from ufl import dx, grad, inner

relax.init(sys.argv)
domain = relax.meshes.unit_square(8)
V, M = (fem.functionspace(domain, ("Lagrange", degree)) for degree in (2, 1))
u, v, m, s = fem.Function(V), ufl.TestFunction(V), fem.Function(M), fem.Constant(domain, 1.0)
x, y = ufl.SpatialCoordinate(domain)
f = ufl.cos(ufl.pi * x) * ufl.cos(2 * ufl.pi * y)
F = (ufl.exp(m) * inner(grad(u), grad(v)) - s * f * v) * dx(metadata={"quadrature_degree": 6})

problem = relax.Problem(residual=F, state=u, controls=[m, s], nullspace="constants", name="neumann")
seen = [u * x * dx, ufl.exp(m) * inner(grad(u), grad(u)) * dx(metadata={"quadrature_degree": 6})]
G = relax.ReducedMap(problem, relax.Stack([relax.Functional(form) for form in seen]))


def plain():
    u.x.array[:] = 0.0
    solve(F, u, [pinned(V)])
    u.x.array[:] -= integral(u * dx)
    return [integral(form) for form in seen]


compare(G, [lambda x: np.sin(3 * x[0]) * x[1], 1.0], [lambda x: np.cos(2 * x[1]), 0.5], plain)
with G.linearize(relax.control_values(G, 0.0, 1.0)) as lin:  # u = f / (5 pi²) in a uniform body
    assert np.isclose(lin.value[1], 1 / (20 * np.pi**2), rtol=5e-3)
