"""Heat that is let in at a side: steps of the second backward differentiation formula, boundary data for each of them.

u_t - div(exp(κ) ∇u) = 0 in the unit square, u = g(y, t) on the left and u = 0 on the right (dimensionless), P2, the
first step by backward Euler. g is data, the same numbers for both programs; the control is κ, seen is the heat.

Run: python3 examples/fenicsx/bdf2_heat.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, linear
from ufl import dx, grad, inner

relax.init(sys.argv)
NUM_STEPS, DT = 10, 0.02
domain = relax.meshes.unit_square(6)
V, K = fem.functionspace(domain, ("Lagrange", 2)), fem.functionspace(domain, ("Lagrange", 1))
u, g, kappa, v = fem.Function(V), fem.Function(V), fem.Function(K), ufl.TestFunction(V)
bcs = [relax.clamp(V, lambda x: np.isclose(x[0], 0), g), relax.clamp(V, lambda x: np.isclose(x[0], 1))]
R = ufl.exp(kappa) * inner(grad(u), grad(v)) * dx
heat = u * dx


def at_the_side(t):
    return lambda x: np.sin(np.pi * x[1]) * np.sin(20.0 * t)


march = relax.theta_evolution(
    R, u, initial=0.0, dt=DT, num_steps=NUM_STEPS, theta="bdf2", controls=[kappa], bcs=bcs, data={g: at_the_side}
)
G = relax.ReducedMap(march, relax.AtSteps(relax.Functional(heat), [5, NUM_STEPS]))


def plain():
    before, earlier, seen = fem.Function(V), fem.Function(V), []
    a, b, c = (fem.Constant(domain, value) for value in (1.0, -1.0, 0.0))
    F = (a * u + b * before + c * earlier) * v * dx + DT * R
    for i in range(1, NUM_STEPS + 1):
        g.interpolate(at_the_side(i * DT))
        if i == 2:
            a.value, b.value, c.value = 1.5, -2.0, 0.5
        if i <= 2:
            solve = linear(F, u, bcs)
        solve()
        earlier.x.array[:], before.x.array[:] = before.x.array, u.x.array
        seen += [integral(heat)] if i in (5, NUM_STEPS) else []
    return seen


compare(G, [lambda x: 0.3 * x[0] * x[1]], [lambda x: np.cos(x[0])], plain)
