"""Poisson's equation, with the conductivity or the source as control."""

from __future__ import annotations

import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base.fem.coefficients import Coefficient, as_coefficient
from relax.pdes.shared.boundary_data import BoundaryData, check_positive, conditions, minus_fluxes
from relax.pdes.shared.spaces import lagrange
from relax.problem.problem import Problem


def diffusion(
    mesh: Mesh,
    *,
    source: Coefficient = 1.0,
    degree: int = 1,
    dirichlet: BoundaryData | None = None,
    neumann: BoundaryData | None = None,
) -> Problem:
    """-div(exp(m) grad u) = f in the domain, u = g on Gamma_D, exp(m) du/dn = q on Gamma_N, and q = 0 elsewhere.

    Collective. Dimensionless. Weakly: find u with u = g on Gamma_D such that, for all v that vanish there,
    (exp(m) grad u, grad v) = (f, v) + (q, v)_Gamma_N. The control is m, the logarithm of the conductivity, piecewise
    linear and initially 0.

    Args:
        mesh: the mesh.
        source: f, a number, a function of x, or a UFL expression.
        degree: polynomial degree of u.
        dirichlet: tag -> g; the whole boundary at 0 when not given.
        neumann: tag -> q.
    """
    V = lagrange("poisson", mesh, degree)
    m = fem.Function(fem.functionspace(mesh, ("Lagrange", 1)), name="log_conductivity")
    f = as_coefficient(source, V)
    return _problem("poisson_diffusion", V, ufl.exp(m), f, m, dirichlet, neumann)


def source(
    mesh: Mesh,
    *,
    conductivity: Coefficient = 1.0,
    degree: int = 1,
    dirichlet: BoundaryData | None = None,
    neumann: BoundaryData | None = None,
) -> Problem:
    """-div(k grad u) = m in the domain, u = g on Gamma_D, k du/dn = q on Gamma_N, and q = 0 elsewhere.

    Collective. Dimensionless. Weakly: find u with u = g on Gamma_D such that, for all v that vanish there,
    (k grad u, grad v) = (m, v) + (q, v)_Gamma_N. The control is the source m, in the space of u and initially 0.

    Args:
        mesh: the mesh.
        conductivity: k > 0, a number, a function of x, or a UFL expression.
        degree: polynomial degree of u and m.
        dirichlet: tag -> g; the whole boundary at 0 when not given.
        neumann: tag -> q.
    """
    V = lagrange("poisson", mesh, degree)
    m = fem.Function(V, name="source")
    k = as_coefficient(conductivity, V)
    check_positive("poisson.source: expected a conductivity", k, V)
    return _problem("poisson_source", V, k, m, m, dirichlet, neumann)


def _problem(
    name: str,
    V: fem.FunctionSpace,
    k: Expr,
    f: Expr,
    control: fem.Function,
    dirichlet: BoundaryData | None,
    neumann: BoundaryData | None,
) -> Problem:
    """-div(k grad u) = f with this boundary data."""
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    residual = ufl.inner(k * ufl.grad(u), ufl.grad(v)) * ufl.dx - f * v * ufl.dx
    residual = minus_fluxes(residual, V, v, neumann)
    bcs = conditions("poisson", V, dirichlet, neumann)
    return Problem(residual=residual, state=u, controls=[control], bcs=bcs, name=name)
