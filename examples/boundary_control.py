"""A heat flux on one side of a plate, on that side's own mesh. Run: python3 examples/boundary_control.py

-Δu + u³ = 0 in the unit square, ∂u/∂n = q at the top, u = 0 at the bottom (dimensionless): which q gives temperatures
that were seen at half the height? The control has the numbers of the top alone, and a prior there, in one dimension. As
the trace of a field on the whole mesh it has the same derivatives, and numbers inside that nothing sees.
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
V = fem.functionspace(mesh, ("Lagrange", 1))
u, v = fem.Function(V), ufl.TestFunction(V)
points = [(x, 0.5) for x in np.linspace(0.1, 0.9, 17)]


def heated_by(q, name):
    F = (inner(grad(u), grad(v)) + u**3 * v) * dx(mesh) - q * v * relax.meshes.ds(mesh, "top")
    problem = relax.Problem(residual=F, state=u, controls=[q], bcs=[relax.clamp(V, "bottom", 0.0)], name=name)
    return relax.ReducedMap(problem, relax.PointValues(V, points))


Q = fem.functionspace(top, ("Lagrange", 1))
G, whole = heated_by(fem.Function(Q), "side"), heated_by(fem.Function(V), "trace")
relax.check_map(G)
flux = [relax.control_values(m, lambda x: np.sin(np.pi * x[0])) for m in (G, whole)]
with G.linearize(flux[0]) as side, whole.linearize(flux[1]) as trace:
    seen = relax.FieldValues(V).coordinates[:, 1] > 0.99
    assert np.allclose(side.matrix(), trace.matrix()[:, seen], atol=1e-12)
prior = relax.SmoothnessPrior(Q, length=0.5, std=1.0)
found = relax.gauss_newton(G, G(flux[0]), relax.control_values(G, 0.0), noise=1e-5, prior=prior)
assert np.abs(found.value - flux[0]).max() < 0.15
