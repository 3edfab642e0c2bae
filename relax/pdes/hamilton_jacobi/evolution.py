"""The viscous Hamilton–Jacobi equation in time, solved as it stands or by the substitution of Cole and Hopf."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import ufl
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import Mesh
from ufl.constantvalue import Zero
from ufl.core.expr import Expr

from relax.base.checks import at_least, positive
from relax.base.fem.coefficients import Coefficient, as_coefficient
from relax.errors import BadInput
from relax.pdes.hamilton_jacobi.arguments import check_beta, check_stabilisation
from relax.pdes.hamilton_jacobi.cole_hopf import SMALLEST, ColeHopf
from relax.pdes.hamilton_jacobi.stabilisation import (
    OVERSHOOTS,
    easy_beta,
    largest_cell,
    largest_size,
    largest_slope,
    upwind_viscosity,
    value_range,
)
from relax.pdes.shared.in_time import initial_state
from relax.pdes.shared.spaces import lagrange
from relax.problem.continuation import Continuation
from relax.problem.evolution import Evolution
from relax.problem.theta import theta_evolution

Route = Literal["direct", "cole_hopf", "auto"]
Theta = float | Literal["midpoint"]

NAME = "hamilton_jacobi"
# Cell Péclet numbers h beta |grad u|: Cole–Hopf with the consistent mass matrix loses positivity above the first, and
# is as accurate as the direct route below the second.
_NEGATIVE, _ACCURATE = 1.0, 0.4


def viscous_evolution(
    mesh: Mesh,
    f: Coefficient,
    *,
    beta: float,
    t: float,
    num_steps: int,
    route: Route = "direct",
    theta: Theta | None = None,
    degree: int = 1,
    stabilisation: Literal["auto"] | bool = "auto",
    drift_potential: Coefficient | None = None,
) -> Evolution:
    """u_s = -½ |grad u|² - grad g · grad u + (1/(2 beta)) Lap u for 0 < s <= t, du/dn = 0 on the boundary, u = f at 0.

    Collective. Dimensionless. The one control is f, a field in the space of u. Without g, u(x, s) is the local entropy

        u(x, s) = -(1/beta) log E exp(-beta f(x + (s/beta)^½ Z)),   Z normal,

    on a domain that is wide enough: with walls the error inside decays like the normal density, so leave some five
    times (t/beta)^½ beside t times the largest slope. With the potential g, u is the value function of steering
    dx = -(grad g + alpha) ds + beta^(-½) dW at the cost E [f(x_t) + ½ ∫ |alpha|² ds], s being the time to go, and
    alpha = grad u is optimal (Chaudhari et al. 2017).

    Route "direct": (u_s, v) + ½ (|grad u|², v) + (grad g · grad u, v) + (1/(2 beta)) (grad u, grad v) = 0 for all v by
    :func:`relax.theta_evolution`, each step by Newton's method, with continuation in beta where that fails. Where the
    cell Péclet number h beta |grad u + grad g| is above 2 these equations overshoot; then the viscosity that a cell
    lacks and (for degree 1) a lumped mass matrix keep extremes and slopes from growing, for theta = 1 and any beta: on
    intervals the steps are monotone, in the plane and on lattices in space nearly so (weights of the adjoint above
    -1e-6 of the largest) where no angle is obtuse. The error is of second order in h where h beta |grad u| is well
    below 2 (intervals: 4), and of first order elsewhere.

    Route "cole_hopf": phi = exp(-beta (u - min f)) at every node solves
    phi_s = -grad g · grad phi + (1/(2 beta)) Lap phi, one linear solve a step with a factor that is kept; ∫ phi is
    conserved to rounding where there is no g. The control, observables and trajectories are those of u all the same.
    With degree 1 and a cell Péclet number above 1 the mass matrix is lumped, so that phi stays positive, without a
    drift, on meshes without obtuse angles. It refuses where phi would lose its digits, that is where
    beta (max f - min f) is above some 24, and where h beta |grad g| is above 2. A shift s(x) in place of min f would
    serve as long as beta |u - s| is below that; but u flattens, so s would have to follow it, and each new s is another
    matrix and another factor, which is what a step of the direct route costs, and that has no such bound.
    ``evolution.state`` holds u after a call and in a trajectory, and phi after a derivative.

    Route "auto": "cole_hopf" where the cell Péclet number is below 0.4 and phi keeps its digits, else "direct".

    Args:
        mesh: the mesh.
        f: the landscape: a number, a function of x, or a UFL expression, taken as it is now.
        beta: the inverse temperature, above 0: Gibbs weights are exp(-beta f), the viscosity is 1/(2 beta).
        t: the time to the last step.
        num_steps: how many steps of equal length.
        route: "direct", "cole_hopf" or "auto".
        theta: 1 for backward Euler, ½ for Crank–Nicolson, "midpoint"; None is 1 where the equations are stabilised or
            lumped, and ½ elsewhere. Stabilised steps of length k keep their weights with 1 - 1/(k L) or more, too, L
            being the largest ratio of a diagonal entry of the spatial equations to that of the lumped mass: errors were
            smaller by 1 % in the plane and by 30 % on a line. That is no default, because L is larger where another f,
            the control, is steeper.
        degree: polynomial degree of u.
        stabilisation: of the direct route; "auto" where the cell Péclet number of f as it is given here is above 2.
        drift_potential: g, as f, but live where it is a Function; None for no drift.

    Raises:
        BadInput, BadProblem: on every rank, for what does not fit, and for "cole_hopf" where phi would lose its digits.
    """
    beta, t = check_beta(NAME, beta), positive(t, f"{NAME}: t")
    if route not in ("direct", "cole_hopf", "auto"):
        raise BadInput(f"{NAME}: route: expected 'direct', 'cole_hopf' or 'auto', got {route!r}")
    check_stabilisation(NAME, stabilisation)
    V = lagrange(NAME, mesh, degree)
    initial = initial_state(f, V)
    drift, drift_speed = _drift(drift_potential, V)
    speed = largest_slope(initial, V) + drift_speed
    peclet, drift_peclet = largest_cell(V) * beta * speed, largest_cell(V) * beta * drift_speed
    least, largest = value_range(initial)
    if not np.isfinite([least, largest, speed]).all():
        raise BadInput(
            f"{NAME}: f: expected finite values with finite slopes, got values from {least:g} to {largest:g}"
        )
    exponent, allowed = beta * (largest - least), -float(np.log(SMALLEST))
    if route == "auto":
        route = "cole_hopf" if peclet <= _ACCURATE and exponent <= allowed else "direct"
    if route == "cole_hopf" and drift_peclet > OVERSHOOTS:
        raise BadInput(
            f"{NAME}: route='cole_hopf': expected h beta |grad g| of at most {OVERSHOOTS:g}, got {drift_peclet:.3g}: "
            "the equation of phi would overshoot. Use route='direct', or a finer mesh"
        )
    if route == "cole_hopf" and exponent > allowed:
        raise BadInput(
            f"{NAME}: route='cole_hopf': phi = exp(-beta (u - min f)) would lose its digits: beta (max f - min f) is "
            f"{exponent:.3g}, expected at most {allowed:.3g}. Use route='direct'"
        )
    setting = _Setting(initial, beta, t, num_steps, theta, drift, speed)
    if route == "cole_hopf":
        return setting.cole_hopf(lumped=degree == 1 and peclet > _NEGATIVE, shift=least)
    stabilised = peclet > OVERSHOOTS if stabilisation == "auto" else bool(stabilisation)
    return setting.direct(stabilised=stabilised)


@dataclass(frozen=True)
class _Setting:
    """What both routes share."""

    initial: fem.Function
    beta: float
    t: float
    num_steps: int
    theta: Theta | None
    drift: Expr | None
    speed: float

    def direct(self, *, stabilised: bool) -> Evolution:
        """Steps in u. Collective."""
        V = self.initial.function_space
        u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
        beta = fem.Constant(V.mesh, default_scalar_type(self.beta))
        nu, p = 1 / (2 * beta), ufl.grad(u)
        weak = nu * ufl.inner(p, ufl.grad(v)) * ufl.dx + (ufl.inner(p, p) / 2 + self._drifted(p)) * v * ufl.dx
        if stabilised:
            weak += upwind_viscosity(u, v, nu, self.drift)
        lumped = stabilised and V.ufl_element().degree == 1
        evolution = self._evolution(weak, u, lumped=lumped, implicit=stabilised)
        path = Continuation(beta, easy_beta(self.beta, self.speed, V))
        return replace(evolution, step=replace(evolution.plain_step, continuation=path))

    def cole_hopf(self, *, lumped: bool, shift: float) -> Evolution:
        """Steps in phi. Collective."""
        V = self.initial.function_space
        phi, v = fem.Function(V, name="u"), ufl.TestFunction(V)
        # A Constant, not a number: forms are compiled once for all beta.
        beta = fem.Constant(V.mesh, default_scalar_type(self.beta))
        weak = ufl.inner(ufl.grad(phi), ufl.grad(v)) / (2 * beta) * ufl.dx
        if self.drift is not None:
            weak += self._drifted(ufl.grad(phi)) * v * ufl.dx
        evolution = self._evolution(weak, phi, lumped=lumped, implicit=lumped)
        return replace(evolution, substitution=ColeHopf(self.beta, shift))

    def _drifted(self, p: Expr) -> Expr | float:
        return 0.0 if self.drift is None else ufl.inner(self.drift, p)

    def _evolution(self, weak: ufl.Form, u: fem.Function, *, lumped: bool, implicit: bool) -> Evolution:
        theta = (1.0 if implicit else 0.5) if self.theta is None else self.theta
        if isinstance(theta, str) and theta != "midpoint":
            raise BadInput(f"{NAME}: theta: expected a number above 0 and at most 1, 'midpoint' or None, got {theta!r}")
        dt = self.t / at_least(self.num_steps, 1, f"{NAME}: num_steps")
        return theta_evolution(
            weak, u, initial=self.initial, dt=dt, num_steps=self.num_steps, theta=theta, lumped=lumped, name=NAME
        )


def _drift(potential: Coefficient | None, V: fem.FunctionSpace) -> tuple[Expr | None, float]:
    """grad g and its largest length; (None, 0) where there is none. Collective."""
    if potential is None:
        return None, 0.0
    if isinstance(potential, fem.Function):
        space = potential.function_space
        if space.mesh is not V.mesh or space.value_shape or int(space.ufl_element().degree) < 1:
            raise BadInput(
                f"{NAME}: drift_potential: expected a scalar Function of degree 1 or more on the mesh of the equation, "
                f"got {potential.name!r}; interpolate it there first"
            )
    drift = ufl.grad(as_coefficient(potential, V))
    if isinstance(drift, Zero):
        return None, 0.0
    speed = largest_size(drift, V)
    if not np.isfinite(speed):
        raise BadInput(f"{NAME}: drift_potential: expected finite slopes, got {speed:g}")
    return drift, speed
