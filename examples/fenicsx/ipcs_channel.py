"""Flow between plates by incremental pressure correction: the tutorial's channel, viscosity and pressure as controls.

ρ (u_t + u · ∇u) = div σ(u, p), div u = 0 in the unit square (dimensionless), u = 0 at the walls, p given at the ends. A
step solves for a velocity, for the pressure that makes its divergence vanish, and for the velocity then. Controls are
the viscosity and the pressure at the inlet; seen are the flux along the channel and the drag of the walls at the end.

Run: python3 examples/fenicsx/ipcs_channel.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from plain import compare, integral, linear
from ufl import FacetNormal, Identity, div, dot, ds, dx, grad, inner, nabla_grad, sym

relax.init(sys.argv)
NUM_STEPS = 50
domain = relax.meshes.unit_square(4)
n, k = FacetNormal(domain), 10.0 / 500
V, Q = (fem.functionspace(domain, element) for element in (("Lagrange", 2, (2,)), ("Lagrange", 1)))
half, u, u_n = (fem.Function(V, name=name) for name in ("tentative", "velocity", "velocity_before"))
p, p_n, g = (fem.Function(Q, name=name) for name in ("pressure", "pressure_before", "inlet"))
v, q, mu, p_in = ufl.TestFunction(V), ufl.TestFunction(Q), fem.Constant(domain, 1.0), fem.Constant(domain, 8.0)
walls = [relax.clamp(V, lambda x: np.isclose(x[1], 0) | np.isclose(x[1], 1))]
ends = [relax.clamp(Q, lambda x: np.isclose(x[0], 0), p_in), relax.clamp(Q, lambda x: np.isclose(x[0], 1))]
middle = (half + u_n) / 2
F1 = dot((half - u_n) / k, v) * dx + dot(dot(u_n, nabla_grad(u_n)), v) * dx
F1 += inner(2 * mu * sym(nabla_grad(middle)) - p_n * Identity(2), sym(nabla_grad(v))) * dx
F1 += dot(p_n * n, v) * ds - dot(mu * nabla_grad(middle) * n, v) * ds
F2 = dot(nabla_grad(p - p_n), nabla_grad(q)) * dx + div(half) / k * q * dx
F3 = dot(u - half, v) * dx + k * dot(nabla_grad(p - p_n), v) * dx
seen = [u[0] * dx, mu * grad(u)[0, 1] * n[1] * ds]

velocity = relax.Problem(residual=F1, state=half, controls=[mu], bcs=walls, name="tentative")
pressure = relax.Problem(residual=F2, state=p, controls=[p_in], bcs=ends, name="pressure")
corrected = relax.Problem(residual=F3, state=u, bcs=walls, name="velocity")
steps = [velocity, pressure, corrected]
march = relax.Evolution(step=steps, previous=[None, p_n, u_n], initial=[None, 0.0, 0.0], num_steps=NUM_STEPS)
G = relax.ReducedMap(march, relax.Stack([relax.Functional(J) for J in seen]))


def plain():
    solvers = [linear(F, w, bcs) for F, w, bcs in ((F1, half, walls), (F2, p, ends), (F3, u, walls))]
    u_n.x.array[:] = p_n.x.array[:] = 0.0
    for _ in range(NUM_STEPS):
        for solve in solvers:
            solve()
        u_n.x.array[:], p_n.x.array[:] = u.x.array, p.x.array
    return [integral(J) for J in seen]


compare(G, [1.0, 8.0], [0.1, 1.0], plain)
