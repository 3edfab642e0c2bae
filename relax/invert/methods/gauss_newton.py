"""Inexact Gauss–Newton and Newton, with the prior as preconditioner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checks import FRACTION, at_least, number_in, one_of
from relax.base.fem.layout import ControlLayout
from relax.base.types import Array
from relax.engine.protocols import Map
from relax.invert.active_set import step_within_bounds
from relax.invert.cg import SearchDirection, conjugate_gradients
from relax.invert.loop import Iterate, iterate
from relax.invert.objective import Callback, Objective, Trial
from relax.invert.priors.base import Prior
from relax.invert.result import Result

# With jacobian="auto": at most so many rows, and so many numbers on a rank (160 MB; the step holds a few such arrays).
_MATRIX_ROWS, _MATRIX_ENTRIES = 200, 20_000_000
# Which entries bounds hold is seen from Newton's step: a loose one holds others, and takes more steps in all (twice as
# many for a source in a Poisson equation, on any mesh).
_FORCING, _FORCING_WITHIN_BOUNDS = 0.5, 0.01


def gauss_newton(
    G: Map,
    data: Array,
    m0: Array | None = None,
    *,
    noise: float | Array,
    prior: Prior,
    rtol: float = 1e-8,
    atol: float | None = None,
    max_steps: int = 50,
    max_cg: int = 200,
    cg_rtol: float | None = None,
    max_halvings: int = 20,
    hessian: Literal["gauss_newton", "newton"] = "gauss_newton",
    jacobian: Literal["auto", "matrix", "products"] = "auto",
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
) -> Result:
    """Minimise ½ |(G(m) − data) / noise|² + ½ (m − mean)ᵀ C⁻¹ (m − mean): the most probable control.

    Collective. Each step solves H p = −g with H = Jᵀ Σ⁻² J + C⁻¹, and halves p until the cost decreases enough.
    Gradients are measured by |g|² = gᵀ C g, which does not depend on the mesh. As H >= C⁻¹, |g| also bounds the
    distance to the minimum, in prior standard deviations, where the cost is quadratic: hence ``atol``.

    With few observations (``jacobian="matrix"``) J is computed by one solve with size_out right-hand sides, and the
    step is exact, by dense algebra in the space of observations. Otherwise the step is inexact: conjugate gradients
    preconditioned by C, a tangent and an adjoint solve each iteration, to the relative tolerance min(½, √(|g|/|g₀|))
    (after Eisenstat and Walker, SIAM J. Sci. Comput. 17 (1996) 16–32).

    Args:
        G: a ``ReducedMap``, or another :class:`~relax.engine.protocols.Map`, in either layout.
        data: (size_out,); rank 0's copy counts.
        m0: where to start, a control vector; by default the prior's mean.
        noise: standard deviation of the data's noise: a number, or one per observation.
        prior: N(mean, C) on the controls of G, in the layout of G.
        rtol: the run ends when |g| <= rtol |g₀|. Where the start is bad that alone says little: ``Status.relative``.
        atol: the run has converged when |g| <= atol, in prior standard deviations, and ends there. By default it has
            when |g| <= 1e-3, and goes on to ``rtol``, at most to 1e-8; so it does with 0, without that bound.
        max_steps: at most so many steps.
        max_cg: at most so many iterations of conjugate gradients in a step.
        cg_rtol: a fixed tolerance for conjugate gradients; for a linear G a small one ends in one step.
        max_halvings: give up a direction after so many. A trial whose forward solve fails counts as one.
        hessian: "gauss_newton", or "newton" for the whole second derivative of the cost, by conjugate gradients that
            stop at negative curvature: fewer steps where the data cannot be fitted to the noise, more solves in each.
        jacobian: "matrix" or "products" (above). "auto" takes the matrix for up to 200 observations while it fits in
            memory.
        callback: called as callback(entry, value) at the start and after each step, on all ranks, with the new
            entry of ``Result.history`` and the control. When it returns True on any rank, the run stops.
        checkpoint: where the run is kept after a step when that is due, and goes on from, with its history, after its
            process has ended: a ``relax.Checkpoint`` of its own. Any number of ranks can go on, in either layout.

    Returns:
        A ``Result``, whether or not it converged: look at ``status``, or call ``raise_if_failed()``.

    Raises:
        BadInput: on every rank, for arguments that do not fit.
        SolveFailed: when a solve fails elsewhere than at a trial step.
    """
    one_of(hessian, ("gauss_newton", "newton"), "hessian")
    at_least(max_cg, 1, "max_cg")
    if cg_rtol is not None:
        number_in(cg_rtol, FRACTION, "cg_rtol")
    objective = Objective(G, data, noise, prior)
    method = NewtonCG(use_matrix(G, jacobian), hessian == "newton", max_cg, cg_rtol)
    return iterate(
        objective, method, m0, rtol=rtol, atol=atol, max_steps=max_steps, max_halvings=max_halvings,
        callback=callback, checkpoint=checkpoint,
    )  # fmt: skip


@dataclass(frozen=True)
class NewtonCG:
    """H p = −g, solved exactly or by conjugate gradients."""

    use_matrix: bool
    is_whole: bool
    max_cg: int
    cg_rtol: float | None

    def direction(self, here: Iterate, *, start_size: float, goal: float) -> SearchDirection:
        point = here.point
        J = point.lin.matrix() if self.use_matrix else None
        if J is not None and not self.is_whole:
            return _exact(point, J)
        # The last step need not go far below the goal: it would cost products that change nothing.
        first = _FORCING if here.free is None else _FORCING_WITHIN_BOUNDS
        forcing = max(min(first, math.sqrt(here.size / start_size)), min(0.5, 0.1 * goal / here.size))
        objective, data_hessian = point.objective, _data_hessian(point, J, newton=self.is_whole)
        if here.free is not None:
            share = objective.metric_share

            def hessian(v: Array) -> Array:
                Hv = data_hessian(v) + point.control_hessian(v)
                return Hv + share * objective.prior.precision(v) if share else Hv

            way = step_within_bounds(here, hessian, rtol=forcing, max_iterations=self.max_cg)
            if way is not None:
                return way
        return conjugate_gradients(
            lambda v: here.freed(data_hessian(v) + point.control_hessian(v)),
            lambda v: objective.riesz(v, here.free),
            -here.freed(here.g),
            -here.Cg,
            objective.G.dot,
            rtol=forcing if self.cg_rtol is None else self.cg_rtol,
            max_iterations=self.max_cg,
            share=objective.metric_share,
        )

    def told(self, step: Array, before: Iterate, after: Iterate) -> None:
        """Nothing to learn: each point has its own H."""

    def state_dict(self, layout: ControlLayout) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], layout: ControlLayout) -> None:
        """Nothing is kept: the forcing term needs the gradient at the start, which is in the history."""


def use_matrix(G: Map, jacobian: str) -> bool:
    """Whether the Jacobian is made, by the word of ``gauss_newton``. Collective."""
    one_of(jacobian, ("auto", "matrix", "products"), "jacobian")
    if jacobian != "auto":
        return jacobian == "matrix"
    entries = parallel.largest(G.comm, float(G.size_out * G.layout.size))
    return G.size_out <= _MATRIX_ROWS and entries <= _MATRIX_ENTRIES


def _exact(point: Trial, J: Array) -> SearchDirection:
    """The Gauss–Newton step by dense algebra in the space of observations. Collective.

    With q = m − mean, the step to the minimum of the linearised problem is

        p = C Jᵀ z − q,    (Σ² + J C Jᵀ) z = d − G(m) + J q

    (the posterior mean of the linear Gaussian model, for example Tarantola, Inverse Problem Theory, SIAM 2005). With
    C = L Lᵀ it costs size_out applications of Lᵀ, all at once, and one of C.
    """
    prior = point.objective.prior
    weighing = point.objective.misfits[0][1].weighing
    q = point.m - prior.mean
    # In units of the noise, so that the matrix is I plus a positive one.
    scaled = weighing.root(J.T).T
    LtJt = prior.color_adjoint(scaled)
    sums = _sum(point, np.column_stack([LtJt @ LtJt.T, scaled @ q]))
    z = np.linalg.solve(np.eye(len(J)) + sums[:, :-1], sums[:, -1] - weighing.root(point.residuals[0]))
    dual = z @ scaled
    return SearchDirection(prior.covariance(dual) - q, dual - prior.gradient(point.m))


def _data_hessian(point: Trial, J: Array | None, *, newton: bool) -> Callable[[Array], Array]:
    """v -> Jᵀ Σ⁻² J v at a point, plus the second derivative of G weighted by the misfit for Newton.

    Collective to call. Without the matrix J products with the linearisation are used.
    """
    if J is None:
        return lambda v: point.data_hessian(v, newton=newton)
    lin, weighing = point.lin, point.objective.misfits[0][1].weighing

    def product(v: Array) -> Array:
        Hv = weighing.weigh(_sum(point, J @ v)) @ J
        return Hv + lin.hvp(point.seeds[0], v) if newton else Hv

    return product


def _sum(point: Trial, products: Array) -> Array:
    """Products of this rank's part of control vectors, summed over the ranks where each rank has its own part."""
    objective = point.objective
    return parallel.sum_over_ranks(objective.comm, products) if objective.G.layout.kind == "owned" else products
