"""Stokes flow in a box under a moving lid, DOLFINx's demo: by a factor and by an iteration; viscosity as a control.

-div(exp(m) ∇u) + ∇p = 0, div u = 0 in the unit square, u = (1, 0) at the top and 0 on the other sides (dimensionless);
Taylor and Hood's elements. The pressure is known up to a constant, here ∫ p dx = 0. Seen are the lid's power and a
moment of the pressure.

Run: python3 examples/fenicsx/enclosed_stokes.py
"""

import sys

import relax
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, pinned, solve
from ufl import div, dx, grad, inner

relax.init(sys.argv)
domain = relax.meshes.unit_square(6)
P2, P1 = (basix.ufl.element("Lagrange", "triangle", degree, shape=s) for degree, s in ((2, (2,)), (1, ())))
W = fem.functionspace(domain, basix.ufl.mixed_element([P2, P1]))
state, m = fem.Function(W), fem.Function(fem.functionspace(domain, P1))
(u, p), (v, q) = ufl.split(state), ufl.TestFunctions(W)
measure = dx(metadata={"quadrature_degree": 6})
F = ufl.exp(m) * inner(grad(u), grad(v)) * measure - (p * div(v) + q * div(u)) * dx
lid = relax.clamp(W.sub(0), "top", lambda x: np.array([1.0 + 0.0 * x[0], 0.0 * x[0]]))
bcs = [relax.clamp(W.sub(0), ["left", "right", "bottom"], 0.0), lid]

problem = relax.Problem(residual=F, state=state, controls=[m], bcs=bcs, nullspace="constants", name="stokes")
seen = [ufl.exp(m) * inner(grad(u), grad(u)) * measure, p * ufl.SpatialCoordinate(domain)[0] * dx]
observed = relax.Stack([relax.Functional(form) for form in seen])
G = relax.ReducedMap(problem, observed)


def plain():
    state.x.array[:] = 0.0
    solve(F, state, [*bcs, pinned(W.sub(1))])
    pressures = W.sub(1).collapse()[1]
    state.x.array[pressures] -= integral(p * dx)
    return [integral(form) for form in seen]


value = compare(G, [lambda x: np.sin(2 * x[0]) - x[1]], [lambda x: x[0] * x[1] + 0.3], plain)
with relax.ReducedMap(problem, observed, options="stokes") as H:  # Schur's complement, for what no factor fits
    assert np.allclose(H(relax.control_values(H, lambda x: np.sin(2 * x[0]) - x[1])), value, rtol=1e-8)
