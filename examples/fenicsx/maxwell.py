"""Maxwell's equations in a cavity, in Nédélec's elements: permittivity and frequency as controls.

curl curl E - ω² ε E = f in the unit square, n x E = 0 on its boundary (dimensionless); with ω² = 5, ε = 1 and
f = (pi² - 5) (sin(pi y), sin(pi x)) the field is E = (sin(pi y), sin(pi x)).

Run: python3 examples/fenicsx/maxwell.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, solve
from ufl import curl, dx, inner

relax.init(sys.argv)
domain = relax.meshes.unit_square(8)
V, M = fem.functionspace(domain, ("N1curl", 2)), fem.functionspace(domain, ("Lagrange", 1))
E, v, epsilon, omega = fem.Function(V), ufl.TestFunction(V), fem.Function(M), fem.Constant(domain, 5.0**0.5)
x, y = ufl.SpatialCoordinate(domain)
field = ufl.as_vector([ufl.sin(ufl.pi * y), ufl.sin(ufl.pi * x)])
fine = dx(metadata={"quadrature_degree": 6})
F = (curl(E) * curl(v) - omega**2 * epsilon * inner(E, v)) * dx - (ufl.pi**2 - 5.0) * inner(field, v) * fine
bcs = [relax.clamp_boundary(V)]

problem = relax.Problem(residual=F, state=E, controls=[epsilon, omega], bcs=bcs, name="maxwell")
seen = [inner(E, field) * fine, curl(E) ** 2 * dx]
G = relax.ReducedMap(problem, relax.Stack([relax.Functional(form) for form in seen]))


def plain():
    E.x.array[:] = 0.0
    solve(F, E, bcs)
    return [integral(form) for form in seen]


compare(G, [lambda x: 1.0 + 0.5 * x[0] * x[1], 2.0], [lambda x: np.cos(3 * x[1]), 0.3], plain)
assert np.allclose(G(relax.control_values(G, 1.0, 5.0**0.5)), [1.0, np.pi**2], rtol=1e-3)  # ∫ |E|² and ∫ (curl E)²
