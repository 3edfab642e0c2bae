"""A wave by Newmark's method: the speed of sound as a field, the moment at the start as another control.

u_tt + d u_t = div(c² ∇u) in the unit square, u = 0 on its boundary (dimensionless), P2, the trapezoidal rule. Controls
are c and u_t at the start; seen is the energy at steps, in which u, u_t and c stand.

Run: python3 examples/fenicsx/newmark_wave.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, linear
from ufl import dx, grad, inner

relax.init(sys.argv)
NUM_STEPS, DT, DAMPING = 10, 0.05, 0.4
domain = relax.meshes.unit_square(5)
V = fem.functionspace(domain, ("Lagrange", 2))
u, w, w_0, c, v = (fem.Function(V), fem.Function(V), fem.Function(V), fem.Function(V), ufl.TestFunction(V))
bcs = [relax.clamp_boundary(V)]
R = c**2 * inner(grad(u), grad(v)) * dx + DAMPING * w * v * dx
energy = (w**2 + c**2 * inner(grad(u), grad(u))) / 2 * dx


def bump(x):
    return np.sin(np.pi * x[0]) * np.sin(2 * np.pi * x[1])


march = relax.newmark_evolution(
    R, 1.0, u, initial=bump, initial_velocity=w_0, velocity=w, dt=DT, num_steps=NUM_STEPS, controls=[c], bcs=bcs
)
G = relax.ReducedMap(march, relax.AtSteps(relax.Functional(energy), [5, NUM_STEPS]))


def plain():
    a, seen = fem.Function(V), []
    u.interpolate(bump)
    w.x.array[:] = w_0.x.array
    linear(a * v * dx + R, a, bcs)()
    u_1, w_1, a_1 = (fem.Function(V) for _ in range(3))
    motion = ufl.replace(R, {u: u_1 + DT**2 / 4 * a, w: w_1 + DT / 2 * a})
    solve = linear(a * v * dx + motion, a, bcs)
    for i in range(1, NUM_STEPS + 1):
        u_1.x.array[:] = u.x.array + DT * w.x.array + DT**2 / 4 * a.x.array
        w_1.x.array[:] = w.x.array + DT / 2 * a.x.array
        solve()
        u.x.array[:], w.x.array[:] = u_1.x.array + DT**2 / 4 * a.x.array, w_1.x.array + DT / 2 * a.x.array
        seen += [integral(energy)] if i in (5, NUM_STEPS) else []
    return seen


compare(G, [bump, lambda x: 1.0 + 0.2 * x[0]], [lambda x: x[1] * bump(x), lambda x: np.cos(x[1])], plain)
