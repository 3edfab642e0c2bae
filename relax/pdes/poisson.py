"""Poisson's equation, with the conductivity or the source as control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax import meshes, parallel
from relax.boundary import clamp, clamp_boundary
from relax.coefficients import Coefficient, as_coefficient
from relax.errors import BadInput
from relax.meshes import Tag
from relax.problem import Problem

BoundaryData: TypeAlias = Mapping[Tag, Coefficient]


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
    V = fem.functionspace(mesh, ("Lagrange", degree))
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
    V = fem.functionspace(mesh, ("Lagrange", degree))
    m = fem.Function(V, name="source")
    k = as_coefficient(conductivity, V)
    _check_positive(k, V)
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
    for tag, q in (neumann or {}).items():
        residual -= as_coefficient(q, V) * v * meshes.ds(V.mesh, tag)
    return Problem(residual=residual, state=u, controls=[control], bcs=_conditions(V, dirichlet, neumann), name=name)


def _conditions(
    V: fem.FunctionSpace, dirichlet: BoundaryData | None, neumann: BoundaryData | None
) -> list[fem.DirichletBC]:
    if dirichlet is None:
        if neumann:
            raise BadInput(
                "poisson: got neumann= without dirichlet=, which alone clamps the whole boundary to 0; "
                "name the clamped part, such as dirichlet={'left': 0.0}"
            )
        return [clamp_boundary(V)]
    if not dirichlet:
        raise BadInput("poisson: expected a clamped part, got dirichlet={}: u would be known up to a constant only")
    both = set(dirichlet) & set(neumann or {})
    if both:
        raise BadInput(f"poisson: {sorted(map(str, both))} are in dirichlet= and in neumann=; expected one of them")
    return [clamp(V, tag, value) for tag, value in dirichlet.items()]


def _check_positive(k: Expr, V: fem.FunctionSpace) -> None:
    """Refuse a conductivity known to be zero or less somewhere; a UFL expression is taken on trust. Collective."""
    if isinstance(k, fem.Function):
        values = k.x.array
    elif isinstance(k, fem.Constant):
        values = np.asarray(k.value)
    else:
        return
    least = -parallel.largest(V.mesh.comm, float(np.max(-values, initial=-np.inf)))
    if not least > 0.0:
        raise BadInput(f"poisson.source: expected a conductivity above 0 everywhere, got {least:g} at the least")
