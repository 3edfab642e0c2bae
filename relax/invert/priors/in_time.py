"""Gaussian priors on controls with a value in each step: a prior on one value, times a process in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base.checks import array_like, at_least, one_of, positive
from relax.base.fem.layout import Kind
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.priors.base import Prior, check_prior


class TimePrior:
    """m_1, ..., m_N at times t_1 < ... < t_N with the covariance T_kl C, for a control of ``per_step``.

    C is the covariance of ``prior``, of one value: a field (``SmoothnessPrior``), or numbers (``IdentityPrior``). In
    time, with τ the ``correlation_time``,

        "ornstein_uhlenbeck":  T_kl = exp(−|t_k − t_l| / τ), stationary;
        "random_walk":         T_kl = 1 + (min(t_k, t_l) − t_1) / τ: increments have the covariance C in a time τ.

    Both are Markov: with a_k = exp(−(t_k − t_{k−1}) / τ), s_k² = 1 − a_k², or a_k = 1, s_k² = (t_k − t_{k−1}) / τ,

        m_1 − mean_1 = L ξ_1,    m_k − mean_k = a_k (m_{k−1} − mean_{k−1}) + s_k L ξ_k,    C = L Lᵀ,

    so that all methods cost what N of the prior's do, in blocks, and as much memory. The control vector has the values
    of the steps one after the other, as that of an ``Evolution`` has; other controls come beside it by ``BlockPrior``.

    Collective where the prior's methods are.

    Args:
        prior: of one value; ``close`` closes it.
        num_steps: N.
        correlation_time: τ, in the units of ``dt``.
        dt: t_k − t_{k−1}: a number.
        times: t_1, ..., t_N, increasing, in place of ``dt``: those at which the values are, such as the ends of steps.
        process: above.

    Attributes:
        mean: the prior's in each step.

    Raises:
        BadInput: for what is no prior, numbers that are not positive, and times that do not increase.
    """

    def __init__(
        self,
        prior: Prior,
        num_steps: int,
        *,
        correlation_time: float,
        dt: float | None = None,
        times: npt.ArrayLike | None = None,
        process: str = "ornstein_uhlenbeck",
    ) -> None:
        check_prior(prior, "prior")
        self.prior = prior
        self.kind: Kind = prior.kind
        self.num_steps = at_least(num_steps, 1, "num_steps")
        self.size = self.num_steps * prior.size
        self.mean: Array = np.tile(prior.mean, self.num_steps)
        one_of(process, ("ornstein_uhlenbeck", "random_walk"), "process")
        steps = _steps(self.num_steps, dt, times) / positive(correlation_time, "correlation_time")
        # (N - 1,): what a step keeps, and what is new in it.
        is_walk = process == "random_walk"
        self._kept = np.ones_like(steps) if is_walk else np.exp(-steps)
        self._new = np.sqrt(steps) if is_walk else np.sqrt(-np.expm1(-2.0 * steps))

    def _rows(self, v: Array) -> Array:
        """Vectors (..., size) as (..., N, size of one value)."""
        return np.reshape(v, (*np.shape(v)[:-1], self.num_steps, self.prior.size))

    def _centred(self, m: Array) -> Array:
        """m − mean, plus the mean of one value in each step, as the prior's own methods want it."""
        return self._rows(np.asarray(m) - self.mean) + self.prior.mean

    def _summed(self, xi: Array) -> Array:
        """Λ ξ for rows (..., N, n), Λ Λᵀ = T: x_1 = ξ_1, x_k = a_k x_{k−1} + s_k ξ_k."""
        result = np.array(xi)
        for k, (kept, new) in enumerate(zip(self._kept, self._new, strict=True), 1):
            result[..., k, :] = kept * result[..., k - 1, :] + new * xi[..., k, :]
        return result

    def _summed_adjoint(self, x: Array) -> Array:
        """Λᵀ x for rows (..., N, n)."""
        result = np.array(x)
        for k in range(self.num_steps - 1, 0, -1):
            result[..., k - 1, :] += self._kept[k - 1] * result[..., k, :]
            result[..., k, :] *= self._new[k - 1]
        return result

    def _differences(self, x: Array) -> Array:
        """Λ⁻¹ x for rows (..., N, n)."""
        result = np.array(x)
        changes = x[..., 1:, :] - self._kept[:, None] * x[..., :-1, :]
        result[..., 1:, :] = changes / self._new[:, None]
        return result

    def _differences_adjoint(self, x: Array) -> Array:
        """Λ⁻ᵀ x for rows (..., N, n)."""
        result = np.array(x)
        result[..., 1:, :] = x[..., 1:, :] / self._new[:, None]
        result[..., :-1, :] -= self._kept[:, None] * result[..., 1:, :]
        return result

    def _flat(self, rows: Array) -> Array:
        return np.reshape(rows, (*rows.shape[:-2], self.size))

    def cost(self, m: Array) -> float:
        """½ (m − mean)ᵀ (T ⊗ C)⁻¹ (m − mean), for one control vector (size,)."""
        changes = self._differences(self._rows(np.asarray(m) - self.mean))
        return sum(self.prior.cost(x + self.prior.mean) for x in changes)

    def gradient(self, m: Array) -> Array:
        """(T ⊗ C)⁻¹ (m − mean), dual."""
        return self.precision(np.asarray(m) - self.mean)

    def precision(self, v: Array) -> Array:
        """(T ⊗ C)⁻¹ v for v of shape (..., size), primal to dual."""
        return self._flat(self._differences_adjoint(self.prior.precision(self._differences(self._rows(v)))))

    def covariance(self, v: Array) -> Array:
        """(T ⊗ C) v for v of shape (..., size), dual to primal."""
        return self._flat(self._summed(self.prior.covariance(self._summed_adjoint(self._rows(v)))))

    def whiten(self, m: Array) -> Array:
        """Independent standard normal entries when m is drawn from the prior."""
        return self._flat(self._differences(self.prior.whiten(self._centred(m))))

    def color(self, xi: Array) -> Array:
        """The inverse of ``whiten``."""
        return self.mean + self._flat(self._summed(self.prior.color(self._rows(xi)) - self.prior.mean))

    def color_adjoint(self, v: Array) -> Array:
        """A derivative with respect to m as one with respect to xi, for v of shape (..., size)."""
        return self._flat(self.prior.color_adjoint(self._summed_adjoint(self._rows(v))))

    def sample(self, seed: int) -> Array:
        """A draw: one stream of the prior's random numbers for each step."""
        seeds = np.random.SeedSequence(seed).generate_state(self.num_steps, np.uint64)
        draws = np.stack([self.prior.sample(int(s)) - self.prior.mean for s in seeds])
        return self.mean + self._flat(self._summed(draws))

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:
        """The variance of each entry, T_kk times the prior's; the arguments are for that."""
        of_steps = (self._summed(np.eye(self.num_steps)) ** 2).sum(axis=1)
        return np.outer(of_steps, self.prior.variance(samples=samples, seed=seed)).ravel()

    def close(self) -> None:
        """Close the prior."""
        self.prior.close()


def _steps(num_steps: int, dt: float | None, times: Any) -> Array:
    """The lengths of the steps between values, (num_steps - 1,)."""
    if (dt is None) == (times is None):
        raise BadInput("TimePrior: expected either dt or times, got " + ("neither" if dt is None else "both"))
    if dt is not None:
        return np.full(num_steps - 1, positive(dt, "dt"))
    at = np.asarray(array_like(times, "times"), dtype=np.float64)
    if at.shape != (num_steps,) or not np.isfinite(at).all() or not (np.diff(at) > 0.0).all():
        raise BadInput(
            f"times: expected {num_steps} finite numbers that increase, one for each value (of an evolution the ends "
            f"of its steps, evolution.times[1:]), got {times!r:.80}"
        )
    return np.asarray(np.diff(at))
