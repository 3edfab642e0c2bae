"""The stationary viscous Hamilton–Jacobi equation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import ufl
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import Mesh

from relax.base.checks import AT_LEAST_0, number_in
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.errors import BadInput
from relax.pdes.hamilton_jacobi.arguments import check_beta, check_stabilisation
from relax.pdes.hamilton_jacobi.stabilisation import OVERSHOOTS, easy_beta, largest_cell, upwind_viscosity, value_range
from relax.pdes.shared.boundary_data import BoundaryData, conditions
from relax.pdes.shared.spaces import lagrange
from relax.problem.continuation import Continuation
from relax.problem.problem import Problem

NAME = "hamilton_jacobi_steady"


def viscous(
    mesh: Mesh,
    f: Coefficient,
    *,
    beta: float,
    discount: float = 1.0,
    dirichlet: BoundaryData | None = None,
    degree: int = 1,
    stabilisation: Literal["auto"] | bool = "auto",
) -> Problem:
    """discount u + ½ |grad u|² - (1/(2 beta)) Lap u = f in the domain, u = g on Gamma_D, du/dn = 0 elsewhere.

    Collective. Dimensionless. The control is f, a field in the space of u. u is the value function of the steering
    dx = -alpha ds + beta^(-½) dW at the discounted cost E ∫ exp(-discount s) [f(x) + ½ |alpha|²] ds, to the time when x
    meets Gamma_D, where g is paid. With discount = 1/t and f = (landscape)/t it is one implicit Euler step of length t
    of the equation in time; with discount = 0, f = ½ and g = 0 it tends to the distance to Gamma_D as beta grows.
    Weakly: (discount u + ½ |grad u|² - f, v) + (1/(2 beta)) (grad u, grad v) = 0 for all v that vanish on Gamma_D.

    Newton's method starts from what ``problem.state`` holds, zero here, with continuation in beta where that fails.
    Where the cell Péclet number h beta |grad u| is above 2 anywhere the equations take up the viscosity that cells lack
    and, for degree 1, the rule of the vertices, as :func:`viscous_evolution` does.

    Args:
        mesh: the mesh.
        f: the running cost: a number, a function of x, or a UFL expression, taken as it is now.
        beta: the inverse temperature, above 0.
        discount: at least 0; above 0 where no part is clamped.
        dirichlet: tag -> g; no such part by default.
        degree: polynomial degree of u.
        stabilisation: "auto" where the cell Péclet number is above 2 for slopes of (2 (max f - min(f, discount g)))^½,
            their bound for large beta where boundary values can be met without a layer, with f as it is given here.

    Raises:
        BadInput, BadProblem: on every rank, for what does not fit.
    """
    beta, discount = check_beta(NAME, beta), number_in(discount, AT_LEAST_0, f"{NAME}: discount")
    check_stabilisation(NAME, stabilisation)
    if discount == 0.0 and not dirichlet:
        raise BadInput(
            f"{NAME}: with discount = 0 and no clamped part u is known up to a constant at most; expected a discount "
            "above 0, or dirichlet={'left': 0.0, ...}"
        )
    V = lagrange(NAME, mesh, degree)
    bcs = conditions(NAME, V, dirichlet or {}, may_float=True)
    cost = interpolated(f, V)
    cost.name = "cost"
    speed = _slopes(cost, bcs, discount)
    peclet = largest_cell(V) * beta * speed
    stabilised = peclet > OVERSHOOTS if stabilisation == "auto" else bool(stabilisation)
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    register = fem.Constant(mesh, default_scalar_type(beta))
    nu, p = 1 / (2 * register), ufl.grad(u)
    rule = {"quadrature_rule": "vertex", "quadrature_degree": 1} if stabilised and degree == 1 else {}
    rate = fem.Constant(mesh, default_scalar_type(discount))
    residual = (rate * u - cost) * v * ufl.dx(domain=mesh, metadata=rule)
    residual += ufl.inner(p, p) / 2 * v * ufl.dx + nu * ufl.inner(p, ufl.grad(v)) * ufl.dx
    if stabilised:
        residual += upwind_viscosity(u, v, nu)
    path = Continuation(register, easy_beta(beta, speed, V))
    return Problem(residual=residual, state=u, controls=[cost], bcs=bcs, name=NAME, continuation=path)


def _slopes(cost: fem.Function, bcs: list[fem.DirichletBC], discount: float) -> float:
    """(2 (max f - min(f, discount g)))^½; f itself is no floor where there is no discount. Collective."""
    least, largest = value_range(cost)
    if not np.isfinite([least, largest]).all():
        raise BadInput(f"{NAME}: f: expected finite values, got values from {least:g} to {largest:g}")
    floor = 0.0
    if discount > 0.0:
        given = cost.copy()
        for bc in bcs:
            bc.set(given.x.array, None, discount)
        floor = min(least, value_range(given)[0])
    return float(np.sqrt(2.0 * max(largest - floor, 0.0)))
