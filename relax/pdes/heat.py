"""The heat equation, with the initial state and the source as controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh

from relax.base.fem.coefficients import Coefficient, as_coefficient
from relax.pdes.shared.boundary_data import BoundaryData, check_positive, conditions, minus_fluxes
from relax.pdes.shared.in_time import chosen, given_or_control, initial_state, with_controls
from relax.pdes.shared.spaces import lagrange
from relax.problem.evolution import Evolution
from relax.problem.theta import theta_evolution


def evolution(
    mesh: Mesh,
    *,
    initial: Coefficient = 0.0,
    source: Coefficient = 0.0,
    conductivity: Coefficient = 1.0,
    dt: float,
    num_steps: int,
    theta: float | Literal["midpoint", "bdf2"] = 0.5,
    degree: int = 1,
    dirichlet: BoundaryData | None = None,
    neumann: BoundaryData | None = None,
    controls: str | Sequence[str] = ("initial",),
    time: fem.Constant | None = None,
    start: float = 0.0,
) -> Evolution:
    """u_t - div(k grad u) = s in the domain, u = g on Gamma_D, k du/dn = q on Gamma_N, q = 0 elsewhere, from u = u_0.

    Collective. Dimensionless. Weakly: find u with u = g on Gamma_D such that, for all v that vanish there,
    (u_t, v) + (k grad u, grad v) = (s, v) + (q, v)_Gamma_N, in steps of :func:`relax.theta_evolution`. The operator is
    the same in all steps, unless ``time`` stands in k: one factorisation serves all runs and their derivatives.

    Controls, each the whole of what it is named after, with the values given here to start from:

    - ``"initial"``: u_0, a field in the space of u;
    - ``"source"``: s, one field in the space of u, the same in all steps;
    - ``"source_per_step"``: s, one such field for each step, constant within it; instead of ``"source"``.

    Args:
        mesh: the mesh.
        initial: u_0, a number, a function of x, or a UFL expression, taken as they are now.
        source: s, a number, a function of x, or a UFL expression, in which ``time`` may stand.
        conductivity: k > 0, likewise.
        dt: the length of a step.
        num_steps: how many.
        theta: 1 for backward Euler, ½ for Crank–Nicolson, "midpoint" or "bdf2"; as in :func:`relax.theta_evolution`.
        degree: polynomial degree of u.
        dirichlet: tag -> g, in which ``time`` may stand: each step ends with its value there. The whole boundary at 0
            when not given, ``{}`` for no such part.
        neumann: tag -> q, in which ``time`` may stand.
        controls: names, in the order of the control vector.
        time: the scalar Constant that stands for t in UFL expressions of s, g, q and k: ``fem.Constant(mesh, 0.0)``.
        start: the time of u_0.

    Raises:
        BadInput, BadProblem: on every rank, for what does not fit.
    """
    wanted = chosen("heat", controls, ("initial", "source", "source_per_step"))
    V = lagrange("heat", mesh, degree)
    k = as_coefficient(conductivity, V)
    check_positive("heat: expected a conductivity", k, V)
    s, control = given_or_control("heat", "source", source, V, wanted, time)
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    u_0, bcs = initial_state(initial, V), conditions("heat", V, dirichlet, neumann, may_float=True)
    weak = ufl.inner(k * ufl.grad(u), ufl.grad(v)) * ufl.dx - s * v * ufl.dx
    weak = minus_fluxes(weak, V, v, neumann)
    plain = theta_evolution(
        weak, u, initial=u_0, dt=dt, num_steps=num_steps, theta=theta, bcs=bcs, time=time, start=start, name="heat"
    )
    return with_controls(plain, wanted, control)
