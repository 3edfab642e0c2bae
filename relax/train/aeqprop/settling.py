"""Where an energy settles: the states of samples alone, or with the parameters that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from relax.base.types import Array
from relax.invert.misfit import Misfit
from relax.train.aeqprop.energy import Energy
from relax.train.aeqprop.factor import StateFactor
from relax.train.aeqprop.metric import Metric
from relax.train.aeqprop.newton import least
from relax.train.aeqprop.phases import OneState, StatesAndParameters
from relax.train.aeqprop.samples import Batch, Sample
from relax.train.aeqprop.shares import Shares
from relax.train.aeqprop.terms import EnergyTerms


class Rest(NamedTuple):
    """At rest: the states of this team's samples, θ, the mean of E + β C over all samples, Newton's steps in all."""

    states: list[Array]
    theta: Array
    value: float
    iterations: int


class Settling:
    """min over states, or over states and θ, of the mean over samples of E + β C [+ ½ |θ - u|²/ε].

    Collective over all teams, as are all methods. States are those of this team's samples, θ that of all.

    Args:
        energy: E.
        misfit: C.
        metric: of θ, with its rate.
        box: least and largest values of θ.
        shares: the teams.
    """

    def __init__(
        self, energy: Energy, misfit: Misfit, metric: Metric, box: tuple[Array, Array], shares: Shares
    ) -> None:
        self.terms = EnergyTerms(energy, misfit)
        self._metric, self._box, self._shares = metric, box, shares
        self._factors: list[StateFactor] = []

    def states(self, batch: Batch, starts: Sequence[Array], theta: Array, beta: float) -> Rest:
        """States at rest for these parameters.

        Args:
            batch: the samples.
            starts: where the states begin.
            theta: θ.
            beta: β.
        """
        terms, found = self.terms, []
        sums = np.zeros(2)
        with self._shares.alone():
            terms.write_parameters(theta)
            for sample, start, factor in zip(batch.mine, starts, self._factors_for(batch), strict=True):
                sample.write()
                terms.write_state(start)
                terms.clamp()
                x = [terms.state()]
                f = OneState(terms, factor, sample, beta)
                [state], value, steps = least(f, x, np.zeros(1))
                sums += value / batch.total, steps
                found.append(state)
        value, steps = self._shares.sum_of_numbers(sums)
        return Rest(found, theta, float(value), round(steps))

    def both(self, batch: Batch, rest: Rest, knobs: Array, beta: float, *, is_bounded: bool = True) -> Rest:
        """States and parameters at rest for these knobs, from where they are at rest without."""
        f = self._together(batch, knobs, beta, is_bounded=is_bounded)
        away = f.sizes([*rest.states, rest.theta - knobs])
        [*states, theta], _, steps = least(f, [*rest.states, rest.theta], away, begins_convex=True)
        there = Rest(states, theta, np.nan, steps)
        return there._replace(value=self.means(batch, there, beta)[1])

    def is_held(self, batch: Batch, rest: Rest, knobs: Array, low: float, high: float) -> bool:
        """Whether the knobs hold θ under ``low``: along what follows from ``high``, nothing bends downwards there."""
        x = [*rest.states, rest.theta]
        return self._together(batch, knobs, low).step(x, self._together(batch, knobs, high).slope(x)).is_convex

    def _together(self, batch: Batch, knobs: Array, beta: float, *, is_bounded: bool = True) -> StatesAndParameters:
        box = self._box if is_bounded else (np.full_like(knobs, -np.inf), np.full_like(knobs, np.inf))
        return StatesAndParameters(
            self.terms, self._factors_for(batch), batch, self._metric, knobs, box, beta, self._shares
        )

    def knobs(self, batch: Batch, rest: Rest) -> Array:
        """u = θ + ε ∂E/∂θ at rest."""
        slope = np.zeros_like(rest.theta)
        with self._shares.alone():
            for _ in self._each(batch, rest):
                slope += self.terms.parameter_slope() / batch.total
        return rest.theta + self._metric.moved(self._shares.sum(slope))

    def means(self, batch: Batch, rest: Rest, beta: float) -> tuple[float, float]:
        """Of C and of E + β C over the samples, at rest."""
        found = np.zeros(2)
        with self._shares.alone():
            for sample in self._each(batch, rest):
                found += self.terms.cost(sample.data) / batch.total, self.terms.value(sample.data, beta) / batch.total
        cost, value = self._shares.sum_of_numbers(found)
        return float(cost), float(value)

    def show(self, batch: Batch, rest: Rest) -> None:
        """The registers hold the parameters, and the last of this team's samples."""
        for _ in self._each(batch, rest):
            pass

    def _each(self, batch: Batch, rest: Rest) -> Iterator[Sample]:
        """This team's samples at rest, one after the other in the registers."""
        self.terms.write_parameters(rest.theta)
        for sample, state in zip(batch.mine, rest.states, strict=True):
            sample.write()
            self.terms.write_state(state)
            yield sample

    def _factors_for(self, batch: Batch) -> list[StateFactor]:
        """One for each, kept from step to step."""
        self._factors += [StateFactor(self.terms) for _ in batch.mine[len(self._factors) :]]
        return self._factors[: len(batch.mine)]
