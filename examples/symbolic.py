"""A closed form for the solution of an equation, found, and checked by finite elements.

A string of length 1 with fixed ends is let go from a sine: u_tt = u_xx. Run: python3 examples/symbolic.py
"""

import sys

import relax

relax.init(sys.argv)

import ufl  # noqa: E402
from dolfinx import fem  # noqa: E402

mesh = relax.meshes.interval(16)
V = fem.functionspace(mesh, ("Lagrange", 1))
u, v, x = relax.symbolic.unknown(V), ufl.TestFunction(V), ufl.SpatialCoordinate(mesh)

string = (u.dt.dt * v + ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx
at_rest = {"boundary": 0.0, "initial": ufl.sin(ufl.pi * x[0]), "velocity": 0.0}
found = relax.symbolic.solve(string, at_rest, budget=60.0)

# A reaction u³ makes a problem without one, as far as formulas were tried: the best comes with its error.
reacting = (ufl.inner(ufl.grad(u), ufl.grad(v)) + u**3 * v - ufl.exp(ufl.sin(5 * x[0])) * v) * ufl.dx
approximate = relax.symbolic.solve(reacting, {"boundary": 0.0}, budget=1.0)
if mesh.comm.rank == 0:
    print(found, approximate, sep="\n")

assert found.is_exact and str(found.expression) == "sin(pi*x)*cos(pi*t)"
assert not approximate.is_exact and approximate.error < 0.1
