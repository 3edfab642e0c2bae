"""Stokes flow in blocks: velocity and pressure each in a space of its own. Run: python3 examples/block_stokes.py

-div(exp(m) grad u) + grad p = 0, div u = 0 in the unit square under a moving lid (dimensionless), solved for both at
once, each preconditioned by itself. What is seen is the power that moves the lid, ∫ exp(m) |grad u|² dx, and the
pressure at two points: the viscosity as a control doubles both where it is doubled.
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from ufl import div, dx, grad, inner

relax.init(sys.argv)
mesh = relax.meshes.unit_square(16)
V = fem.functionspace(mesh, ("Lagrange", 2, (2,)))
Q = fem.functionspace(mesh, ("Lagrange", 1))
u, p, m = fem.Function(V, name="u"), fem.Function(Q, name="p"), fem.Function(Q, name="m")
v, q = ufl.TestFunctions(ufl.MixedFunctionSpace(V, Q))
nu = ufl.exp(m)
F = (nu * inner(grad(u), grad(v)) - p * div(v) - q * div(u)) * dx
lid = relax.clamp(V, "top", lambda x: np.array([16.0 * x[0] ** 2 * (1.0 - x[0]) ** 2, 0.0 * x[0]]))
bcs = [relax.clamp(V, ["left", "right", "bottom"]), lid]
problem = relax.Problem(residual=F, state=[u, p], controls=[m], bcs=bcs, nullspace="constants", name="cavity")

power = relax.Functional(nu * inner(grad(u), grad(u)) * dx)
corners = relax.PointValues(Q, [(0.1, 0.9), (0.9, 0.9)])
G = relax.ReducedMap(problem, relax.Stack([power, corners]), options="stokes")  # of fieldsplit_u_ and fieldsplit_p_
thin, thick = G(relax.control_values(G, 0.0)), G(relax.control_values(G, np.log(2.0)))
assert np.allclose(thick, 2.0 * thin, rtol=1e-7)
assert np.allclose(corners.value(p), thick[1:])  # u and p hold the solution
with G.linearize(relax.control_values(G, 0.0)) as lin:
    gradient = lin.vjp([1.0, 0.0, 0.0])
assert np.isclose(gradient.sum(), thin[0], rtol=1e-7)  # the power goes with exp(m)
