"""A plane wave through a square: DOLFINx's Helmholtz demo as a real pair (Re, Im), with the wave number as a control.

-Δw - k² w = 0 in the unit square, ∂w/∂n - i k w = i k (d · n - 1) exp(i k d · x) on its boundary (dimensionless): w is
exp(i k d · x). Real and imaginary part of its equation are those of a state with two components.

Run: python3 examples/fenicsx/helmholtz.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, solve
from ufl import ds, dx, grad, inner

relax.init(sys.argv)
domain = relax.meshes.unit_square(8)
V = fem.functionspace(domain, ("Lagrange", 2, (2,)))
w, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 6.0)
d, n = ufl.as_vector([np.cos(0.7), np.sin(0.7)]), ufl.FacetNormal(domain)
phase = k * ufl.dot(d, ufl.SpatialCoordinate(domain))


def i_times(z):
    return ufl.as_vector([-z[1], z[0]])


wave = ufl.as_vector([ufl.cos(phase), ufl.sin(phase)])
fine = {"quadrature_degree": 6}
F = (inner(grad(w), grad(v)) - k**2 * inner(w, v)) * dx
F -= k * inner(i_times(w), v) * ds + k * (ufl.dot(d, n) - 1) * inner(i_times(wave), v) * ds(metadata=fine)

problem = relax.Problem(residual=F, state=w, controls=[k], name="helmholtz")
seen = [w[0] * dx, w[1] * dx]
G = relax.ReducedMap(problem, relax.Stack([relax.Functional(form) for form in seen]))


def plain():
    w.x.array[:] = 0.0
    solve(F, w)
    return [integral(form) for form in seen]


means = compare(G, [6.0], [0.5], plain)
of_wave = np.prod([(np.exp(6j * e) - 1) / (6j * e) for e in (np.cos(0.7), np.sin(0.7))])
assert abs(complex(*means) - of_wave) < 1e-3
