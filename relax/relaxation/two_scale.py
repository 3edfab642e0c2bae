"""Homogenisation: a fast variable that samples the Gibbs measure makes a slow one descend the relaxed landscape.

    dx = -(1/t) (x - y) ds,  dy = -(1/eps) [grad f(y) + (y - x)/t] ds + sqrt(2 / (eps beta)) dW.

As eps -> 0, x converges to the solution of dX/ds = -grad u(X, t), with u the viscous relaxation of f at time t: the
invariant density of y at fixed x is that of Gibbs, exp(-beta f(y) - beta |x - y|²/(2 t)). With sqrt(1/(eps beta)) it
would be that of 2 beta.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.integrate
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import at_least, positive
from relax.base.types import Array
from relax.relaxation.functions import gradient_of
from relax.relaxation.monte_carlo import Estimate, Paths, heun_step, starting

# The step over eps: fast enough for curvatures of f and 1/t up to about 10.
_STEP = 0.05


@dataclass(frozen=True)
class TwoScale:
    """Where the slow variable is after ``duration``.

    Attributes:
        x: its mean and the mean's standard error, (d,).
        spread: standard deviation of x over paths, (d,); of the order of sqrt(eps).
    """

    x: Estimate
    spread: Array


def simulate(
    gradient: Callable[[Array], Any],
    x0: npt.ArrayLike,
    *,
    beta: float,
    t: float,
    eps: float,
    duration: float,
    num_paths: int = 2048,
    num_steps: int | None = None,
    seed: int = 0,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> TwoScale:
    """Paths of the two-scale equation from x = y = x0. Collective. Dimensionless.

    Steps are Heun's, of weak order 2. The mean of x is away from the limit by O(eps).

    Args:
        gradient: grad f: points (n, d) -> (n, d); called with each rank's own paths.
        x0: (d,) start.
        beta: inverse temperature.
        t: of the relaxation; 1/t is the spring between x and y.
        eps: ratio of the scales.
        duration: s, how long to follow the paths.
        num_paths: over all ranks.
        num_steps: by default steps of 0.05 eps, for curvatures of f and 1/t up to about 10.
        seed: the same paths on any number of ranks.
        comm: whose ranks share the paths.
    """
    positive(beta, "beta"), positive(t, "t"), positive(eps, "eps"), positive(duration, "duration")
    start = starting(x0)
    d = len(start)
    paths = Paths(num_paths, seed, comm)
    steps = int(np.ceil(duration / (_STEP * eps))) if num_steps is None else at_least(num_steps, 1, "num_steps")
    ds = duration / steps
    noise = np.sqrt(2.0 * ds / (eps * beta))
    state = np.tile(start, (paths.count, 2))  # x, then y

    def drift(state: Array, _: float) -> Array:
        x, y = state[:, :d], state[:, d:]
        spring = (y - x) / t
        with parallel.together(comm):
            slope = gradient_of(gradient, y, "gradient")
        return np.concatenate([spring, -(slope + spring) / eps], axis=1)

    kick = np.zeros_like(state)
    for n in range(steps):
        kick[:, d:] = noise * paths.normal(d)
        state = heun_step(drift, state, n * ds, ds, kick)
    mean = paths.estimate(state[:, :d])
    return TwoScale(mean, mean.error * np.sqrt(num_paths))


def averaged(
    relaxed_gradient: Callable[[Array], Any], x0: npt.ArrayLike, duration: float, *, rtol: float = 1e-8
) -> Array:
    """X(duration), (d,), of the limit dX/ds = -grad u(X, t), X(0) = x0. Collective where ``relaxed_gradient`` is.

    Args:
        relaxed_gradient: grad u(., t): points (1, d) -> (1, d), as ``lambda x: landscape.gradient(x, t)`` or
            ``lambda x: cole_hopf.gradient(f, x, t, beta=beta)``.
        x0: (d,) start.
        duration: s.
        rtol: relative tolerance of the integration.
    """
    positive(duration, "duration")

    def slope(_: float, x: Array) -> Array:
        return -gradient_of(relaxed_gradient, x[None, :], "relaxed_gradient")[0]

    found = scipy.integrate.solve_ivp(slope, (0.0, duration), starting(x0), rtol=rtol, atol=rtol * 1e-3)
    return np.asarray(found.y[:, -1])
