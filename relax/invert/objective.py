"""The functional that every optimiser here lowers: weighted misfit plus prior, and the loop's common parts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from petsc4py import PETSc

from relax.base import parallel
from relax.base.checks import array_like
from relax.base.log import logger
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.protocols import Map, check_has_controls, check_is_map
from relax.errors import BadInput, SolveFailed
from relax.invert.priors.base import Prior, check_prior
from relax.invert.result import Result, Stats, Status
from relax.invert.scipy_bridge import ScipyFunctions

Callback = Callable[[dict[str, Any], Array], object]

_SUFFICIENT_DECREASE = 1e-4
# Misfits are divided by its square.
_LEAST_NOISE = 1e-150


class Objective:
    """J(m) = ½ |(G(m) − d) / σ|² + ½ (m − mean)ᵀ C⁻¹ (m − mean). Collective.

    Args:
        G: the map from control to observations.
        data: d, (size_out,).
        noise: σ, a number or (size_out,).
        prior: N(mean, C).

    Raises:
        BadInput: on every rank, for data or noise of a wrong shape, that are not finite, or noise that is not positive;
            for a prior whose vectors are not those of G.
    """

    def __init__(self, G: Map, data: Array, noise: float | Array, prior: Prior) -> None:
        check_is_map(G, "G")
        check_has_controls(G, "G", "look for")
        check_prior(prior, "prior")
        self.comm = G.comm
        self.G = G
        self.prior = prior
        self.data = _observation(G, data, "data")
        is_number = np.ndim(array_like(noise, "noise")) == 0
        self.noise = _observation(G, np.full(G.size_out, noise) if is_number else noise, "noise")
        # Decided on rank 0's copies, which are every rank's by now.
        if self.noise.min(initial=1.0) <= 0.0:
            raise BadInput(
                f"noise: expected positive standard deviations, got {self.noise.min():.3g}; it weighs the data, so an "
                "observation to be ignored has a large noise, not zero"
            )
        if not (least := self.noise.min(initial=1.0)) > _LEAST_NOISE:
            raise BadInput(f"noise: expected standard deviations above {_LEAST_NOISE:.0e}, got {least:.3g}")
        misfits = prior.kind != G.layout.kind or prior.size != G.layout.size
        if parallel.any_rank(self.comm, misfits):
            raise BadInput(
                f"prior: expected one for {G.layout.size} values in layout={G.layout.kind!r}, as the map has on this "
                f"rank, got {prior.size} values in layout={prior.kind!r}; give it the control's space and layout=, and "
                "join the priors of several controls by BlockPrior"
            )
        self._counts_before = dict(G.counts)

    def start(self, m0: Array | None) -> Trial:
        """The point at m0, or at the prior's mean.

        Raises:
            BadInput: when m0 is no control vector of the map.
            SolveFailed: when the forward solve fails there.
        """
        m = self.G.layout.checked(self.prior.mean if m0 is None else m0, "m0")
        if parallel.any_rank(self.comm, m.ndim != 1):
            raise BadInput(f"m0: expected one control vector, got shape {m.shape}")
        return self.at(m.copy())

    def solves(self) -> dict[str, int]:
        """How many forward, tangent and adjoint solves the map has made since this objective was."""
        return {kind: self.G.counts[kind] - self._counts_before[kind] for kind in ("forward", "tangent", "adjoint")}

    def count_from(self, solves: dict[str, int]) -> None:
        """Add those of an earlier process. Local."""
        self._counts_before = {kind: self._counts_before[kind] - number for kind, number in solves.items()}

    def at(self, m: Array) -> Trial:
        """Solve forward at m, keeping the linearisation. Collective."""
        return Trial(self, m, self.G.linearize(m))

    def scipy(self) -> ScipyFunctions:
        """J for optimisers of other software: ``fun``, ``jac`` and ``hessp``. Collective."""
        return ScipyFunctions(self)


class Trial:
    """J and its derivatives at one control. ``close`` when done; collective, as are all methods."""

    def __init__(self, objective: Objective, m: Array, lin: Linearization) -> None:
        self.objective = objective
        self.m = m
        self.lin = lin
        self.residual: Array = (lin.value - objective.data) / objective.noise
        self.misfit = 0.5 * float(np.dot(self.residual, self.residual))
        self.prior_cost = objective.prior.cost(m)
        self.cost = self.misfit + self.prior_cost
        self.noise_levels = math.sqrt(2.0 * self.misfit / max(len(self.residual), 1))

    def gradient(self) -> Array:
        """dJ, dual: one adjoint solve."""
        return self.lin.vjp(self.residual / self.objective.noise) + self.objective.prior.gradient(self.m)

    def hessian(self, v: Array) -> Array:
        """d²J v, dual: a tangent and an adjoint solve, and those of the curvature of G."""
        noise = self.objective.noise
        data = self.lin.vjp(self.lin.jvp(v) / noise**2) + self.lin.hvp(self.residual / noise, v)
        return np.asarray(data + self.objective.prior.precision(v))

    def close(self) -> None:
        """Free the linearisation."""
        self.lin.close()


def backtrack(
    objective: Objective, start: Trial, direction: Array, slope: float, *, length: float, max_halvings: int
) -> tuple[Trial | None, float]:
    """Halve the step until J decreases enough (Armijo 1966): J(m + t p) <= J(m) + 1e-4 t slope. Collective.

    A trial at which the forward solve fails, or J is not finite, is rejected like any other.

    Args:
        objective: J.
        start: the point to go from.
        direction: p, primal.
        slope: the derivative of J along p, negative.
        length: the first t.
        max_halvings: give up after so many.

    Returns:
        The new point and t, or None and 0.
    """
    # Near the minimum the decrease drowns in the rounding of J; there the step is taken on the word of the gradient.
    rounding = 1e-13 * abs(start.cost)
    t = length
    for _ in range(max_halvings + 1):
        try:
            trial = objective.at(start.m + t * direction)
        except SolveFailed as failure:
            logger.info("trial step of length %.3g rejected: %s", t, failure)
        else:
            is_lower = trial.cost <= start.cost + _SUFFICIENT_DECREASE * t * slope + rounding
            if is_lower and math.isfinite(trial.cost):
                return trial, t
            trial.close()
        t /= 2.0
    return None, 0.0


class Recorder:
    """The history and the clock of a run, and the calls of the user's callback. Collective to use."""

    def __init__(self, objective: Objective, callback: Callback | None) -> None:
        self._objective = objective
        if callback is not None and not callable(callback):
            raise BadInput(f"callback: expected a function of a history entry and a control, got {callback!r:.80}")
        self._callback = callback
        self._began = time.perf_counter()
        self.history: list[dict[str, Any]] = []
        self.cg = 0

    def go_on(self, history: list[dict[str, Any]]) -> None:
        """Continue the history, the counts and the clock of an earlier process."""
        self.history = history
        self.cg = sum(entry["cg_iterations"] for entry in history)
        last = history[-1]
        self._objective.count_from({kind: last[kind] for kind in ("forward", "tangent", "adjoint")})
        self._began -= last["seconds"]

    def add(self, point: Trial, gradient_norm: float, step_length: float, cg_iterations: int) -> bool:
        """Write one entry; True when the callback of any rank asks to stop."""
        self.cg += cg_iterations
        entry = {
            "step": len(self.history),
            "cost": float(point.cost),
            "misfit": point.misfit,
            "misfit_in_noise_levels": point.noise_levels,
            "prior_cost": float(point.prior_cost),
            "gradient_norm": gradient_norm,
            "step_length": step_length,
            "cg_iterations": cg_iterations,
            **self._objective.solves(),
            "seconds": time.perf_counter() - self._began,
        }
        self.history.append(entry)
        logger.debug("step %(step)d: cost %(cost).6e, misfit %(misfit_in_noise_levels).3g noise levels", entry)
        # Each step frees a linearisation; objects of several ranks are freed only here, where all ranks are.
        comm = self._objective.comm
        PETSc.garbage_cleanup(comm)
        if self._callback is None:
            return False
        return parallel.any_rank(comm, bool(self._callback(entry, point.m.copy())))

    def result(self, point: Trial, status: Status) -> Result:
        """Close the point and sum up."""
        point.close()
        PETSc.garbage_cleanup(self._objective.comm)
        stats = Stats(
            **self._objective.solves(),
            cg=self.cg,
            outer=len(self.history) - 1,
            seconds=time.perf_counter() - self._began,
        )
        return Result(value=point.m, status=status, stats=stats, history=self.history)


def _observation(G: Map, values: object, what: str) -> Array:
    array = parallel.checked_on_all(G.comm, values, G.size_out, what)
    if array.ndim != 1:
        raise BadInput(f"{what}: expected shape ({G.size_out},), got {array.shape}")
    return array
