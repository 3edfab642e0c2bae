"""Steady flow past a cylinder, the benchmark DFG 2D-1: drag and lift at Reynolds number 20; viscosity as a control.

(u · ∇) u = nu Δu - ∇p, div u = 0 (dimensionless) in a channel of 2.2 x 0.41 with a cylinder of diameter 0.1 in it; a
parabola of height 0.3 comes in, the outlet is free. Taylor and Hood's elements on triangles with curved sides. The
cylinder's force along w is what the residual makes of a test function that is w on it. G. Nabh ("On high order methods
for the stationary incompressible Navier-Stokes equations", 1998) has 5.57953523384 and 0.010618948146 as coefficients.

Run: python3 examples/fenicsx/dfg_cylinder.py
"""

import sys
from pathlib import Path

import relax
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, solve
from ufl import div, dx, grad, inner

relax.init(sys.argv)
channel = relax.meshes.read(Path(__file__).with_name("cylinder.geo"))
P2, P1 = (basix.ufl.element("Lagrange", "triangle", degree, shape=s) for degree, s in ((2, (2,)), (1, ())))
W = fem.functionspace(channel, basix.ufl.mixed_element([P2, P1]))
state, nu = fem.Function(W), fem.Constant(channel, 1.0e-3)
(u, p), test = ufl.split(state), ufl.TestFunctions(W)


def residual(v, q):
    return (nu * inner(grad(u), grad(v)) + inner(grad(u) * u, v) - p * div(v) - q * div(u)) * dx


inlet = relax.clamp(W.sub(0), "inlet", lambda x: np.array([1.2 * x[1] * (0.41 - x[1]) / 0.41**2, 0.0 * x[1]]))
bcs = [inlet, relax.clamp(W.sub(0), "walls", 0.0), relax.clamp(W.sub(0), "cylinder", 0.0)]


def force(along):
    """The coefficient of the force on the cylinder: -2 F(w) / (U² D), with the mean inflow U = 0.2 and D = 0.1."""
    w = fem.Function(fem.functionspace(channel, P2))
    relax.clamp(w.function_space, "cylinder", along).set(w.x.array)
    return -500.0 * residual(w, 0.0)


forces = [force((1.0, 0.0)), force((0.0, 1.0))]
observed = relax.Stack([relax.Functional(form) for form in forces])
problem = relax.Problem(residual=residual(*test), state=state, controls=[nu], bcs=bcs, name="flow")
G = relax.ReducedMap(problem, observed, solver=relax.Newton(rtol=1e-12))


def plain():
    state.x.array[:] = 0.0
    solve(residual(*test), state, bcs)
    return [integral(form) for form in forces]


drag, lift = compare(G, [1.0e-3], [1.0e-4], plain)
assert np.allclose([drag, lift], [5.57953523384, 0.010618948146], rtol=1e-3, atol=2e-4)
