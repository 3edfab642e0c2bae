"""Poisson's equation for the flux and the potential: DOLFINx's mixed demo, with a field of fluxes as a control.

σ = ∇u + g, div σ = -f in the unit square, u = 0 at the left and right, σ · n = sin(5 x) at the bottom and top
(dimensionless); σ and the control g are Raviart-Thomas fields, u is constant in each cell. The numbers of g are fluxes
through facets, in an order and with signs that do not depend on the partition.

Run: python3 examples/fenicsx/mixed_poisson.py
"""

import sys

import relax
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, solve
from ufl import div, dx, inner

relax.init(sys.argv)
domain = relax.meshes.unit_square(8)
RT, DG = basix.ufl.element("RT", "triangle", 1), basix.ufl.element("DG", "triangle", 0)
W = fem.functionspace(domain, basix.ufl.mixed_element([RT, DG]))
state, g = fem.Function(W), fem.Function(fem.functionspace(domain, RT))
(sigma, u), (tau, v) = ufl.split(state), ufl.TestFunctions(W)
x, y = ufl.SpatialCoordinate(domain)
f = 10 * ufl.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.02)
F = (inner(sigma - g, tau) + u * div(tau) + v * (div(sigma) + f)) * dx(metadata={"quadrature_degree": 4})
top = relax.clamp(W.sub(0), "top", lambda x: np.stack([0.0 * x[0], np.sin(5 * x[0])]))
bottom = relax.clamp(W.sub(0), "bottom", lambda x: np.stack([0.0 * x[0], -np.sin(5 * x[0])]))

problem = relax.Problem(residual=F, state=state, controls=[g], bcs=[top, bottom], name="mixed")
seen = [u**2 * dx, inner(sigma, sigma) * dx]
G = relax.ReducedMap(problem, relax.Stack([relax.Functional(form) for form in seen]))


def plain():
    state.x.array[:] = 0.0
    solve(F, state, [top, bottom])
    return [integral(form) for form in seen]


base, direction = (lambda x: np.stack([x[1], x[0] ** 2]), lambda x: np.stack([np.sin(3 * x[0]), x[0] * x[1]]))
compare(G, [base], [direction], plain)
