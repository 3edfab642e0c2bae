"""The demo of dolfinx_mpc: Poisson's equation between walls, periodic along them, with its diffusivity as a control.

-div(exp(m) ∇u) = x sin(5πy) + exp(-50 ((x - 0.9)² + (y - 0.5)²)) in the unit square, u = 0 at y = 0 and y = 1 and
u(1, y) = u(0, y) (dimensionless). The constraint is made as there, and handed to the problem.

Run: python3 examples/fenicsx/periodic.py
"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem
from dolfinx_mpc import LinearProblem, MultiPointConstraint
from plain import compare, integral
from ufl import dx, grad, inner

relax.init(sys.argv)
domain = relax.meshes.unit_square(12)
V = fem.functionspace(domain, ("Lagrange", 1))
u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
x = ufl.SpatialCoordinate(domain)
f = x[0] * ufl.sin(5 * np.pi * x[1]) + ufl.exp(-50 * ((x[0] - 0.9) ** 2 + (x[1] - 0.5) ** 2))
bcs = [relax.clamp(V, ["top", "bottom"], 0.0)]
mpc = MultiPointConstraint(V)
mpc.create_periodic_constraint_geometrical(
    V, lambda x: np.isclose(x[0], 1.0), lambda x: np.array([1.0 - x[0], x[1], x[2]]), bcs
)
mpc.finalize()


def equation(u):
    return (ufl.exp(m) * inner(grad(u), grad(v)) - f * v) * dx(metadata={"quadrature_degree": 6})


problem = relax.Problem(residual=equation(u), state=u, controls=[m], bcs=bcs, mpc=mpc)
seen = [u**2 * dx, ufl.exp(m) * u.dx(0) ** 2 * dx]
G = relax.ReducedMap(problem, relax.Stack([relax.Functional(form) for form in seen]))


def plain():
    whole, lu = equation(ufl.TrialFunction(V)), {"ksp_type": "preonly", "pc_type": "lu"}
    lu["pc_factor_mat_solver_type"] = "mumps"
    found = LinearProblem(ufl.lhs(whole), ufl.rhs(whole), mpc, bcs, petsc_options=lu).solve()
    owned = V.dofmap.index_map.size_local
    u.x.array[:owned] = found.x.array[:owned]
    u.x.scatter_forward()
    return [integral(form) for form in seen]


compare(G, [lambda x: np.sin(3 * x[0]) * x[1]], [lambda x: x[0] * x[1] + 0.3], plain)
