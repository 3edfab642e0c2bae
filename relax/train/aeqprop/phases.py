"""What each phase makes least: the energy in one state, or in the states of all samples and their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.types import Array
from relax.train.aeqprop.factor import StateFactor
from relax.train.aeqprop.metric import Metric
from relax.train.aeqprop.newton import NewtonStep, Parts
from relax.train.aeqprop.samples import Batch, Sample
from relax.train.aeqprop.shares import Shares
from relax.train.aeqprop.terms import Coupling, EnergyTerms

Flags: TypeAlias = npt.NDArray[np.bool_]

_RTOL, _MOST = 1e-10, 1000


class OneState:
    """E + β C in the state of one sample: x = [s]. Collective over the team."""

    def __init__(self, terms: EnergyTerms, factor: StateFactor, sample: Sample, beta: float) -> None:
        self._terms, self._factor, self._sample, self._beta = terms, factor, sample, beta

    def value(self, x: Parts) -> float:
        self._terms.write_state(x[0])
        return self._terms.value(self._sample.data, self._beta)

    def slope(self, x: Parts) -> Parts:
        self._terms.write_state(x[0])
        return [self._terms.state_slope(self._sample.data, self._beta)]

    def step(self, x: Parts, slope: Parts) -> NewtonStep:
        self._terms.write_state(x[0])
        self._factor.update(self._beta)
        return NewtonStep([self._factor.solve(slope[0])], self._factor.shift == 0.0)

    def moved(self, x: Parts, step: Parts, length: float) -> Parts:
        return [x[0] - length * step[0]]

    def dot(self, a: Parts, b: Parts) -> float:
        return parallel.dot(self._terms.comm, a[0], b[0])

    def sizes(self, x: Parts) -> Array:
        return np.sqrt([self.dot(x, x)])

    def largest(self, ratios: Array) -> float:
        return float(ratios.max())


class StatesAndParameters:
    """The mean over samples of E + β C, and ½ |θ - u|²/ε, in all states and θ: x = [s_1, ..., s_k, θ], θ within bounds.

    Newton's steps by the Schur complement onto θ: states are solved for sample by sample, each team its own, and
    conjugate gradients in θ see their sum. Where they meet a direction that bends downwards they end.

    Collective over all teams.

    Args:
        terms: E + β C.
        factors: one for each of this team's samples.
        batch: the samples.
        metric: of θ, with its rate.
        knobs: u.
        box: least and largest values of θ.
        beta: β.
        shares: the teams.
    """

    def __init__(
        self,
        terms: EnergyTerms,
        factors: Sequence[StateFactor],
        batch: Batch,
        metric: Metric,
        knobs: Array,
        box: tuple[Array, Array],
        beta: float,
        shares: Shares,
    ) -> None:
        self._terms, self._factors, self._batch, self._share = terms, factors, batch, 1.0 / batch.total
        self._metric, self._knobs, self._beta, self._shares = metric, knobs, beta, shares
        self._low, self._high = box

    def value(self, x: Parts) -> float:
        found = np.zeros(1)
        with self._shares.alone():
            for _, sample in self._each(x):
                found += self._share * self._terms.value(sample.data, self._beta)
        d = x[-1] - self._knobs
        return float(self._shares.sum_of_numbers(found)[0]) + 0.5 * self._shares.dot(d, self._metric.pull(d))

    def slope(self, x: Parts) -> Parts:
        slopes, of_theta = [], np.zeros_like(x[-1])
        with self._shares.alone():
            for _, sample in self._each(x):
                slopes.append(self._share * self._terms.state_slope(sample.data, self._beta))
                of_theta += self._share * self._terms.parameter_slope()
        return [*slopes, self._shares.sum(of_theta) + self._metric.pull(x[-1] - self._knobs)]

    def step(self, x: Parts, slope: Parts) -> NewtonStep:
        couplings: list[Coupling] = []
        theta, zero = x[-1], np.zeros_like(x[-1])
        try:
            settled: Parts = []
            pulled, diagonal = zero.copy(), zero.copy()
            with self._shares.alone():
                for i, _ in self._each(x):
                    self._factors[i].update(self._beta)
                    couplings.append(self._terms.coupling())
                    settled.append(self._factors[i].solve(np.asarray(slope[i] / self._share)))
                    pulled += self._share * couplings[i].to_parameters(settled[i], zero)
                    diagonal += self._share * couplings[i].diagonal(zero)
            rest = slope[-1] - self._shares.sum(pulled)
            diagonal = self._metric.diagonal + np.abs(self._shares.sum(diagonal))

            def curved(p: Array) -> Array:
                found = np.zeros_like(p)
                with self._shares.alone():
                    for factor, coupling in zip(self._factors, couplings, strict=True):
                        found += self._share * coupling.to_parameters(-factor.solve(coupling.to_state(p)), p)
                return self._metric.pull(p) + self._shares.sum(found)

            free = ~self._holds(theta, slope[-1])
            while True:
                dtheta, is_convex = self._conjugate_gradients(curved, rest * free, diagonal, free)
                # What is at a bound, and would be free to leave it but is taken out of it by the others.
                out = free & self._holds(theta, dtheta)
                if not parallel.any_rank(self._terms.comm, bool(out.any())):
                    break
                free &= ~out
            with self._shares.alone():
                for i, coupling in enumerate(couplings):
                    settled[i] = settled[i] - self._factors[i].solve(coupling.to_state(dtheta))
                    is_convex = is_convex and self._factors[i].shift == 0.0
            return NewtonStep([*settled, dtheta], self._shares.largest(float(not is_convex)) == 0.0)
        finally:
            for coupling in couplings:
                coupling.destroy()

    def moved(self, x: Parts, step: Parts, length: float) -> Parts:
        there = [a - length * d for a, d in zip(x, step, strict=True)]
        np.clip(there[-1], self._low, self._high, out=there[-1])
        return there

    def dot(self, a: Parts, b: Parts) -> float:
        of_states = np.zeros(1)
        for one, other in zip(a[:-1], b[:-1], strict=True):
            of_states += parallel.dot(self._terms.comm, one, other)
        return float(self._shares.sum_of_numbers(of_states)[0]) + self._shares.dot(a[-1], b[-1])

    def sizes(self, x: Parts) -> Array:
        squares = [parallel.dot(self._terms.comm, s, s) for s in x[:-1]]
        return np.sqrt([*squares, self._shares.dot(x[-1], x[-1])])

    def largest(self, ratios: Array) -> float:
        return self._shares.largest(float(ratios.max()))

    def _each(self, x: Parts) -> Iterator[tuple[int, Sample]]:
        """This team's samples, one after the other in the registers."""
        self._terms.write_parameters(x[-1])
        for i, sample in enumerate(self._batch.mine):
            sample.write()
            self._terms.write_state(x[i])
            yield i, sample

    def _holds(self, theta: Array, downhill: Array) -> Flags:
        """Where θ is at a bound, and θ - downhill beyond it."""
        return ((theta <= self._low) & (downhill > 0.0)) | ((theta >= self._high) & (downhill < 0.0))

    def _conjugate_gradients(
        self, curved: Callable[[Array], Array], rhs: Array, diagonal: Array, free: Flags
    ) -> tuple[Array, bool]:
        """Of the free parameters; with what they have where a direction bends downwards, and whether none does."""
        dot = self._shares.dot
        solution, residual = np.zeros_like(rhs), rhs.copy()
        way = residual / diagonal
        size = first = dot(residual, way)
        for iteration in range(_MOST):
            if size <= _RTOL**2 * first:
                break
            image = curved(way) * free
            bend = dot(way, image)
            if not bend > 0.0:
                return (solution if iteration else way), False
            solution += size / bend * way
            residual -= size / bend * image
            scaled = residual / diagonal
            last, size = size, dot(residual, scaled)
            way = scaled + size / last * way
        return solution, True
