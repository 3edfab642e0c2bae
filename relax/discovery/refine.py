"""Maximum likelihood: the coefficients and the initial state under which the data are most likely."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from dolfinx import fem

from relax.base.types import Array
from relax.discovery.data import Scattered, States
from relax.discovery.seen import ScatteredValues
from relax.engine.reduced import ReducedMap
from relax.invert.methods.gauss_newton import gauss_newton
from relax.invert.posterior import GaussianPosterior
from relax.invert.priors.block import BlockPrior
from relax.invert.priors.identity import IdentityPrior
from relax.invert.priors.smoothness import SmoothnessPrior
from relax.invert.result import Result
from relax.observe import FieldValues
from relax.problem.evolution import Evolution

# The prior of a coefficient is this many times wider than what was found: it says nothing.
_WIDE = 10.0
# Where the gradient is this many of those deviations, coefficients are within a thousandth of their own.
_NEAR = 0.1
# Up to so many data a step of Gauss and Newton is made in their space, by dense algebra.
_DENSE = 3000


@dataclass(frozen=True)
class Refined(Result):
    """A ``Result`` of :meth:`Found.refine` or of a system's; ``value`` is the initial state and the coefficients.

    Attributes:
        coefficients: c, those of the terms that are not leading ones, (num,).
        covariance: theirs, (num, num): the inverse of the Fisher information of the data, once the initial state has
            taken its part of it (the bound of Cramér and Rao).
        posterior: N(value, .) of both, linearised there.
        evolution: the equation with both in it.
    """

    coefficients: Array
    covariance: Array
    posterior: GaussianPosterior
    evolution: Evolution

    @property
    def std(self) -> Array:
        """The standard deviation of each coefficient."""
        return np.sqrt(np.diag(self.covariance))


def refined(
    evolution: Evolution, data: States | Scattered, noise: float, order: int, length: float, size: float
) -> Refined:
    """Minimise ½ |(y - data)/noise|² over the initial state and the coefficients, from where they are. Collective.

    Args:
        evolution: whose controls are these.
        data: of u.
        noise: the standard deviation of their independent errors.
        order: 1, or 2 for an equation with u_tt, whose state is (u, u_t).
        length: of the prior of the initial state.
        size: its standard deviation.
    """
    state = evolution.state
    V = state.function_space
    # Of (u, u_t) the first is seen.
    seen = V.sub(0) if order == 2 else V
    points, times, values = _scattered(data, seen)
    dt = evolution.step_length
    assert dt is not None
    steps = np.asarray((times - evolution.start) / dt, dtype=np.float64)
    G = ReducedMap(evolution, ScatteredValues(seen, points, steps, evolution.num_steps))
    m0 = G.present_control()
    num = len(m0) - V.dofmap.index_map.size_global * V.dofmap.index_map_bs
    first, c = np.split(m0, [len(m0) - num])
    smooth = SmoothnessPrior(V, length=length, std=size, mean=_means(first, V))
    # Each in its own unit: the unit of length alone may make one 1e-7.
    free = [IdentityPrior(1, std=_WIDE * abs(float(each)), mean=float(each)) for each in c]
    prior = BlockPrior([smooth, *free])
    y = values.ravel()
    jacobian: Literal["auto", "matrix"] = "matrix" if len(y) <= _DENSE else "auto"
    result = gauss_newton(G, y, m0, noise=noise, prior=prior, jacobian=jacobian, rtol=1e-10, atol=_NEAR)
    with G.linearize(result.value) as lin:
        J, value = lin.matrix(), lin.value
    at = GaussianPosterior.of_linear(prior, J, y - value + J @ result.value, noise)
    units = np.eye(num, len(m0), len(m0) - num)
    covariance = at.covariance(units)[:, len(m0) - num :]
    told: dict[str, Any] = {f.name: getattr(result, f.name) for f in fields(Result)}
    G.close()
    return Refined(
        **told, coefficients=result.value[len(m0) - num :], covariance=0.5 * (covariance + covariance.T),
        posterior=at, evolution=evolution,
    )  # fmt: skip


def _means(values: Array, V: fem.FunctionSpace) -> float | list[float]:
    """The mean of each component of nodal values."""
    means = values.reshape(-1, V.dofmap.bs).mean(axis=0)
    return float(means[0]) if not V.value_shape else [float(m) for m in means]


def _scattered(data: States | Scattered, V: fem.FunctionSpace) -> tuple[Array, Array, Array]:
    """Points, times and values, (num, components)."""
    if isinstance(data, Scattered):
        return data.points, data.times, data.values
    values = FieldValues(V)
    components = values.size // len(np.unique(values.coordinates, axis=0))
    points = values.coordinates[::components, : V.mesh.geometry.dim]
    times = np.repeat(data.times, len(points))
    return np.tile(points, (len(data.times), 1)), times, data.values.reshape(-1, components)
