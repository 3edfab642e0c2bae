"""Is the derivative the derivative? Taylor tests, adjoint identity, symmetry of the Hessian, and what it all costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from relax.base.checks import at_least
from relax.base.fem.blocks import registers_of
from relax.base.fem.forms import Control, given_back, holds
from relax.base.fem.layout import as_rows
from relax.base.log import logger
from relax.base.parallel import from_rank_0, rank_0_prints
from relax.base.types import Array
from relax.engine.experiments import single_maps
from relax.engine.linearization import Linearization
from relax.engine.protocols import Map, check_has_controls, check_is_map
from relax.engine.reduced import ReducedMap
from relax.errors import CheckFailed, SolveFailed
from relax.problem.evolution import Evolution
from relax.problem.problem import gives

# How often steps are halved: at least, and at most, where orders do not show yet.
_STEPS, _MOST_STEPS = 6, 12
# The first step, how it is stretched or shrunk, how often, and the relative remainder at which it is large enough.
_FIRST_STEP, _STRETCH, _TRIALS, _VISIBLE = 2e-2, 4.0, 8, 1e-5
_ORDER_SLACK = 0.15
# Sums of observations whose second remainders are looked at together: of one alone the leading term may vanish.
_SUMS = 4
_GAP = 1e-8
# Below this, relative to the size of what is expanded, a Taylor remainder is rounding and shows no order.
_ROUNDING = 1e-12
_CLEAR = 30.0
# Rounding is some 1e-15 of what is seen, and is to stay below the largest gap beside this share of it.
_EFFECT = 1e-6
# Of a Hamiltonian that varies or not.
_FEWEST_STEPS = 4


@dataclass(frozen=True)
class MapReport:
    """What ``check_map`` measured. An order is ``inf`` where the remainder is zero up to rounding (an affine map).

    Attributes:
        first_order: of |G(m + εδ) - G(m) - ε G'δ|, expected 2.
        second_order: of |w·G(m + εδ) - w·G(m) - ε g·δ - ½ ε² δ·Hδ|, expected 3.
        adjoint_gap: |w·G'δ - δ·G'ᵀw| relative to its terms.
        hessian_gap: |δ1·Hδ2 - δ2·Hδ1| relative to its terms.
        first_remainders, second_remainders: the remainders behind the orders, ε halved from one to the next.
        forward_seconds: of one evaluation.
        tangent_ratio, adjoint_ratio, hessian_ratio: seconds of one product over those of one evaluation.
        momentum_gap: of an evolution, the largest difference between p_n · du_n and what the step before makes of it,
            relative to the largest |p_n| |du_n| (``Linearization.momenta``); None without steps.
        momentum_step: the n where that is.
        hamiltonian_drift: of an evolution whose steps do not depend on time, and seen at its end alone, by how much
            p_n · du/dt varies over the steps, relative to its largest value: rounding for linear steps, O(dt²) for
            those of the midpoint rule (Ruseckas, arXiv:1909.03767). A measure of the time step, not of the derivatives;
            None for other problems.
    """

    first_order: float
    second_order: float
    adjoint_gap: float
    hessian_gap: float
    first_remainders: tuple[float, ...]
    second_remainders: tuple[float, ...]
    forward_seconds: float
    tangent_ratio: float
    adjoint_ratio: float
    hessian_ratio: float
    momentum_gap: float | None = None
    momentum_step: int = 0
    hamiltonian_drift: float | None = None

    @property
    def failures(self) -> list[str]:
        """What is wrong, a sentence each; empty when all is well."""
        failures = []
        if not self.first_order > 2.0 - _ORDER_SLACK:
            failures.append(
                f"the tangent is not the derivative: first Taylor order {self.first_order:.2f}, expected 2 "
                "(a stale control, a sign, a missing term, a boundary condition that is not homogenised)"
            )
        if not self.adjoint_gap < _GAP:
            failures.append(
                f"the adjoint is not the transpose of the tangent: gap {self.adjoint_gap:.1e}, expected < {_GAP:.0e} "
                "(a missing ghost update, a seed or a boundary row that is not zeroed, a sum over ranks counted twice)"
            )
        if not self.second_order > 3.0 - _ORDER_SLACK:
            failures.append(
                f"the Hessian action is not the second derivative: second Taylor order {self.second_order:.2f}, not 3"
            )
        if not self.hessian_gap < _GAP:
            failures.append(f"the Hessian is not symmetric: gap {self.hessian_gap:.1e}, expected below {_GAP:.0e}")
        if self.momentum_gap is not None and not self.momentum_gap < _GAP:
            failures.append(
                f"the adjoint goes wrong at step {self.momentum_step}: p · du is not what the step before made of it, "
                f"gap {self.momentum_gap:.1e}, expected below {_GAP:.0e} (an observable, or a step, whose adjoint is "
                "not that of its tangent)"
            )
        return failures

    def __str__(self) -> str:
        rows = [
            ("first Taylor order (2)", f"{self.first_order:.3f}"),
            ("second Taylor order (3)", f"{self.second_order:.3f}"),
            ("adjoint gap", f"{self.adjoint_gap:.1e}"),
            ("Hessian symmetry gap", f"{self.hessian_gap:.1e}"),
            ("forward", f"{1e3 * self.forward_seconds:.2f} ms"),
            ("jvp / forward", f"{self.tangent_ratio:.2f}"),
            ("vjp / forward", f"{self.adjoint_ratio:.2f}"),
            ("hvp / forward", f"{self.hessian_ratio:.2f}"),
        ]
        if self.momentum_gap is not None:
            rows.insert(4, ("p · du, step by step", f"{self.momentum_gap:.1e}"))
        if self.hamiltonian_drift is not None:
            rows.insert(5, ("p · du/dt, over the steps", f"{self.hamiltonian_drift:.1e}"))
        return "\n".join(f"  {name:<26}{value}" for name, value in rows)


def check_map(G: Map, m: npt.ArrayLike | None = None, *, seed: int = 0) -> MapReport:
    """Check every derivative product of a map at a control, print what was found, and return it.

    Collective. The problem's state, controls and parameters are left as they were found. Along a direction each control
    moves by as much as it is large itself (of order one where it is zero); a second direction is looked at before a
    Taylor order counts as wrong.

    Args:
        G: the map.
        m: the control to check at, shape (size_in,); the problem's present control values when left out, moved a
            little at random so that no term vanishes by chance.
        seed: of the random directions; the same directions on any number of ranks (under ``layout="replicated"``).

    Returns:
        Orders, gaps and cost ratios.

    Raises:
        BadInput: for a map without controls, which has no derivatives.
        CheckFailed: when one of them is out of bounds; its ``report`` holds them all.
        SolveFailed: when the map cannot be evaluated at ``m``.
    """
    check_is_map(G, "check_map: G")
    check_has_controls(G, "check_map: G", "check")
    at_least(seed, 0, "check_map: seed")
    registers = [register for one in single_maps(G) for register in _registers(one)]
    every = [G, *single_maps(G)]
    counts = [dict(each.counts) for each in every]
    try:
        with given_back(registers):
            report = _measure(G, m, np.random.default_rng(seed))
    finally:
        for each, before in zip(every, counts, strict=True):
            each.counts.update(before)
    rank_0_prints(G.comm, f"check of {G.problem.name}: {G.size_in} -> {G.size_out}\n{report}")
    if report.failures:
        raise CheckFailed(f"check of {G.problem.name}: " + "; ".join(report.failures), report)
    logger.debug("check of %s passed", G.problem.name)
    return report


def _registers(G: Map) -> list[Control]:
    """What holds the point at which a map last worked. Local."""
    if isinstance(G.problem, Evolution):
        own = [f for c in G.problem.components for f in (*registers_of(c.state), *c.earlier)]
        return [*own, *G.problem.controls, *G.problem.clock.registers]
    return [*registers_of(G.problem.state), *G.problem.controls]


def _measure(G: Map, m: npt.ArrayLike | None, rng: np.random.Generator) -> MapReport:
    def random() -> Array:
        # Not of zero mean: an elliptic solve all but swallows what changes sign from node to node.
        return G.layout.checked(rng.uniform(-0.5, 1.0, G.size_in), "direction", compared=False)

    if m is None:
        present = G.layout.checked(G.present_control(), "control")
        point = present + 0.1 * G.layout.sizes(present) * random()
    else:
        point = G.layout.checked(m, "control")
    # A modulus of 2e11 beside a ratio of 0.3: each moves by as much as it is large, and products are compared in units
    # of these sizes.
    sizes = G.layout.sizes(point)
    one = np.sqrt(G.dot(np.ones_like(sizes), np.ones_like(sizes)))

    def direction() -> Array:
        drawn = random()
        return sizes * drawn * (one / np.sqrt(G.dot(drawn, drawn)))

    def length(v: Array) -> float:
        return float(np.sqrt(G.dot(v, v)))

    delta, other = direction(), direction()
    # Weights of sums of observations, (k, size_out): the first of one sign, others of both.
    sums = rng.uniform(0.5, 1.5, (min(_SUMS, G.size_out), G.size_out))
    sums[1:] *= rng.choice([-1.0, 1.0], sums[1:].shape)
    sums = from_rank_0(G.comm, sums)
    weights = sums[0]
    with G.linearize(point) as lin:
        taylor = _taylor(G, lin, point, delta, sums)
        if not taylor.is_right:
            # By chance the leading term of a remainder all but vanishes along a direction: not along two.
            taylor = taylor.better(_taylor(G, lin, point, other, sums))
        # The map was last solved elsewhere: products that are taken there, and not at their own point, show.
        Jd, g = lin.jvp(delta), lin.vjp(weights)
        Hd, Ho = lin.hvp(sums, delta)[0], lin.hvp(weights, other)
        gaps = lin.momentum_gaps(weights, delta)
        drift = _drift(lin, weights) if _is_autonomous(G) else None
        # Everything has run once before.
        forward, *products = map(
            _seconds,
            (lambda: G(point), lambda: lin.jvp(delta), lambda: lin.vjp(weights), lambda: lin.hvp(weights, delta)),
        )
    terms = float(np.linalg.norm(weights) * np.linalg.norm(Jd)) + length(sizes * g) * one
    cross = (length(sizes * Hd) + length(sizes * Ho)) * one
    # Derivatives of rounding errors alone (an affine map, a control without effect) agree in nothing.
    seen = _EFFECT * float(np.linalg.norm(weights) * np.linalg.norm(lin.value))
    noise = max(_EFFECT * length(sizes * g) * one, seen)
    return MapReport(
        first_order=taylor.first_order,
        second_order=taylor.second_order,
        adjoint_gap=float(abs(weights @ Jd - G.dot(g, delta)) / max(terms, seen, 1e-300)),
        hessian_gap=float(abs(G.dot(Hd, other) - G.dot(Ho, delta)) / max(cross, noise, 1e-300)),
        first_remainders=taylor.first,
        second_remainders=taylor.second,
        forward_seconds=forward,
        tangent_ratio=products[0] / forward,
        adjoint_ratio=products[1] / forward,
        hessian_ratio=products[2] / forward,
        momentum_gap=None if gaps is None else float(gaps.max()),
        momentum_step=0 if gaps is None else int(gaps.argmax()),
        hamiltonian_drift=drift,
    )


def _is_autonomous(G: Map) -> bool:
    """Whether all steps are the same, several of them, and only the last state is seen. Local."""
    evolution = G.problem
    if not isinstance(evolution, Evolution) or not isinstance(G, ReducedMap) or not evolution.is_plain:
        return False
    if evolution.num_steps < _FEWEST_STEPS:
        return False
    step = evolution.plain_step
    in_time = any(
        holds(step.residual, moving) or any(gives(moving, bc) for bc in step.bcs)
        for moving in evolution.clock.registers
    )
    looks = G.observable.looks(evolution.num_steps)
    return not in_time and not evolution.per_step and all(look.step == evolution.num_steps for look in looks)


def _drift(lin: Linearization, weights: Array) -> float | None:
    values = lin.hamiltonians(weights)
    return None if values is None else float(np.ptp(values) / max(np.abs(values).max(), 1e-300))


class _Taylor(NamedTuple):
    """Remainders along a direction, and the orders that they show."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    first_order: float
    second_order: float

    @property
    def is_right(self) -> bool:
        return self.first_order > 2.0 - _ORDER_SLACK and self.second_order > 3.0 - _ORDER_SLACK

    def better(self, other: _Taylor) -> _Taylor:
        """For each order the direction that shows more of it."""
        a = self if self.first_order >= other.first_order else other
        b = self if self.second_order >= other.second_order else other
        return _Taylor(a.first, b.second, a.first_order, b.second_order)


