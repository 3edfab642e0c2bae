"""Burgers' equation with viscosity, in one to three dimensions, with the initial state and the force as controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem.coefficients import Coefficient, as_coefficient, interpolated
from relax.errors import BadInput
from relax.pdes.shared.boundary_data import BoundaryData, check_positive, conditions
from relax.pdes.shared.in_time import chosen, given_or_control, initial_state, with_controls
from relax.pdes.shared.sizes import cell_diameters
from relax.pdes.shared.spaces import lagrange
from relax.problem.evolution import Evolution
from relax.problem.theta import averaged, theta_evolution


def evolution(
    mesh: Mesh,
    *,
    initial: Coefficient = 0.0,
    viscosity: Coefficient,
    dt: float,
    num_steps: int,
    theta: float | Literal["midpoint", "bdf2"] = 0.5,
    degree: int = 1,
    force: Coefficient = 0.0,
    dirichlet: BoundaryData | None = None,
    supg: Literal["auto"] | bool = "auto",
    controls: str | Sequence[str] = ("initial",),
    time: fem.Constant | None = None,
    start: float = 0.0,
) -> Evolution:
    """u_t + (u · grad) u - div(nu grad u) = f in the domain, u = g on Gamma_D, nu du/dn = 0 elsewhere, from u = u_0.

    Collective. Dimensionless. u is a scalar in one dimension, u_t + u u_x = (nu u_x)_x + f, and a vector with as many
    components as there are dimensions otherwise. Weakly: find u with u = g on Gamma_D such that, for all v that vanish
    there, (u_t, v) + ((u · grad) u, v) + (nu grad u, grad v) = (f, v), in steps of :func:`relax.theta_evolution`.

    Where the cell Péclet number |u| h / (2 nu) is above 1 (h: the cell's diameter over the degree of u) these equations
    oscillate beside a steep front. With ``supg`` each step takes up

        dt (r, tau (p · grad) v),   tau = (4 |p|²/h² + (12 nu/h²)²)^(-½),   p = u_{n-1},

    summed over cells, where r is the strong residual of the step itself, u_t, nu and f included: zero for the exact
    solution of the step, so the order of the elements stays (streamline upwind, Petrov–Galerkin: Brooks and Hughes,
    Comput. Methods Appl. Mech. Engrg. 32 (1982) 199–259). The weight takes the velocity of the step before, which
    derivatives follow like any other occurrence of it. The length of a step is not in tau: with the customary 4/dt²
    short steps would switch the stabilisation off.

    Controls, each the whole of what it is named after, with the values given here to start from:

    - ``"initial"``: u_0, a field in the space of u;
    - ``"force"``: f, one field in the space of u, the same in all steps;
    - ``"force_per_step"``: f, one such field for each step, constant within it; instead of ``"force"``.

    Args:
        mesh: the mesh.
        initial: u_0, a number, a function of x, or a UFL expression, taken as they are now.
        viscosity: nu > 0, a number, a function of x, or a UFL expression.
        dt: the length of a step.
        num_steps: how many.
        theta: 1 for backward Euler, ½ for Crank–Nicolson, "midpoint" or "bdf2"; as in :func:`relax.theta_evolution`.
        degree: polynomial degree of u.
        force: f, as nu; ``time`` may stand in it.
        dirichlet: tag -> g, in which ``time`` may stand: each step ends with its value there. The whole boundary at 0
            when not given, ``{}`` for no such part.
        supg: whether to stabilise; "auto" does where :func:`cell_peclet` of u_0, with its boundary values, is above 1.
            The choice is made here once: say True where a force or a control will make u much faster.
        controls: names, in the order of the control vector.
        time: the scalar Constant that stands for t in UFL expressions of f and g: ``fem.Constant(mesh, 0.0)``.
        start: the time of u_0.

    Raises:
        BadInput, BadProblem: on every rank, for what does not fit.
    """
    wanted = chosen("burgers", controls, ("initial", "force", "force_per_step"))
    if supg not in (True, False, "auto"):
        raise BadInput(f"burgers: supg: expected True, False or 'auto', got {supg!r}")
    V = _space(mesh, degree)
    nu = as_coefficient(viscosity, lagrange("burgers", mesh, degree))
    check_positive("burgers: expected a viscosity", nu, V)
    f, control = given_or_control("burgers", "force", force, V, wanted, time)
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    u_0, bcs = initial_state(initial, V), conditions("burgers", V, dirichlet, may_float=True)
    weak = ufl.inner(_convected(u, u) - f, v) * ufl.dx + ufl.inner(nu * ufl.grad(u), ufl.grad(v)) * ufl.dx
    plain = theta_evolution(
        weak, u, initial=u_0, dt=dt, num_steps=num_steps, theta=theta, bcs=bcs, time=time, start=start, name="burgers"
    )
    if supg is True or (supg == "auto" and _fastest_start(u_0, bcs, nu) > 1.0):
        if theta == "bdf2":
            raise BadInput("burgers: supg: expected False beside theta = 'bdf2', whose steps it does not know")
        strong = _convected(u, u) - ufl.div(nu * ufl.grad(u)) - f
        plain = _stabilised(plain, strong, v, nu, theta)
    return with_controls(plain, wanted, control)


def cell_peclet(u: fem.Function, viscosity: Coefficient) -> float:
    """The largest cell Péclet number |u| h / (2 nu): largest |u| of all nodes, h the cell's diameter over u's degree.

    Collective.

    Args:
        u: a velocity, in a Lagrange space.
        viscosity: nu, as :func:`evolution` takes it; one that is not a number counts by its mean value in cells.
    """
    V = u.function_space
    domain = V.mesh
    diameters = cell_diameters(domain)
    nu = interpolated(viscosity, fem.functionspace(domain, ("DG", 0))).x.array[: len(diameters)]
    ratio = diameters / (2.0 * V.ufl_element().degree * nu)
    speed = np.linalg.norm(u.x.array.reshape(-1, V.dofmap.bs), axis=1)
    fastest, finest = (parallel.largest(domain.comm, float(np.max(each, initial=0.0))) for each in (speed, ratio))
    return fastest * finest


def _space(mesh: Mesh, degree: int) -> fem.FunctionSpace:
    dim = mesh.geometry.dim
    if mesh.topology.dim != dim:
        raise BadInput(
            f"burgers: expected a mesh that fills its space, got cells of dimension {mesh.topology.dim} in {dim} "
            "dimensions"
        )
    return lagrange("burgers", mesh, degree, () if dim == 1 else (dim,))


def _convected(a: Expr, u: Expr) -> Expr:
    """(a · grad) u."""
    return ufl.dot(ufl.grad(u), a) if u.ufl_shape else a * u.dx(0)


def _fastest_start(u_0: fem.Function, bcs: Sequence[fem.DirichletBC], nu: Expr) -> float:
    """The cell Péclet number at the start. Collective."""
    start = u_0.copy()
    for bc in bcs:
        bc.set(start.x.array)
    return cell_peclet(start, nu)


def _stabilised(
    plain: Evolution, strong: Expr, v: ufl.Argument, nu: Expr, theta: float | Literal["midpoint"]
) -> Evolution:
    """The evolution with dt (r, tau (p · grad) v) in each step. Collective.

    Args:
        plain: the evolution without.
        strong: the strong residual but u_t, in the state.
        v: the test function.
        nu: the viscosity.
        theta: of the evolution.
    """
    u, p, k = plain.state, plain.previous, plain.dt
    assert k is not None
    degree = u.function_space.ufl_element().degree
    h = ufl.CellDiameter(plain.mesh) / degree

    mean = averaged(strong, u, p, theta, plain.time, k)
    tau = (4 * ufl.inner(p, p) / h**2 + (12 * nu / h**2) ** 2) ** (-0.5)
    # tau is no polynomial: what UFL would estimate for it is far more than the order of the elements needs.
    dx = ufl.dx(metadata={"quadrature_degree": 2 * degree + 2})
    weighted = ufl.inner(u - p + k * mean, tau * _convected(p, v)) * dx
    return replace(plain, step=replace(plain.plain_step, residual=plain.plain_step.residual + weighted))
