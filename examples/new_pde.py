"""A PDE of your own: -Δu + rate u³ = m, with every derivative and MPI for nothing. Run: python3 examples/new_pde.py"""

import sys

import relax
import numpy as np
import ufl
from dolfinx import fem


def cubic_reaction(mesh, *, rate=1.0, degree=1):
    """-Δu + rate u³ = m in the domain, u = 0 on its boundary (dimensionless); the source m is the control."""
    V = fem.functionspace(mesh, ("Lagrange", degree))
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    m = fem.Function(V, name="source")
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + (rate * u**3 - m) * v) * ufl.dx
    return relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name="cubic_reaction")


if __name__ == "__main__":
    relax.init(sys.argv)
    problem = cubic_reaction(relax.meshes.unit_square(16))
    G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space))
    report = relax.check_map(G)  # Taylor orders 2 and 3, adjoint identity, Hessian symmetry, cost

    m = relax.control_values(G, lambda x: 20.0 * np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]))
    with G.linearize(m) as lin:  # lin.value is G(m)
        gradient = lin.vjp(lin.value)  # of ½ |u|²: one adjoint solve, with the factor of the forward one
        slope, curvature = lin.jvp(m), lin.hvp(lin.value, m)  # leading axes are more directions
        assert np.isclose(G.dot(gradient, m), lin.value @ slope)
    assert curvature.shape == m.shape
    assert report.first_order > 1.9 and report.second_order > 2.9
