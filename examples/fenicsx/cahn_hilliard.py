"""Two phases that part: DOLFINx's demo of the Cahn-Hilliard equation, with the width of interfaces as a control.

c_t = Δμ, μ = f'(c) - λ Δc, f = b c² (1 - c)² in the unit square (dimensionless), c and μ in P1 each, steps of the
midpoint rule. Controls are λ and b; seen is the free energy at the end, in which both stand.

Run: python3 examples/fenicsx/cahn_hilliard.py
"""

import sys

import relax
import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, solve
from ufl import dx, grad, inner

relax.init(sys.argv)
NUM_STEPS, DT = 8, 5.0e-6
domain = relax.meshes.unit_square(10)
P1 = basix.ufl.element("Lagrange", "triangle", 1)
W = fem.functionspace(domain, basix.ufl.mixed_element([P1, P1]))
state, before, initial = (fem.Function(W) for _ in range(3))
lmbda, barrier = fem.Constant(domain, 1.0e-2), fem.Constant(domain, 100.0)
(c, mu), (c0, mu0), (q, v) = ufl.split(state), ufl.split(before), ufl.TestFunctions(W)
c = ufl.variable(c)
f = barrier * c**2 * (1 - c) ** 2
F = (c - c0) * q * dx + DT / 2 * inner(grad(mu + mu0), grad(q)) * dx
F += (mu - ufl.diff(f, c)) * v * dx - lmbda * inner(grad(c), grad(v)) * dx
energy = (f + lmbda / 2 * inner(grad(c), grad(c))) * dx
initial.sub(0).interpolate(lambda x: 0.63 + 0.05 * np.cos(3 * np.pi * x[0]) * np.cos(2 * np.pi * x[1]))

step = relax.Problem(residual=F, state=state, controls=[lmbda, barrier], name="phases")
march = relax.Evolution(step=step, previous=before, initial=initial, initial_is_fixed=True, num_steps=NUM_STEPS)
G = relax.ReducedMap(march, relax.Functional(energy), solver=relax.Newton(rtol=1e-12))


def plain():
    before.x.array[:] = state.x.array[:] = initial.x.array
    for _ in range(NUM_STEPS):
        solve(F, state)
        before.x.array[:] = state.x.array
    return integral(energy)


compare(G, [1.0e-2, 100.0], [1.0e-3, 10.0], plain)
