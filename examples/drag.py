"""The drag on a wall of a channel, with the viscosity in the flow and in the drag. Run: python3 examples/drag.py

Stokes flow, -nu Δu + grad p = 0, div u = 0 (dimensionless), behind a parabola at the inlet: what the fluid does to the
wall is ∫ nu ∂u_x/∂y ds = 4 nu. The flow does not depend on nu at all: the derivative is the one of what is seen.
"""

import sys

import relax
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from ufl import div, dx, grad, inner

relax.init(sys.argv)
mesh = relax.meshes.unit_square(8)
velocity = basix.ufl.element("Lagrange", mesh.basix_cell(), 2, shape=(2,))
pressure = basix.ufl.element("Lagrange", mesh.basix_cell(), 1)
W = fem.functionspace(mesh, basix.ufl.mixed_element([velocity, pressure]))
state, nu = fem.Function(W), fem.Constant(mesh, 1.0)
(u, p), (v, q) = ufl.split(state), ufl.TestFunctions(W)
F = (nu * inner(grad(u), grad(v)) - p * div(v) - q * div(u)) * dx
inflow = relax.clamp(W.sub(0), "left", lambda x: np.array([4.0 * x[1] * (1.0 - x[1]), 0.0 * x[1]]))
bcs = [inflow, relax.clamp(W.sub(0), "bottom", 0.0), relax.clamp(W.sub(0), "top", 0.0)]
problem = relax.Problem(residual=F, state=state, controls=[nu], bcs=bcs, name="channel")

drag = relax.Functional(nu * grad(u)[0, 1] * relax.meshes.ds(mesh, "bottom"))
shear = relax.ExpressionValues(nu * grad(u)[0, 1], [(0.5, 0.0), (0.5, 0.5)])  # at the wall, and in the middle
G = relax.ReducedMap(problem, relax.Stack([drag, shear]))
relax.check_map(G)
with G.linearize([0.3]) as lin:
    assert np.allclose(lin.value, [1.2, 1.2, 0.0], atol=1e-10)
    assert np.allclose(lin.vjp(np.eye(3)), [[4.0], [4.0], [0.0]], atol=1e-9)
