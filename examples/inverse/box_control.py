"""Heating within limits, against a closed form. Run: python3 examples/inverse/box_control.py

Which source f, between -0.5 and 0.8, of -Δu = f + e in the unit square, u = 0 around it, brings u nearest to d at the
price of α/2 ∫ f² dx (dimensionless)? With e and d made so that u = sin πx sin πy, and α φ solves the adjoint equation,
φ = sin πx sin 2πy, the answer is φ cut off at the limits. Steps do not depend on the mesh.
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from ufl import dx, grad, inner

relax.init(sys.argv)
alpha, low, high = 1e-4, -0.5, 0.8
steps, errors = [], []
for n in (16, 32):
    mesh = relax.meshes.unit_square(n)
    V, W = fem.functionspace(mesh, ("Lagrange", 1)), fem.functionspace(mesh, ("DG", 0))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Function(W, name="heat")
    x, y = (ufl.pi * s for s in ufl.SpatialCoordinate(mesh))
    best, phi = ufl.sin(x) * ufl.sin(y), ufl.sin(x) * ufl.sin(2 * y)
    exact = ufl.max_value(low, ufl.min_value(high, phi))
    e, d = 2 * ufl.pi**2 * best - exact, best + 5 * ufl.pi**2 * alpha * phi
    F = (inner(grad(u), grad(v)) - (f + e) * v) * dx
    problem = relax.Problem(residual=F, state=u, controls=[f], bcs=[relax.clamp_boundary(V)], name="heating")
    G = relax.ReducedMap(problem, relax.Functional(0.5 * (u - d) ** 2 * dx))
    J = relax.Cost(G) + 0.5 * alpha * f**2 * dx
    found = relax.minimize(J, relax.control_values(G, 0.0), bounds=(low, high)).raise_if_failed()
    relax.fill(f, found.value)
    gap = mesh.comm.allreduce(fem.assemble_scalar(fem.form((f - exact) ** 2 * dx)))
    steps, errors = [*steps, found.stats.outer], [*errors, np.sqrt(gap)]
if mesh.comm.rank == 0:
    print(f"{steps} steps; error of the control {errors[0]:.4f}, {errors[1]:.4f}")
assert abs(steps[1] - steps[0]) <= 1 and errors[1] < 0.05 and errors[0] / errors[1] > 1.8
