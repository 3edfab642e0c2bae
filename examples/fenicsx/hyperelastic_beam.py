"""A beam that bends by two thirds of its length: the tutorial's hyperelasticity under its full load, from rest.

A compressible neo-Hookean solid, held at x = 0 and pulled down by a traction at its other end. The tutorial comes there
in nine steps of the load; relax is called once, and says that it let the load grow. Elements are trilinear, where the
tutorial has 20 x 5 x 5 of degree 2. Controls are Young's modulus and the traction, seen is the end's mean displacement.

Run: python3 examples/fenicsx/hyperelastic_beam.py
"""

import sys

import relax
import ufl
from dolfinx import fem
from plain import compare, integral, solve

relax.init(sys.argv)
beam = relax.meshes.box((0.0, 0.0, 0.0), (20.0, 1.0, 1.0), (20, 1, 1), cell="hexahedron")
V = fem.functionspace(beam, ("Lagrange", 1, (3,)))
u, v = fem.Function(V), ufl.TestFunction(V)
E, traction, nu = fem.Constant(beam, 1.0e4), fem.Constant(beam, 13.5), 0.3
mu, lmbda = E / (2 * (1 + nu)), E * nu / ((1 + nu) * (1 - 2 * nu))
gradient = ufl.variable(ufl.Identity(3) + ufl.grad(u))
log_j = ufl.ln(ufl.det(gradient))
energy = mu / 2 * (ufl.tr(gradient.T * gradient) - 3 - 2 * log_j) + lmbda / 2 * log_j**2
dx, end = ufl.dx(metadata={"quadrature_degree": 4}), relax.meshes.ds(beam, "right")
F = ufl.inner(ufl.grad(v), ufl.diff(energy, gradient)) * dx + traction * v[2] * end
bcs = [relax.clamp(V, "left", 0.0)]

problem = relax.Problem(residual=F, state=u, controls=[E, traction], bcs=bcs, name="beam")
G = relax.ReducedMap(problem, relax.Functional(u[2] * end))


def plain():
    load, u.x.array[:] = float(traction.value), 0.0
    for part in range(1, 10):
        traction.value = load * part / 9
        solve(F, u, bcs)
    return integral(u[2] * end)


compare(G, [1.0e4, 13.5], [1.0e3, 1.0], plain)
