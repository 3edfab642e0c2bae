"""The local entropy of a network as a number, by thermodynamic integration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from mpi4py import MPI
from torch import Tensor

from relax.base import parallel
from relax.base.checks import at_least, positive
from relax.base.log import logger
from relax.base.monte_carlo import Estimate
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.optim.noise import Noise, derived_seed
from relax.relaxation.weights import LossClosure, Weights

# Gauss–Legendre in the fourth root of the coupling: for a quadratic of curvature c the error is below 1e-7 of
# log(1 + t c) up to t c = 10, and below 1e-3 of it up to t c = 1000.
_NODES, _POWER = 12, 4
# Moves are made so long that this share of them is taken: the best for Langevin proposals (Roberts, Rosenthal 1998).
_TAKEN = 0.57
# Of the moves at a coupling the first ones let the chain come to rest.
_AT_REST = 0.25
# Where chains that come from weaker and from stronger coupling differ by more standard errors they have not.
_DIFFER = 5.0


def local_entropy(
    params: Any,
    closure: LossClosure,
    *,
    t: float,
    beta: float,
    chains: int = 8,
    steps: int = 100,
    seed: int = 0,
    comm: MPI.Comm = MPI.COMM_SELF,
) -> Estimate:
    """u(x, t) at the present weights x, in units of the loss f, with its standard error. Collective.

        u = -(1/beta) log E exp(-beta f(x + sqrt(t/beta) Z)),   Z normal,

    the solution of u_t = -1/2 |grad u|² + 1/(2 beta) Lap u, u(., 0) = f, which is the local entropy of Entropy-SGD:
    log of the integral of exp(-beta f(y) - beta |x - y|²/(2t)) is -beta u + d/2 log(2 pi t/beta), d the number of
    weights. The lower u - f(x), the less f rises around x: at the minimum of a quadratic with curvatures c it is the
    sum of log(1 + t c)/(2 beta).

    u is the integral over k from 0 to 1 of E_k f, E_k the mean under exp(-beta (k f(y) + |x - y|²/(2t))), at the 12
    points of a Gauss rule. Each chain goes through them from the Gaussian at k = 0, which it begins with a draw of,
    to k = 1 and back again. Its moves are Langevin steps that keep the Gaussian whatever their length (Cotter,
    Roberts, Stuart, White 2013), taken or not by Metropolis' rule, so that no error of the steps remains. Each chain
    is one number; the error is that of their mean.

    Args:
        params: a model, or parameters. They are afterwards what they were before.
        closure: returns the loss and does not call ``backward``; the same loss at the same weights, so no dropout and
            all of the data. On several ranks each returns its own samples' part of a sum.
        t: time of the equation.
        beta: inverse temperature in units of 1/loss.
        chains: independent ones, 2 or more.
        steps: of a chain at each of the 12 couplings, on the way there and on the way back; each calls the closure
            once.
        seed: of all noise.
        comm: whose ranks share the samples, with the same weights on each.

    Raises:
        BadInput: on every rank, for what does not fit.
        NotConverged: on every rank, where a loss is not finite.
    """
    weights = Weights("local_entropy", params, closure, comm)
    t, beta, chains, steps, seed = parallel.of_rank_0(comm, (t, beta, chains, steps, seed))
    t, beta = positive(t, "local_entropy: t"), positive(beta, "local_entropy: beta")
    at_least(chains, 2, "local_entropy: chains"), at_least(steps, 4, "local_entropy: steps")
    seed = at_least(seed, 0, "local_entropy: seed")
    points, parts = np.polynomial.legendre.leggauss(_NODES)
    roots = 0.5 * (points + 1.0)
    couplings = np.asarray(roots**_POWER)
    with weights.given_back():
        _check_repeatable(weights)
        x = weights.present()
        means = np.stack(
            [_there_and_back(weights, x, t, beta, couplings, steps, derived_seed(seed, i)) for i in range(chains)]
        )
    ways = means @ (0.5 * parts * _POWER * roots ** (_POWER - 1))
    _check_at_rest(ways[:, 0] - ways[:, 1])
    values = ways.mean(axis=1)
    return Estimate(np.asarray(values.mean()), np.asarray(values.std(ddof=1) / math.sqrt(chains)))


def _there_and_back(
    weights: Weights, x: Tensor, t: float, beta: float, couplings: Array, steps: int, seed: int
) -> Array:
    """E_k f of one chain on the way to coupling 1, and on the way back, (2, couplings)."""
    chain = _Chain(weights, x, t, beta, seed)
    up = [chain.mean(k, steps) for k in couplings]
    down = [chain.mean(k, steps) for k in couplings[::-1]]
    return np.array([up, down[::-1]])


def _check_repeatable(weights: Weights) -> None:
    first, second = weights.value_and_gradient()[0], weights.value_and_gradient()[0]
    if abs(first - second) > 1e-5 * max(abs(first), abs(second)):
        raise BadInput(
            f"local_entropy: closure: expected the same loss at the same weights, got {first:.6g} and {second:.6g}; "
            "take all of the data each time, and model.eval() against dropout"
        )


def _check_at_rest(gaps: Array) -> None:
    """Say so where the way there and the way back differ by more than chance."""
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    if abs(gaps.mean()) > _DIFFER * error:
        logger.warning(
            "local_entropy: chains that come from weaker coupling differ by %.2g from those that come from stronger "
            "coupling, more than their error of %.2g explains: they have not come to rest. Take more steps.",
            gaps.mean(),
            error,
        )


class _Chain:
    """Samples z = y - x of exp(-beta (k f(x + z) + |z|²/(2t))). Collective, as are its methods."""

    def __init__(self, weights: Weights, x: Tensor, t: float, beta: float, seed: int) -> None:
        self._weights, self._x = weights, x
        self._t, self._beta = t, beta
        self._noise = Noise(seed, exact=True)
        self._chance = np.random.default_rng(seed)
        self._z = self._drawn()
        self._f, self._slope = self._look(self._z)
        #: The part of the way to a fresh draw that a move goes, 1 for all of it.
        self._pace = 1.0

    def _drawn(self) -> Tensor:
        """A draw of the Gaussian of coupling 0."""
        z = self._x.new_zeros(len(self._x))
        self._noise.add_([z], math.sqrt(self._t / self._beta))
        return z

    def _look(self, z: Tensor) -> tuple[float, Tensor]:
        self._weights.put(self._x + z)
        return self._weights.value_and_gradient()

    def mean(self, coupling: float, steps: int) -> float:
        """The mean of f over the later ones of so many moves."""
        first = max(int(_AT_REST * steps), 1)
        total = 0.0
        for n in range(steps):
            taken = self._move(coupling)
            if n < first:
                self._pace = min(self._pace * math.exp(0.5 * (taken - _TAKEN)), 1.0)
            else:
                total += self._f
        return total / (steps - first)

    def _move(self, coupling: float) -> float:
        """A Langevin move, made or not; the chance that it had."""
        keep = 1.0 - self._pace
        pull = self._t * coupling
        fresh = self._drawn().mul_(math.sqrt(1.0 - keep * keep))
        z = keep * self._z - (1.0 - keep) * pull * self._slope + fresh
        f, slope = self._look(z)
        change = -self._beta * coupling * (f - self._f)
        change += self._log_way(z, self._z, slope, pull, keep) - self._log_way(self._z, z, self._slope, pull, keep)
        chance = math.exp(min(change, 0.0))
        if self._chance.random() < chance:
            self._z, self._f, self._slope = z, f, slope
        return chance

    def _log_way(self, here: Tensor, there: Tensor, slope: Tensor, pull: float, keep: float) -> float:
        """log of the density of a move beside that of the same move without a slope."""
        push = pull * slope.double()
        gone = there.double() - keep * here.double()
        along = float(push @ gone) + 0.5 * (1.0 - keep) * float(push @ push)
        return -along * self._beta / ((1.0 + keep) * self._t)
