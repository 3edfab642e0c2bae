"""The functional that every optimiser here lowers, a sum of terms, and the loop's common parts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ufl
from petsc4py import PETSc

from relax.base import parallel
from relax.base.log import logger
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.protocols import Map, check_has_controls, check_is_map
from relax.errors import BadInput, SolveFailed
from relax.invert.box import Box
from relax.invert.constraints import constraints_of
from relax.invert.form_cost import FormCost
from relax.invert.metric import ControlMetric
from relax.invert.misfit import Misfit, observation
from relax.invert.priors.base import Prior, check_prior
from relax.invert.result import Result, Stats, Status
from relax.invert.scipy_bridge import ScipyFunctions
from relax.invert.terms import weighted_of
from relax.invert.weighing import Independent

Callback = Callable[[dict[str, Any], Array], object]


class Objective:
    """J: a sum of terms in one control vector. Collective.

    Args:
        J: the terms; or a map G, followed by the other arguments of

               J(m) = ½ |(G(m) − d) / σ|² + ½ (m − mean)ᵀ C⁻¹ (m − mean).

        data: d, (size_out,).
        noise: σ, a number or (size_out,).
        prior: N(mean, C).
        metric: what makes a direction of a gradient: names of a ``ControlMetric``, or one, or a prior; None for the
            first prior of J, or "L2" where it has none.
        bounds: (low, high) on m, or None.
        constraints: (c, low, high) each.

    Attributes:
        G: the first map of J: its controls are the ones of all terms.
        prior: the metric: C of it makes directions of gradients.
        metric_share: how much of the metric's C⁻¹ stands in the Hessian of J: the weight of that prior in J, else 0.

    Raises:
        BadInput: on every rank, for data or noise of a wrong shape, that are not finite, or noise that is not positive;
            for a prior whose vectors are not those of G; for terms of different controls.
    """

    def __init__(self, J: Any, *of_data: Any, metric: Any = None, bounds: Any = None, constraints: Any = ()) -> None:
        if of_data:
            G, (data, noise, prior) = J, of_data
            check_is_map(G, "G")
            check_has_controls(G, "G", "look for")
            check_prior(prior, "prior")
            parts = [(1.0, Misfit(G, observation(G, data, "data"), noise)), (1.0, prior)]
        else:
            parts = weighted_of(J)
        maps = [part.G if isinstance(part, Misfit) else part for _, part in parts if _has_map(part)]
        if not maps or any(G is None for G in maps):
            raise BadInput(
                "J: expected a map among the terms, in a relax.Misfit or one of a single number: it says what the "
                "controls are"
            )
        self.G: Map = maps[0]
        self.comm = self.G.comm
        #: Each map once: a point holds one linearisation of each.
        self.maps: list[Map] = list({id(G): G for G in maps}.values())
        for G in self.maps[1:]:
            _check_same_controls(self.G, G)
        self.misfits = [(w, part) for w, part in parts if isinstance(part, Misfit)]
        self.functionals = [(w, part) for w, part in parts if hasattr(part, "linearize")]
        self.constraints = constraints_of(self.G, constraints)
        for one in self.constraints:
            if one.map is not None and not any(one.map is G for G in self.maps):
                _check_same_controls(self.G, one.map)
                self.maps.append(one.map)
        self.forms = [(w, FormCost(part, self.G)) for w, part in parts if isinstance(part, ufl.Form)]
        self.priors: list[tuple[float, Prior]] = [
            (w, part) for w, part in parts if not _has_map(part) and not isinstance(part, ufl.Form)
        ]
        for _, prior in self.priors:
            self._check_prior(prior, "prior")
        self.box = None if bounds is None else Box(self.G, bounds)
        if metric is None:
            # A penalty with a Hessian of its own at each control, such as total variation, is no metric.
            own = [prior for w, prior in self.priors if w > 0.0 and not hasattr(prior, "hessian")]
            metric = own[0] if own else ControlMetric(self.G, "L2")
        elif isinstance(metric, str | list | tuple):
            metric = ControlMetric(self.G, metric)
        else:
            self._check_prior(metric, "metric")
        self.prior: Any = metric
        self.metric_share = sum(w for w, prior in self.priors if prior is metric)
        if self.box is not None and (unknown := _not_restricted(metric)):
            raise BadInput(
                f"bounds: the metric, {unknown}, is not known on a part of the controls; give "
                "metric='L2' or metric='H1'"
            )
        self._counts_before = self._counts()

    @property
    def data(self) -> Array:
        """What a checkpoint compares: the data of all misfits."""
        return np.concatenate([misfit.data for _, misfit in self.misfits]) if self.misfits else np.empty(0)

    @property
    def noise(self) -> Array:
        """What a checkpoint compares: the noise of all misfits."""
        kept = [np.ravel(misfit.weighing.kept) for _, misfit in self.misfits]
        return np.concatenate(kept) if kept else np.empty(0)

    @property
    def is_data_and_prior(self) -> bool:
        """Whether J is one misfit and the prior that is the metric, without bounds."""
        one = len(self.misfits) == 1 and self.misfits[0][0] == 1.0 and len(self.priors) == 1
        alone = not self.functionals and not self.forms and not self.constraints and self.box is None
        return one and alone and self.metric_share == 1.0

    def _check_prior(self, prior: Any, what: str) -> None:
        check_prior(prior, what)
        misfits = prior.kind != self.G.layout.kind or prior.size != self.G.layout.size
        if parallel.any_rank(self.comm, misfits):
            raise BadInput(
                f"{what}: expected one for {self.G.layout.size} values in layout={self.G.layout.kind!r}, as the map "
                f"has on this rank, got {prior.size} values in layout={prior.kind!r}; give it the control's space "
                "and layout=, and join the priors of several controls by BlockPrior"
            )

    def start(self, m0: Array | None) -> Trial:
        """The point at m0, or at the prior's mean; within the bounds.

        Raises:
            BadInput: when m0 is no control vector of the map.
            SolveFailed: when the forward solve fails there.
        """
        m = self.G.layout.checked(self.priors[0][1].mean if m0 is None and self.priors else m0, "m0")
        if parallel.any_rank(self.comm, m.ndim != 1):
            raise BadInput(f"m0: expected one control vector, got shape {m.shape}")
        return self.at(m.copy() if self.box is None else self.box.project(m))

    def _counts(self) -> dict[str, int]:
        return {kind: sum(G.counts[kind] for G in self.maps) for kind in ("forward", "tangent", "adjoint")}

    def solves(self) -> dict[str, int]:
        """How many forward, tangent and adjoint solves the maps have made since this objective was."""
        return {kind: number - self._counts_before[kind] for kind, number in self._counts().items()}

    def count_from(self, entry: dict[str, Any]) -> None:
        """Add the solves of an earlier process, as the last entry of its history has them. Local."""
        self._counts_before = {kind: number - entry[kind] for kind, number in self._counts_before.items()}

    def at(self, m: Array) -> Trial:
        """Solve forward at m, keeping the linearisations. Collective."""
        lins: list[Linearization] = []
        try:
            for G in self.maps:
                lins.append(G.linearize(m))
        except SolveFailed:
            for lin in lins:
                lin.close()
            raise
        return Trial(self, m, lins)

    def riesz(self, g: Array, free: Any) -> Array:
        """A gradient as a direction of the metric: C g, or on the free entries alone (C⁻¹_FF)⁻¹ g_F. Collective."""
        if free is None:
            return self.prior.covariance(g)
        return np.asarray(self.prior.restricted(g, free))

    def scipy(self) -> ScipyFunctions:
        """J for optimisers of other software: ``fun``, ``jac`` and ``hessp``. Collective."""
        return ScipyFunctions(self)


def _has_map(part: Any) -> bool:
    return isinstance(part, Misfit) or hasattr(part, "linearize")


def _not_restricted(metric: Any) -> str:
    """The name of the metric, or of the first of its blocks, that has no inverse on a part; empty where all have."""
    found = (_not_restricted(block) for block in getattr(metric, "priors", ()))
    return next(filter(None, found), "") if hasattr(metric, "restricted") else type(metric).__name__


def _check_same_controls(G: Map, other: Map) -> None:
    """Refuse maps of different controls. Collective."""
    mine, its = list(G.problem.controls), list(other.problem.controls)
    same = len(mine) == len(its) and all(a is b for a, b in zip(mine, its, strict=True))
    same = same and (G.layout.kind, G.layout.size) == (other.layout.kind, other.layout.size)
    if parallel.any_rank(G.comm, not same):
        raise BadInput(
            f"J: expected terms of the same controls in the same order and layout, got maps of {len(mine)} controls in "
            f"layout={G.layout.kind!r} and of {len(its)} in layout={other.layout.kind!r}"
        )


class Trial:
    """J and its derivatives at one control. ``close`` when done; collective, as are all methods.

    Attributes:
        m: the control.
        lins: of each map of J.
        misfit: what the maps make of J: misfits and functionals.
        prior_cost: what controls alone do: priors and forms.
        cost: J.
        noise_levels: √ of the mean square of the misfits' differences in units of the noise; NaN without a misfit.
    """

    def __init__(self, objective: Objective, m: Array, lins: list[Linearization]) -> None:
        self.objective = objective
        self.m = m
        self.lins = lins
        of_map = {id(G): i for i, G in enumerate(objective.maps)}
        #: dJ/dy of each map.
        self.seeds: list[Array] = [np.zeros(G.size_out) for G in objective.maps]
        #: The weighed misfits of each map, as (weight, weighing).
        self._weighings: list[list[tuple[float, Any]]] = [[] for _ in objective.maps]
        #: G(m) − d of each misfit.
        self.residuals: list[Array] = []
        self.misfit = squares = count = 0.0
        for weight, misfit in objective.misfits:
            i = of_map[id(misfit.G)]
            r = lins[i].value - misfit.data
            weighed = misfit.weighing.weigh(r)
            square = float(np.dot(r, weighed))
            self.residuals.append(r)
            self.seeds[i] += weight * weighed
            self._weighings[i].append((weight, misfit.weighing))
            self.misfit += 0.5 * weight * square
            squares, count = squares + square, count + misfit.weighing.count
        for weight, G in objective.functionals:
            i = of_map[id(G)]
            self.misfit += weight * float(lins[i].value[0])
            self.seeds[i] += weight
        self.prior_cost = sum(w * prior.cost(m) for w, prior in objective.priors)
        self.prior_cost += sum(w * form.value(m) for w, form in objective.forms)
        #: c of each constraint, and what it adds to the slope of J, as multiples of ∇c.
        self.constrained: list[float] = []
        for one in objective.constraints:
            i = -1 if one.map is None else of_map[id(one.map)]
            c = float(lins[i].value[0]) if one.form is None else one.form.value(m)
            self.constrained.append(c)
            if one.map is not None:
                self.seeds[i] += one.slope(c)
                self._weighings[i].append((one.curvature(c), Independent(np.ones(1))))
        self._normals: list[Array] = []
        self.cost = self.misfit + self.prior_cost
        self.cost += sum(one.value(c) for one, c in zip(objective.constraints, self.constrained, strict=True))
        self.noise_levels = math.sqrt(squares / max(count, 1.0)) if objective.misfits else math.nan

    @property
    def lin(self) -> Linearization:
        """That of the first map."""
        return self.lins[0]

    def gradient(self) -> Array:
        """dJ, dual: one adjoint solve of each map."""
        objective = self.objective
        g = sum(lin.vjp(seed) for lin, seed in zip(self.lins, self.seeds, strict=True))
        g = sum((w * prior.gradient(self.m) for w, prior in objective.priors), start=g)
        g = sum((w * form.gradient(self.m) for w, form in objective.forms), start=g)
        return np.asarray(sum((y * normal for y, _, _, normal in self._held()), start=g))

    def _held(self) -> list[tuple[float, float, FormCost, Array]]:
        """Of each constraint on a form: y, μ, c and ∇c here."""
        own = [(one, c) for one, c in zip(self.objective.constraints, self.constrained, strict=True) if one.form]
        if len(self._normals) < len(own):
            self._normals = [one.form.gradient(self.m) for one, _ in own if one.form]
        return [
            (one.slope(c), one.curvature(c), one.form, normal)
            for (one, c), normal in zip(own, self._normals, strict=True)
            if one.form
        ]

    def normals(self) -> list[Array]:
        """∇c of each constraint: an adjoint solve for one of a map."""
        of_map = {id(G): lin for G, lin in zip(self.objective.maps, self.lins, strict=True)}
        return [
            of_map[id(one.map)].vjp(np.ones(1)) if one.form is None else one.form.gradient(self.m)
            for one in self.objective.constraints
        ]

    def data_hessian(self, v: Array, *, newton: bool) -> Array:
        """What the maps make of the Hessian, times v, dual: Σ Jᵀ P J v, and for Newton what their curvature does."""
        Hv = np.zeros_like(v)
        for lin, seed, weighings in zip(self.lins, self.seeds, self._weighings, strict=True):
            # First, while the adjoint of the gradient is the last one: curvature has the same, and a point keeps it.
            if newton and not getattr(lin, "is_everywhere_the_same", False):
                Hv = Hv + lin.hvp(seed, v)
            if weighings:
                Jv = lin.jvp(v)
                Hv = Hv + lin.vjp(sum(weight * one.weigh(Jv) for weight, one in weighings))
        return Hv

    def control_hessian(self, v: Array) -> Array:
        """What forms and priors make of the Hessian, times v, dual; without the metric's share."""
        objective = self.objective
        Hv = np.zeros_like(v)
        for weight, form in objective.forms:
            Hv = Hv + weight * form.hessian(self.m, v)
        for weight, prior in objective.priors:
            if hasattr(prior, "hessian"):
                Hv = Hv + weight * prior.hessian(self.m, v)
            elif prior is not objective.prior:
                Hv = Hv + weight * prior.precision(v)
        for y, weight, form, normal in self._held():
            Hv = Hv + y * form.hessian(self.m, v) + (weight * objective.G.dot(normal, v)) * normal
        return Hv

    def hessian(self, v: Array) -> Array:
        """d²J v, dual: a tangent and an adjoint solve of each map, and those of its curvature."""
        share = self.objective.metric_share
        Hv = self.data_hessian(v, newton=True) + self.control_hessian(v)
        return Hv + share * self.objective.prior.precision(v) if share else Hv

    def close(self) -> None:
        """Free the linearisations."""
        for lin in self.lins:
            lin.close()


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
        """Continue the history and the clock of an earlier run."""
        self.history = history
        self.cg = sum(entry["cg_iterations"] for entry in history)
        self._began -= history[-1]["seconds"]

    def add(self, point: Trial, gradient_norm: float, step_length: float, cg_iterations: int) -> bool:
        """Write one entry; True when the callback of any rank asks to stop."""
        self.cg += cg_iterations
        entry = {
            "step": len(self.history),
            "cost": float(point.cost),
            "misfit": float(point.misfit),
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
