"""Solutions in closed form, of the viscous equation, of its inviscid limit, and of its controlled version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.special

from relax.base.checks import positive
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.functions import as_points


@dataclass(frozen=True)
class ClosedForm:
    """A solution of u_t = -1/2 |grad u|^2 + 1/(2 beta) Lap u. Dimensionless.

    Attributes:
        f: the initial datum, a function of x: (d, n) -> (n,).
        u: (x, t) -> (n,), with x of shape (d, n).
        gradient: (x, t) -> (n, d), with x of shape (d, n).
    """

    f: Callable[[Array], Array]
    u: Callable[[Array, float], Array]
    gradient: Callable[[Array, float], Array]


def affine(a: npt.ArrayLike, c: float = 0.0) -> ClosedForm:
    """f = a·x + c, u = a·x + c - |a|² t/2, for any beta.

    Args:
        a: (d,) slopes.
        c: a constant.
    """
    slope = np.atleast_1d(np.asarray(a, dtype=np.float64))

    def u(x: Array, t: float) -> Array:
        return np.asarray(slope @ x[: len(slope)] + c - 0.5 * slope @ slope * t)

    return ClosedForm(lambda x: u(x, 0.0), u, lambda x, t: np.tile(slope, (x.shape[1], 1)))


def quadratic(c: float, *, beta: float, dim: int = 1) -> ClosedForm:
    """f = ½ c |x|², u = c |x|² / (2 (1 + c t)) + d/(2 beta) log(1 + c t).

    Args:
        c: the curvature; a negative one blows up at t = 1/|c|.
        beta: inverse temperature; infinity for the inviscid equation.
        dim: d.
    """

    def growth(t: float) -> float:
        if 1.0 + c * t <= 0.0:
            raise BadInput(f"quadratic: expected t below {-1.0 / c:g}, where the solution blows up, got {t:g}")
        return 1.0 + c * t

    def u(x: Array, t: float) -> Array:
        g = growth(t)
        return np.asarray(0.5 * c / g * np.sum(x[:dim] ** 2, axis=0) + dim / (2.0 * beta) * np.log(g))

    return ClosedForm(lambda x: u(x, 0.0), u, lambda x, t: c / growth(t) * x[:dim].T)


def cosine(k: npt.ArrayLike, *, beta: float, amplitude: float) -> ClosedForm:
    """f = -(1/beta) log(1 + A prod_i cos(k_i x_i)): the same at time t with A exp(-|k|² t / (2 beta)) for A.

    With k_i a multiple of pi it has vanishing normal derivatives on the boundary of [0, 1]^d: the one to test finite
    elements with.

    Args:
        k: (d,) wave numbers.
        beta: inverse temperature.
        amplitude: A, between -1 and 1.
    """
    waves = np.atleast_1d(np.asarray(k, dtype=np.float64))
    if not -1.0 < amplitude < 1.0:
        raise BadInput(f"cosine: amplitude: expected a number between -1 and 1, got {amplitude!r}")
    positive(beta, "cosine: beta")

    def parts(x: Array, t: float) -> tuple[float, Array]:
        decayed = amplitude * np.exp(-float(waves @ waves) * t / (2.0 * beta))
        return decayed, waves[:, None] * x[: len(waves)]

    def u(x: Array, t: float) -> Array:
        a, angles = parts(x, t)
        return np.asarray(-np.log1p(a * np.prod(np.cos(angles), axis=0)) / beta)

    def gradient(x: Array, t: float) -> Array:
        a, angles = parts(x, t)
        cosines = np.cos(angles)
        below = beta * (1.0 + a * np.prod(cosines, axis=0))
        others = [np.prod(np.delete(cosines, i, axis=0), axis=0) for i in range(len(waves))]
        return np.stack([a * waves[i] * np.sin(angles[i]) * others[i] / below for i in range(len(waves))], axis=1)

    return ClosedForm(lambda x: u(x, 0.0), u, gradient)


def kink(slope: float, *, beta: float) -> ClosedForm:
    """f = s |x| on the line, in terms of the normal distribution function Phi, sigma = sqrt(t/beta):

    u = -s² t/2 - (1/beta) log[exp(-beta s x) Phi((x - s t)/sigma) + exp(beta s x) Phi((-x - s t)/sigma)].

    A convex kink (s > 0) is rounded, and is Huber's function for beta = infinity; a concave one (s < 0) stays.

    Args:
        slope: s.
        beta: inverse temperature; infinity for the inviscid equation.
    """

    def branches(x: Array, t: float) -> tuple[Array, Array]:
        sigma = np.sqrt(t / beta)
        right = -beta * slope * x[0] + scipy.special.log_ndtr((x[0] - slope * t) / sigma)
        left = beta * slope * x[0] + scipy.special.log_ndtr((-x[0] - slope * t) / sigma)
        return right, left

    def inside(x: Array, t: float) -> npt.NDArray[np.bool_]:
        return np.abs(x[0]) < slope * t

    def u(x: Array, t: float) -> Array:
        if t == 0:
            return np.asarray(slope * np.abs(x[0]))
        if np.isinf(beta):
            return np.where(inside(x, t), x[0] ** 2 / (2.0 * t), slope * np.abs(x[0]) - 0.5 * slope**2 * t)
        return np.asarray(-0.5 * slope**2 * t - np.logaddexp(*branches(x, t)) / beta)

    def gradient(x: Array, t: float) -> Array:
        if t == 0 or np.isinf(beta):
            flat = np.where(inside(x, t), x[0] / max(t, 1e-300), slope * np.sign(x[0]))
            return flat[:, None]
        # The terms in the density of the normal distribution cancel: u' is the mean slope, as it should be.
        right, left = branches(x, t)
        return (slope * np.tanh(0.5 * (right - left)))[:, None]

    return ClosedForm(lambda x: u(x, 0.0), u, gradient)


def inviscid_correction(hessian: npt.ArrayLike, t: float) -> Array:
    """½ log det(I + t D²f(y*)): the limit of beta (u_beta - u_HopfLax) as beta -> infinity, for convex f.

    Args:
        hessian: (n, d, d) D²f at the minimisers y* of f(y) + |x - y|²/(2 t).
        t: time.

    Returns:
        (n,).
    """
    curvature = np.asarray(hessian, dtype=np.float64)
    sign, logarithm = np.linalg.slogdet(np.eye(curvature.shape[-1]) + t * curvature)
    if (sign <= 0.0).any():
        raise BadInput("inviscid_correction: expected I + t D²f to be positive, which it is at a minimiser")
    return np.asarray(0.5 * logarithm)


@dataclass(frozen=True)
class ControlledQuadratic:
    """The stochastic control of f = V = ½ c |x|²: every term of the inequality. Dimensionless.

    dx = -(grad f + alpha) ds + beta^(-1/2) dW from x0, over a time t, with cost E[V(x_t)] + ½ E ∫ |alpha|² ds. With
    e = exp(-2 c t) and a(s) = 2 c / (3 exp(2 c s) - 1), s the time to go, the value function is
    u = ½ a(t) |x0|² + d/(2 beta) log((3 - e)/2) and the optimal control alpha = grad u.

    Attributes:
        c: curvature, above 0.
        beta: inverse temperature.
    """

    c: float
    beta: float

    def __post_init__(self) -> None:
        positive(self.c, "c")
        positive(self.beta, "beta")

    def alpha(self, x: Array, to_go: float) -> Array:
        """The optimal control at points (n, d), with ``to_go`` the time left."""
        return 2.0 * self.c / (3.0 * np.exp(2.0 * self.c * to_go) - 1.0) * x

    def value(self, x: npt.ArrayLike, t: float) -> Array:
        """u at points (n, d), t before the end, (n,): expected V and cost of control together."""
        points = as_points(x)
        decayed = np.exp(-2.0 * self.c * t)
        squared = np.sum(points * self.alpha(points, t), axis=1)
        return np.asarray(0.5 * squared + points.shape[1] / (2.0 * self.beta) * np.log(0.5 * (3.0 - decayed)))

    def expected(self, x: npt.ArrayLike, t: float) -> Array:
        """E[V(x_t)] without control, from points (n, d), (n,)."""
        points = as_points(x)
        e = np.exp(-2.0 * self.c * t)
        variance = points.shape[1] * (1.0 - e) / (2.0 * self.c * self.beta)
        return np.asarray(0.5 * self.c * (np.sum(points**2, axis=1) * e + variance))

    def expected_controlled(self, x: npt.ArrayLike, t: float) -> Array:
        """E[V(x_t)] under the optimal control, (n,)."""
        points = as_points(x)
        e = np.exp(-2.0 * self.c * t)
        mean = 2.0 * points * np.exp(-self.c * t) / (3.0 - e)
        variance = points.shape[1] * (1.0 - e) / (self.c * self.beta * (3.0 - e))
        return np.asarray(0.5 * self.c * (np.sum(mean**2, axis=1) + variance))

    def cost(self, x: npt.ArrayLike, t: float) -> Array:
        """½ E ∫ |alpha|² ds under the optimal control, (n,)."""
        return self.value(x, t) - self.expected_controlled(x, t)
