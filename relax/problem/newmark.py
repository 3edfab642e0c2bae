"""Time steps of equations with u_tt: Newmark's method and generalised-alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import ufl
from dolfinx import fem
from ufl.core.expr import Expr

from relax.base.checks import as_number, of_kind, several
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.forms import Control
from relax.base.fem.pointwise import replaced
from relax.errors import BadProblem
from relax.problem.boundary import homogeneous
from relax.problem.data import StepValues, at_steps, held_before
from relax.problem.evolution import Evolution
from relax.problem.evolution_checks import steps_of
from relax.problem.problem import Problem, check_control
from relax.problem.stages import Combination, Weight, stands_in


def newmark_evolution(
    residual: ufl.Form,
    mass: ufl.Form | float | Expr,
    state: fem.Function,
    *,
    initial: Coefficient | fem.Function,
    initial_velocity: Coefficient | fem.Function = 0.0,
    initial_acceleration: Coefficient | fem.Function | None = None,
    dt: float | fem.Constant | None = None,
    num_steps: int = 0,
    alpha_m: float = 0.0,
    alpha_f: float = 0.0,
    beta: float | None = None,
    gamma: float | None = None,
    velocity: fem.Function | None = None,
    controls: Sequence[Control] = (),
    per_step: Sequence[Control] = (),
    data: Mapping[Control, Any] | None = None,
    bcs: Sequence[fem.DirichletBC] = (),
    mpc: Any = None,
    time: fem.Constant | None = None,
    start: float = 0.0,
    times: npt.ArrayLike | None = None,
    initial_is_fixed: bool = False,
    name: str = "pde",
) -> Evolution:
    """M(u_tt; v) + R(u, u_t, m, t; v) = 0 for all v, with u and u_t given at the start, in steps of length dt.

    Collective. Newmark's method (1959), with k = dt: u_n solves the equation with a = u_tt and w = u_t,

        u_n = u_{n-1} + k w_{n-1} + k² [(½ - β) a_{n-1} + β a_n],   w_n = w_{n-1} + k [(1 - γ) a_{n-1} + γ a_n].

    Generalised-alpha (Chung and Hulbert 1993): M is that of (1 - α_m) a_n + α_m a_{n-1}, and what else stands in M and
    R, u, u_t, data and t, is taken at (1 - α_f) of the end of the step and α_f of its beginning. β = ¼ and γ = ½ with
    both α zero is the trapezoidal rule, which keeps the energy of linear equations; of second order, with damping of
    high frequencies alone, are α_m = (2r - 1)/(r + 1), α_f = r/(r + 1) for r in [0, 1]. The states of the evolution are
    u, u_tt, u_t: an observable that names none of them sees u.

    Args:
        residual: R, a UFL form in the state, in ``velocity`` where there is damping, and one test function.
        mass: M, a bilinear UFL form in a trial and the test function; or a density ρ, a number or UFL: ρ u_tt · v dx.
        state: u.
        initial: u at the start, as in :class:`relax.Evolution`: a Function is a control, unless ``initial_is_fixed``.
        initial_velocity: u_t at the start, likewise.
        initial_acceleration: u_tt at the start, likewise; left out, it solves the equation there, zero where values are
            clamped.
        dt: the length of a step: a number, or a scalar Constant, which stays live and can be no control.
        num_steps: how many; left out with ``times``.
        alpha_m: α_m, below 1.
        alpha_f: α_f in [0, 1).
        beta: β; (1 + α_f - α_m)²/4 when left out.
        gamma: γ; ½ + α_f - α_m when left out: of second order.
        velocity: a Function in the space of the state that stands for u_t in R and in observables.
        controls: Functions and Constants in R, in M, or values of boundary conditions.
        per_step: those of ``controls`` with one value per step.
        data: values that change from step to step, as in :class:`relax.Evolution`.
        bcs: Dirichlet conditions of u, the same in each step.
        mpc: values of u that follow others, as in :class:`relax.Problem`.
        time: the scalar Constant in R that stands for t.
        start: the time of the start.
        times: of steps of any lengths, as in :class:`relax.Evolution`.
        initial_is_fixed: Functions at the start are data, not controls.
        name: as in :class:`relax.Problem`; the equation at the start has the name ``<name>_start``.

    Raises:
        BadProblem: when these do not fit together, on every rank.
    """
    if not isinstance(residual, ufl.Form) or len(residual.arguments()) != 1:
        raise BadProblem("residual: expected a UFL form in one test function; u_tt is added to it here")
    of_kind(state, fem.Function, "a dolfinx.fem.Function", "state")
    V, (v,) = state.function_space, residual.arguments()
    alpha_m, alpha_f, beta, gamma = _parameters(alpha_m, alpha_f, beta, gamma)
    k, N = steps_of(dt, num_steps, times, V.mesh)
    controls = several(controls, "Functions and Constants", "controls")
    for i, control in enumerate(controls):
        check_control(control, V.mesh, f"controls[{i}]")
    w = fem.Function(V, name="velocity") if velocity is None else velocity
    if not isinstance(w, fem.Function) or w.function_space != V or w is state:
        raise BadProblem("velocity: expected a Function in the space of the state that stands for u_t")
    a = fem.Function(V, name="acceleration")
    u_1, a_1, w_1 = (fem.Function(V, name=f"previous_{f.name}") for f in (state, a, w))
    M = _mass(mass, v, V)

    # u_tt and u_t at the end of the step, by u.
    a_n = (state - u_1) / (beta * k**2) - w_1 / (beta * k) - (1 / (2 * beta) - 1) * a_1
    w_n = w_1 + k * ((1 - gamma) * a_1 + gamma * a_n)
    given: dict[Control, StepValues] = dict(at_steps({} if data is None else data, N, V.mesh.comm))
    moved: dict[Any, Any] = {state: _between(alpha_f, state, u_1), w: _between(alpha_f, w_n, w_1)}
    if time is not None:
        moved[time] = time - alpha_f * k
    whole = M(a) + residual
    if alpha_f:
        moved |= {f: _between(alpha_f, f, copy) for f, copy in held_before(given, whole, V.mesh).items()}
    step = replaced(whole, {**moved, a: _between(alpha_m, a_n, a_1)})
    starts = [f for f in (initial, initial_velocity, initial_acceleration) if isinstance(f, fem.Function)]
    own = [c for c in controls if stands_in(c, step, bcs) or not any(c is f for f in starts)]
    problem = Problem(residual=step, state=state, controls=own, bcs=bcs, name=name, mpc=mpc)
    first: Any = initial_acceleration
    if first is None:
        balance = replaced(whole, {state: u_1, w: w_1, a: a_1})
        still = [homogeneous(bc, V) for bc in bcs]
        seen = [c for c in own if stands_in(c, balance, still)]
        first = Problem(residual=balance, state=a_1, controls=seen, bcs=still, name=f"{name}_start", mpc=mpc)
    by_u: list[tuple[fem.Function, Weight]] = [
        (state, lambda k: 1 / (beta * k**2)), (u_1, lambda k: -1 / (beta * k**2)), (w_1, lambda k: -1 / (beta * k)),
        (a_1, 1 - 1 / (2 * beta)),
    ]  # fmt: skip
    by_a: list[tuple[fem.Function, Weight]] = [(w_1, 1.0), (a_1, lambda k: k * (1 - gamma)), (a, lambda k: k * gamma)]
    return Evolution(
        step=[problem, Combination(a, by_u), Combination(w, by_a)], previous=[u_1, a_1, w_1],
        initial=[initial, first, initial_velocity], num_steps=num_steps, per_step=per_step, data=given, time=time, dt=k,
        start=start, times=times, initial_is_fixed=initial_is_fixed,
    )  # fmt: skip


def _parameters(
    alpha_m: float, alpha_f: float, beta: float | None, gamma: float | None
) -> tuple[float, float, float, float]:
    a_m, a_f = as_number(alpha_m), as_number(alpha_f)
    if not (a_m < 1.0 and 0.0 <= a_f < 1.0):
        raise BadProblem(
            f"alpha_m, alpha_f: expected numbers below 1, alpha_f of at least 0, got {alpha_m!r}, {alpha_f!r}"
        )
    b = (1.0 + a_f - a_m) ** 2 / 4.0 if beta is None else as_number(beta)
    g = 0.5 + a_f - a_m if gamma is None else as_number(gamma)
    if not (0.0 < b < float("inf") and 0.0 <= g < float("inf")):
        raise BadProblem(
            f"beta, gamma: expected finite numbers, beta above 0 and gamma of at least 0, got {b!r}, {g!r}"
        )
    return a_m, a_f, b, g


def _between(alpha: float, end: Any, beginning: Any) -> Any:
    return (1 - alpha) * end + alpha * beginning if alpha else end


def _mass(mass: Any, v: ufl.Argument, V: fem.FunctionSpace) -> Any:
    """M as a function of u_tt.

    Raises:
        BadProblem: for what is neither a bilinear form in the state's space nor a density.
    """
    if isinstance(mass, ufl.Form):
        arguments = mass.arguments()
        if len(arguments) != 2 or any(argument.ufl_function_space() != V for argument in arguments):
            raise BadProblem("mass: expected a form in a trial and a test function of the state's space")
        # The test function may have been made anew: it is the same one to UFL.
        return lambda a: ufl.replace(mass, {arguments[1]: a, arguments[0]: v})
    is_number = as_number(mass) > 0.0
    if not is_number and not (isinstance(mass, Expr) and not mass.ufl_shape):
        raise BadProblem(
            f"mass: expected a bilinear form, or a density: a number above 0 or a UFL scalar; got {mass!r:.80}"
        )
    return lambda a: mass * ufl.inner(a, v) * ufl.dx(domain=V.mesh)
