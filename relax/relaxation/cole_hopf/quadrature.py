"""The Cole–Hopf formula by quadrature: value, gradient, Hessian, Gibbs moments, in 1 to 3 dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.special

from relax.base.checks import at_least, positive
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.functions import Landscape, as_points, grid, values_of

# Points are treated in groups of at most this many values of f.
_GROUP = 2_000_000
# The part of the Gibbs weight that may lie on the faces of the box of a trapezoidal rule.
_TAIL = 1e-12


class Rule(Protocol):
    """Nodes z and weights of an expectation E[g(Z)], Z ~ N(0, I)."""

    def nodes(self, dim: int) -> tuple[Array, Array]:
        """Nodes (q, dim) and logarithms of weights (q,), which sum to 1."""

    def check(self, log_terms: Array, dim: int) -> None:
        """Raise where the rule is not good enough for terms with these logarithms, (n, q)."""


@dataclass(frozen=True)
class GaussHermite:
    """Gauss–Hermite nodes, tensorised.

    Exact for polynomials of degree 2 num - 1. Converges fast where f is smooth on the scale of sqrt(t/beta) / sqrt(num)
    and beta f varies by less than about num over sqrt(t/beta); it does not tell where it is not enough.

    Args:
        num: nodes in each direction; by default 120, 60, 30 in 1, 2, 3 dimensions.
    """

    num: int | None = None

    def nodes(self, dim: int) -> tuple[Array, Array]:
        num = (120, 60, 30)[dim - 1] if self.num is None else at_least(self.num, 1, "GaussHermite: num")
        z, w = scipy.special.roots_hermitenorm(num)
        with np.errstate(divide="ignore"):
            return _tensor(z, np.log(w / w.sum()), dim)

    def check(self, log_terms: Array, dim: int) -> None:
        """Nothing to check."""


@dataclass(frozen=True)
class Trapezoidal:
    """A uniform grid in z, for rugged f and high beta. It checks itself.

    Args:
        num: intervals in each direction, even; by default 4000, 400, 80 in 1, 2, 3 dimensions.
        width: the grid covers [-width, width]^d in units of sqrt(t/beta). It has to hold the Gibbs measure, which lies
            within about sqrt(t beta) |grad f| + 8.
        tolerance: how far log E may be from that of every second node.
    """

    num: int | None = None
    width: float = 12.0
    tolerance: float = 1e-6

    def _num(self, dim: int) -> int:
        num = (4000, 400, 80)[dim - 1] if self.num is None else at_least(self.num, 4, "Trapezoidal: num")
        if num % 2:
            raise BadInput(f"Trapezoidal: num: expected an even number, got {num}")
        return num

    def nodes(self, dim: int) -> tuple[Array, Array]:
        width = positive(self.width, "Trapezoidal: width")
        z: Array = np.linspace(-width, width, self._num(dim) + 1, dtype=np.float64)
        log_w = -0.5 * z**2
        return _tensor(z, log_w - scipy.special.logsumexp(log_w), dim)

    def check(self, log_terms: Array, dim: int) -> None:
        """Raise where the Gibbs measure reaches the faces of the grid, or every second node gives something else.

        Raises:
            BadInput: naming what to change.
        """
        num = self._num(dim)
        terms = log_terms.reshape(len(log_terms), *[num + 1] * dim)
        every = tuple(range(1, dim + 1))
        total = scipy.special.logsumexp(terms, axis=every)
        for axis in every:
            for face in (0, num):
                share = scipy.special.logsumexp(np.take(terms, face, axis=axis).reshape(len(terms), -1), axis=1) - total
                if (share > np.log(_TAIL)).any():
                    raise BadInput(
                        f"Trapezoidal: the Gibbs measure reaches the face of the grid (a part {np.exp(share.max()):.1e}"
                        f" of it); expected less than {_TAIL:.0e}. Try a larger width than {self.width:g}"
                    )
        second = terms[(slice(None), *[slice(None, None, 2)] * dim)]
        away = np.abs(scipy.special.logsumexp(second, axis=every) + dim * np.log(2.0) - total)
        if (away > self.tolerance).any():
            raise BadInput(
                f"Trapezoidal: log E changes by {away.max():.1e} when every second node is left out; expected at most "
                f"{self.tolerance:g}. Try more intervals than {num}, or a smaller width than {self.width:g}"
            )


def _tensor(z: Array, log_w: Array, dim: int) -> tuple[Array, Array]:
    return grid([z] * dim), grid([log_w] * dim).sum(axis=1)


@dataclass(frozen=True)
class Gibbs:
    """u and its derivatives at points, from the measure rho(y) ∝ exp(-beta f(y) - beta |x - y|^2 / (2 t)).

    Attributes:
        value: u, (n,).
        gradient: grad u = (x - E_rho[y]) / t, (n, d).
        hessian: D²u = I/t - beta/t² Cov_rho(y), (n, d, d).
        mean: E_rho[y], (n, d).
        covariance: Cov_rho(y), (n, d, d).
    """

    value: Array
    gradient: Array
    hessian: Array
    mean: Array
    covariance: Array


def gibbs(f: Landscape, x: npt.ArrayLike, t: float, *, beta: float, rule: Rule = GaussHermite()) -> Gibbs:
    """The Gibbs measure at points: u(x, t), its gradient and Hessian, mean and covariance. Dimensionless.

    Args:
        f: a function of x: (d, n) -> (n,).
        x: (n, d) points, or (n,) on a line.
        t: time, above 0.
        beta: inverse temperature, above 0 and finite; ``relax.relaxation.hopf_lax`` is the limit.
        rule: quadrature in Z, :class:`GaussHermite` or :class:`Trapezoidal`.

    Raises:
        BadInput: for what does not fit, and where a :class:`Trapezoidal` rule is not good enough.
    """
    points = as_points(x)
    parts = [_moments(group, z, terms) for group, z, terms in _terms(f, points, t, beta, rule)]
    log_mean, first, second = (np.concatenate(piece) for piece in zip(*parts, strict=True))
    cov = second - first[:, :, None] * first[:, None, :]
    # In units of sqrt(t / beta): differences of large coordinates would cost digits.
    return Gibbs(
        value=-log_mean / beta,
        gradient=-first / np.sqrt(t * beta),
        hessian=(np.eye(points.shape[1]) - cov) / t,
        mean=points + np.sqrt(t / beta) * first,
        covariance=cov * t / beta,
    )


def value(f: Landscape, x: npt.ArrayLike, t: float, *, beta: float, rule: Rule = GaussHermite()) -> Array:
    """u(x, t), (n,); f at t = 0. Arguments as of :func:`gibbs`."""
    points = as_points(x)
    if t == 0:
        return np.array(values_of(f, points))
    parts = [scipy.special.logsumexp(terms, axis=1) for _, _, terms in _terms(f, points, t, beta, rule)]
    return -np.concatenate(parts) / beta


def gradient(f: Landscape, x: npt.ArrayLike, t: float, *, beta: float, rule: Rule = GaussHermite()) -> Array:
    """grad u(x, t), (n, d). Arguments as of :func:`gibbs`."""
    return gibbs(f, x, t, beta=beta, rule=rule).gradient


def hessian(f: Landscape, x: npt.ArrayLike, t: float, *, beta: float, rule: Rule = GaussHermite()) -> Array:
    """D²u(x, t), (n, d, d). Arguments as of :func:`gibbs`."""
    return gibbs(f, x, t, beta=beta, rule=rule).hessian


def heat(f: Landscape, x: npt.ArrayLike, t: float, *, beta: float, rule: Rule = GaussHermite()) -> Array:
    """v(x, t) = E[f(x + sqrt(t/beta) Z)], (n,), which solves v_t = 1/(2 beta) Lap v; above u (Jensen).

    Arguments as of :func:`gibbs`; a :class:`Trapezoidal` rule does not check itself here.
    """
    sampled = _sampled(f, as_points(x), t, beta, rule)
    return np.concatenate([values @ np.exp(log_w) for _, _, log_w, values in sampled])


def density(
    f: Landscape, x: npt.ArrayLike, y: npt.ArrayLike, t: float, *, beta: float, rule: Rule = GaussHermite()
) -> Array:
    """rho(y; x), the Gibbs density at points y, (n, m): the derivative of u(x, t) with respect to f(y).

    Args:
        f: a function of x: (d, n) -> (n,).
        x: (n, d) points.
        y: (m, d) points.
        t: time, above 0.
        beta: inverse temperature.
        rule: quadrature in Z for its integral.
    """
    points, others = as_points(x), as_points(y, "y")
    if others.shape[1] != points.shape[1]:
        raise BadInput(f"y: expected points of dimension {points.shape[1]}, as x has, got {others.shape[1]}")
    u = value(f, points, t, beta=beta, rule=rule)
    squared = np.sum((points[:, None, :] - others[None, :, :]) ** 2, axis=2)
    log_gauss = -beta * squared / (2.0 * t) - 0.5 * points.shape[1] * np.log(2.0 * np.pi * t / beta)
    return np.exp(beta * (u[:, None] - values_of(f, others)[None, :]) + log_gauss)


def _sampled(f: Landscape, points: Array, t: float, beta: float, rule: Rule) -> Iterator[tuple[Array, ...]]:
    """Groups of points (n, d), nodes z (q, d), logarithms of their weights (q,), f around the points (n, q)."""
    dim = points.shape[1]
    if dim > 3:
        raise BadInput(f"x: expected points of dimension 1 to 3, got {dim}; a separable f is a sum of lines")
    z, log_w = rule.nodes(dim)
    steps = np.sqrt(positive(t, "t") / positive(beta, "beta")) * z
    size = max(1, _GROUP // len(z))
    for i in range(0, max(len(points), 1), size):
        group = points[i : i + size]
        shifted = (group[:, None, :] + steps[None, :, :]).reshape(-1, dim)
        yield group, z, log_w, values_of(f, shifted).reshape(len(group), len(z))


def _terms(f: Landscape, points: Array, t: float, beta: float, rule: Rule) -> Iterator[tuple[Array, Array, Array]]:
    """Groups of points, nodes z, and log(w exp(-beta f)), (size of the group, q)."""
    for group, z, log_w, values in _sampled(f, points, t, beta, rule):
        terms = log_w - beta * values
        if len(group):
            rule.check(terms, points.shape[1])
        yield group, z, terms


def _moments(group: Array, z: Array, terms: Array) -> tuple[Array, Array, Array]:
    """log E[exp(-beta f)], and first and second moments of z under the Gibbs measure."""
    log_mean = scipy.special.logsumexp(terms, axis=1)
    rho = np.exp(terms - log_mean[:, None])
    dim = z.shape[1]
    squares = (z[:, :, None] * z[:, None, :]).reshape(len(z), dim * dim)
    return log_mean, rho @ z, (rho @ squares).reshape(len(group), dim, dim)
