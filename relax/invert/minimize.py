"""The minimum of any sum of terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from relax.base.checks import FRACTION, at_least, number_in, one_of
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.constraints import held_to
from relax.invert.loop import Method, iterate
from relax.invert.methods.gauss_newton import NewtonCG, use_matrix
from relax.invert.methods.lbfgs import LimitedBFGS
from relax.invert.metric import ControlMetric
from relax.invert.objective import Callback, Objective
from relax.invert.result import Result, Status
from relax.invert.terms import Weighted, weighted_of

_MAX_STEPS = {"newton": 50, "gauss_newton": 50, "lbfgs": 500}
_MAX_CG, _MEMORY, _MAX_HALVINGS = 500, 20, 40
# A constraint holds that is violated by this share of its size.
_FEASIBLE = 1e-8


def minimize(
    J: Any,
    m0: Array | None = None,
    *,
    method: str = "auto",
    bounds: Any = None,
    constraints: Any = (),
    metric: Any = None,
    rtol: float = 1e-8,
    atol: float | None = None,
    max_steps: int | None = None,
    callback: Callback | None = None,
) -> Result:
    """Minimise J, a sum of terms, over the controls, within bounds and constraints.

    Collective. ::

        J = relax.Misfit(G, data, noise=0.01) + prior
        J = relax.Cost(compliance) + 0.5 * alpha * ufl.inner(ufl.grad(m), ufl.grad(m)) * ufl.dx
        result = relax.minimize(J, m0, bounds=(0.0, 1.0))

    Terms are :class:`relax.Misfit`; maps of one number, such as ``ReducedMap(problem, relax.Functional(...))``; UFL
    forms in the controls; priors. A map that stands in several terms is solved once: value, gradient and Hessian
    action have one linearisation point, so that a gradient costs one adjoint solve of each map.

    Gradients are measured in a metric K, by |g|² = gᵀ K⁻¹ g, and K⁻¹ is the preconditioner: iterations do not depend on
    the mesh. With bounds each step leaves the entries at a bound that the gradient points out of where they are, takes
    Newton's step (or that of L-BFGS) in the others, F, preconditioned by the inverse of K_FF, and is projected onto the
    bounds (Bertsekas, SIAM J. Control Optim. 20 (1982) 221–246). |g| is then of F alone: zero exactly where the
    conditions of Karush, Kuhn and Tucker hold.

    Args:
        J: the terms, added up.
        m0: where to start, a control vector; by default the mean of the first prior. With bounds its nearest within.
        method: "newton": the whole Hessian, by conjugate gradients that stop at negative curvature. "gauss_newton":
            of maps the part JᵀPJ of their misfits alone, positive, half the solves; functionals have none. "lbfgs":
            gradients alone. "auto": "newton" where a functional of the state is a term, else "gauss_newton".
        bounds: (low, high), either of them None for no bound: numbers, control vectors as arrays, Functions, or a list
            with one of these, or None, for each control. Bounds are on the degrees of freedom.
        constraints: a list of (c, low, high), low <= c(m) <= high: c a UFL form in the controls, such as a volume
            ``rho * ufl.dx``, or a map of one number; low and high numbers, the same for an equation, None for no bound.
            They are met to 1e-8 of these numbers (of c(m0) where they are 0) by an augmented Lagrangian: rounds of
            minimisation of J + ½ μ dist(c + λ/μ, [low, high])², each from where the one before ended.
        metric: K: a prior; "L2" or "H1", or a list of these for each control; by default the first prior of J, else
            "L2". Of numbers it is the sum of their squares, of a control in steps the sum over the steps.
        rtol: the run ends when |g| <= rtol |g₀|. Of this, ``atol`` and ``max_steps`` rank 0's count.
        atol: the run has converged when |g| <= atol, and ends there. By default, where K is a prior with the
            weight w in J: |g| / w is in its standard deviations, and the run has converged when that is <= 1e-3, and
            goes on to ``rtol``, at most to 1e-8.
            Otherwise no number is small by itself: the run goes on to ``rtol``, and has converged when the next step
            would move the control by less than 1e-3 of its size, in the metric.
        max_steps: at most so many steps; by default 50, and 500 of L-BFGS.
        callback: as of :func:`relax.gauss_newton`.

    Returns:
        A ``Result``, whether or not it converged: look at ``status``. In its history ``misfit`` is what maps make of J
        (misfits and functionals), ``prior_cost`` what controls alone do (priors and forms), ``misfit_in_noise_levels``
        NaN without a misfit. ``stats`` has the solves of all maps.

    Raises:
        BadInput: on every rank, for terms, bounds or numbers that do not fit together.
        SolveFailed: when a solve fails elsewhere than at a trial step, where the step was too long.
    """
    one_of(method, ("auto", *_MAX_STEPS), "method")
    chosen = _chosen(weighted_of(J)) if method == "auto" else method
    objective = Objective(J, metric=metric, bounds=bounds, constraints=constraints)
    if m0 is None and not objective.priors:
        raise BadInput("m0: expected a control vector to start from, where J has no prior whose mean it could be")
    steps = partial(
        iterate, atol=atol, max_halvings=_MAX_HALVINGS, callback=callback,
        max_steps=_MAX_STEPS[chosen] if max_steps is None else at_least(max_steps, 0, "max_steps"),
    )  # fmt: skip
    if objective.constraints:
        result = _within_constraints(objective, chosen, m0, number_in(rtol, FRACTION, "rtol"), steps)
    else:
        result = steps(objective, _method(chosen, objective), m0, rtol=rtol)
    # After an error it is left to the next collective clean-up: one rank alone may have raised it.
    if objective.prior is not metric and isinstance(objective.prior, ControlMetric):
        objective.prior.close()
    return result


def _within_constraints(
    objective: Objective, chosen: str, m0: Array | None, rtol: float, steps: Callable[..., Result]
) -> Result:
    """Rounds of minimisation, each with better multipliers."""
    dot = objective.G.dot
    result: Result | None = None
    with closing(objective.start(m0)) as here:
        g = here.gradient()
        own, normals = dot(g, objective.riesz(g, None)), here.normals()
        for one, c, normal in zip(objective.constraints, here.constrained, normals, strict=True):
            w = objective.riesz(normal, None)
            Hw = here.data_hessian(w, newton=chosen == "newton") + here.control_hessian(w)
            one.begin(c, dot(normal, w), dot(w, Hw + objective.metric_share * normal), here.cost)
        for one, c, normal in zip(objective.constraints, here.constrained, normals, strict=True):
            g = g + one.slope(c) * normal
        # Sizes are relative to the gradient of J, not to that of a violation at the start.
        rtol *= min(1.0, math.sqrt(own / max(dot(g, objective.riesz(g, None)), own))) if own > 0.0 else 1.0

    # A round is short, and sees what is steep alone: the memory of L-BFGS is that of all.
    method = _method(chosen, objective)

    def run() -> Array | None:
        nonlocal result
        start, history = (m0, None) if result is None else (result.value, result.history)
        result = steps(objective, method, start, rtol=rtol, history=history)
        if result.status in (Status.stopped_by_callback, Status.max_steps):
            return None
        with closing(objective.at(result.value)) as there:
            return np.array(there.constrained)

    holds = held_to(objective.constraints, run, rtol=_FEASIBLE)
    assert result is not None
    ended = result.status in (Status.stopped_by_callback, Status.max_steps)
    # With the solves between and after the rounds.
    stats = replace(result.stats, **objective.solves())
    return replace(result, status=result.status if holds or ended else Status.not_feasible, stats=stats)


def _chosen(parts: list[Weighted]) -> str:
    return "newton" if any(hasattr(part, "linearize") for _, part in parts) else "gauss_newton"


def _method(name: str, objective: Objective) -> Method:
    if name == "lbfgs":
        return LimitedBFGS(_MEMORY)
    by_matrix = False
    if objective.is_data_and_prior and name == "gauss_newton":
        weighing = objective.misfits[0][1].weighing
        by_matrix = weighing.root(np.zeros(objective.G.size_out)) is not None and use_matrix(objective.G, "auto")
    return NewtonCG(by_matrix, name == "newton", _MAX_CG, None)
