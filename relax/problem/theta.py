"""Time steps from a spatial residual: backward Euler, Crank–Nicolson and what lies between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import default_scalar_type, fem
from ufl.core.expr import Expr

from relax.base.checks import as_number, of_kind, several
from relax.base.fem.coefficients import Coefficient
from relax.base.fem.forms import Control
from relax.base.fem.pointwise import replaced
from relax.base.types import Array
from relax.errors import BadProblem
from relax.problem.clock import OfLengths
from relax.problem.data import StepValues, at_steps, held_before
from relax.problem.evolution import Evolution
from relax.problem.evolution_checks import steps_of
from relax.problem.problem import Problem, check_control
from relax.problem.stages import stands_in

T = TypeVar("T", ufl.Form, Expr)


def theta_evolution(
    residual: ufl.Form,
    state: fem.Function,
    *,
    initial: Coefficient | fem.Function,
    dt: float | fem.Constant | None = None,
    num_steps: int = 0,
    theta: float | Literal["midpoint", "bdf2"] = 0.5,
    controls: Sequence[Control] = (),
    per_step: Sequence[Control] = (),
    data: Mapping[Control, Any] | None = None,
    bcs: Sequence[fem.DirichletBC] = (),
    mpc: Any = None,
    time: fem.Constant | None = None,
    start: float = 0.0,
    times: npt.ArrayLike | None = None,
    initial_is_fixed: bool = False,
    lumped: bool = False,
    name: str = "pde",
) -> Evolution:
    """(u_t, v) + R(u, m, t; v) = 0 for all test functions v, u = u_0 at the start, in steps of length dt.

    Collective. The theta-method: with k = dt and R_n = R(u_n, m_n, t_n; v),

        (u_n - u_{n-1}, v) + k [θ R_n + (1 - θ) R(u_{n-1}, m_n, t_{n-1}; v)] = 0.

    θ = 1 is backward Euler (of first order), θ = ½ Crank–Nicolson (of second order, no damping). ``"midpoint"`` is the
    implicit midpoint rule, k R((u_n + u_{n-1})/2, m_n, t_n - k/2): of second order, and it keeps quadratic invariants
    of nonlinear and of time-dependent equations. ``"bdf2"`` is the backward differentiation formula of second order,
    which damps: with w = k_n / k_{n-1}, in steps of any lengths, the first one backward Euler,

        ((1 + 2w)/(1 + w) u_n - (1 + w) u_{n-1} + w²/(1 + w) u_{n-2}, v) + k R_n = 0.

    A per-step control is constant within its step, as are data with N values; of data with a value at the start too, or
    a function of the time, R_{n-1} takes f_{n-1}, and the midpoint (f_n + f_{n-1})/2. u_t is that of the whole state:
    where a part of it has none (a pressure), write the step yourself. Boundary values that change in time are data, or
    a per-step control, as the value of a :func:`relax.clamp`.

    Args:
        residual: R, a UFL form in the state and one test function; u_t stands nowhere.
        state: u.
        initial: u_0, as in :class:`relax.Evolution`: a Function in the state's space is a control, unless
            ``initial_is_fixed``; a number, a function of x or a UFL expression is none.
        dt: the length of a step, in the units of time: a number, or a scalar Constant, which stays live. With ``times``
            a Constant, or left out.
        num_steps: how many; left out with ``times``.
        theta: θ in (0, 1], "midpoint" or "bdf2". Below ½ no step is stable for stiff equations.
        controls: Functions and Constants in R, or values of boundary conditions. The initial state need not be named.
        per_step: those of ``controls`` with one value per step.
        data: values that change from step to step, as in :class:`relax.Evolution`, of what stands in R or gives
            boundary values.
        bcs: Dirichlet conditions of the state, the same in each step.
        mpc: values of the state that follow others, as in :class:`relax.Problem`.
        time: the scalar Constant in R that stands for t.
        start: the time of u_0.
        times: of steps of any lengths, as in :class:`relax.Evolution`.
        initial_is_fixed: a Function as ``initial`` is data, not a control.
        lumped: take (u_t, v) by the rule of the vertices, which makes the mass matrix of Lagrange elements of degree 1
            diagonal.
        name: as in :class:`relax.Problem`.

    Raises:
        BadProblem: when these do not fit together, on every rank.
    """
    if theta not in ("midpoint", "bdf2") and not 0.0 < as_number(theta) <= 1.0:
        raise BadProblem(f"theta: expected a number above 0 and at most 1, 'midpoint' or 'bdf2', got {theta!r}")
    is_bdf2 = theta == "bdf2"
    theta = 1.0 if is_bdf2 else theta if theta == "midpoint" else as_number(theta)
    if not isinstance(residual, ufl.Form) or len(residual.arguments()) != 1:
        raise BadProblem("residual: expected a UFL form in one test function; u_t is added to it here")
    if not isinstance(state, fem.Function):
        raise BadProblem(f"state: expected a dolfinx.fem.Function, got {type(state).__name__}")
    k, N = steps_of(dt, num_steps, times, state.function_space.mesh)
    if initial is state:
        raise BadProblem("initial is the state itself, which the steps overwrite; expected another Function")
    controls = several(controls, "Functions and Constants", "controls")
    per_step = several(per_step, "controls", "per_step")
    for i, control in enumerate(controls):
        check_control(control, state.function_space.mesh, f"controls[{i}]")
    if time is not None:
        of_kind(time, fem.Constant, "the Constant that stands in the residual", "time")
    V, (v,) = state.function_space, residual.arguments()
    previous = fem.Function(V, name="previous")
    rule = {"quadrature_rule": "vertex", "quadrature_degree": 1} if lumped else {}
    given: dict[Control, StepValues] = dict(at_steps({} if data is None else data, N, V.mesh.comm))
    before: list[fem.Function] = [previous]
    difference = state - previous
    if is_bdf2:
        before.append(fem.Function(V, name="previous_2"))
        weights = [fem.Constant(V.mesh, default_scalar_type(0.0)) for _ in range(3)]
        given |= {c: OfLengths(c, partial(_bdf2, which=i)) for i, c in enumerate(weights)}
        difference = sum((c * u for c, u in zip(weights[1:], before, strict=True)), start=weights[0] * state)
    change = ufl.inner(difference, v) * ufl.dx(domain=V.mesh, metadata=rule)
    earlier = held_before(given, residual, V.mesh) if theta != 1.0 else {}
    form = change + k * averaged(residual, state, previous, theta, time, k, earlier)
    # The initial state may be named, and need not be.
    own = [c for c in controls if c is not initial or stands_in(c, residual, bcs)]
    if isinstance(initial, fem.Function) and not initial_is_fixed:
        is_named = any(initial is c for c in own)
        if isinstance(initial, fem.Function) and stands_in(initial, residual, bcs) and not is_named:
            own.append(initial)
        own.insert(0, previous)
    step = Problem(residual=form, state=state, controls=own, bcs=bcs, name=name, mpc=mpc)
    return Evolution(
        step=step, previous=before if is_bdf2 else previous, initial=initial, num_steps=num_steps, per_step=per_step,
        data=given, time=time, dt=k, start=start, times=times, initial_is_fixed=initial_is_fixed,
    )  # fmt: skip


def _bdf2(lengths: Array, which: int) -> Array:
    """The weight of u_n, u_{n-1} or u_{n-2} in steps of these lengths, the first one backward Euler."""
    w = np.append(0.0, lengths[1:] / lengths[:-1])
    return np.asarray(((1.0 + 2.0 * w) / (1.0 + w), -(1.0 + w), w**2 / (1.0 + w))[which])


def averaged(
    form: T,
    state: fem.Function,
    previous: fem.Function,
    theta: float | Literal["midpoint"],
    time: fem.Constant | None,
    k: float | fem.Constant,
    earlier: Mapping[Control, Control] = MappingProxyType({}),
) -> T:
    """A form, or an expression, in the state and the time, as a step of length k takes it: θ R_n + (1 - θ) R_{n-1}.

    ``"midpoint"`` is R in the middle of the step. ``earlier``: what holds at the step's beginning what these hold at
    its end.
    """

    def at(u: Expr, back: float) -> T:
        """R at another state, and so many steps before the end of the step."""
        moved = {state: u, **{f: back * before + (1 - back) * f for f, before in earlier.items()}}
        if time is not None:
            moved[time] = time - back * k
        return replaced(form, moved)

    if theta == "midpoint":
        return at((state + previous) / 2, 0.5)
    return theta * form if theta == 1 else theta * form + (1 - theta) * at(previous, 1.0)