def _taylor(G: Map, lin: Linearization, point: Array, delta: Array, sums: Array) -> _Taylor:
    y = lin.value
    largest = _first_step(G, point, delta, y, lin.jvp(delta))
    # The map was last solved elsewhere, as where the products are compared.
    Jd = lin.jvp(delta)
    slopes, curvatures = sums @ Jd, np.array([G.dot(row, delta) for row in lin.hvp(sums, delta)])
    first: list[float] = []
    second: list[float] = []
    floor = _ROUNDING * float(np.linalg.norm(y))
    size_of_sums = float(np.linalg.norm(sums))
    for i in range(_MOST_STEPS):
        eps = largest * 0.5**i
        change = as_rows(G(point + eps * delta))[0] - y
        first.append(float(np.linalg.norm(change - eps * Jd)))
        second.append(float(np.linalg.norm(sums @ change - eps * slopes - 0.5 * eps**2 * curvatures)))
        floor = max(floor, _ROUNDING * float(np.linalg.norm(change)))
        taylor = _Taylor(tuple(first), tuple(second), _order(first, floor), _order(second, floor * size_of_sums))
        # Where curvature changes fast along the direction, orders show at smaller steps only.
        if i + 1 >= _STEPS and taylor.is_right:
            break
    return taylor


def _first_step(G: Map, point: Array, delta: Array, y: Array, Jd: Array) -> float:
    """As large as it must be for the remainder to stand out of rounding, if any will do, and as small as it must be for
    the map to be solved at.
    """
    largest, solved = _FIRST_STEP, None
    for _ in range(_TRIALS):
        try:
            change = as_rows(G(point + largest * delta))[0] - y
        except SolveFailed:
            if solved is not None:
                break
            largest /= _STRETCH
            continue
        solved = largest
        if np.linalg.norm(change - largest * Jd) > _VISIBLE * max(
            float(np.linalg.norm(y)), float(np.linalg.norm(change))
        ):
            break
        largest *= _STRETCH
    return solved if solved is not None else largest


def _order(remainders: list[float], floor: float) -> float:
    """The order at which remainders fall as steps are halved: the better of the last two still clear of rounding."""
    clear = [r for r in remainders if r > _CLEAR * floor]
    if len(clear) < 2:
        # Nothing but rounding is left: either the map is affine, or the expansion is exact.
        return np.inf if remainders[-1] <= _CLEAR * floor else 0.0
    # A single number's leading term and its next one cancel at some step: orders are high above it, low below.
    return max(float(np.log2(a / b)) for a, b in pairwise(clear[-3:]))


def _seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
