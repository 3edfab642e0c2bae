"""A field in space and time from scattered samples with noise: its posterior under a Gaussian prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.linalg
from dolfinx import fem
from scipy.optimize import minimize

from relax.base import parallel
from relax.base.checks import ABOVE_0, number_in
from relax.base.log import warn
from relax.base.types import Array
from relax.discovery.data import Data, Scattered, read
from relax.errors import BadInput
from relax.invert.posterior import GaussianPosterior
from relax.invert.priors.identity import IdentityPrior
from relax.observe import FieldValues

Correlation: TypeAlias = Callable[[Array, Array], Array]

# How many samples choose lengths and size of the prior, and how many nodes span it.
_CHOOSE, _NODES = 400, 300
# Of the functions that span the prior those count whose variance is this share of the largest.
_COUNTS = 1e-12
# Coordinates are rounded to so many digits of the extent: their last bits depend on the number of ranks.
_DIGITS = 9
# Where those functions leave out this share of the noise's variance, squared errors are 1.5 to 2 times those that the
# posterior tells; at a tenth of it no more than chance (measured: 300 samples on a line).
_MATTERS = 0.1


@dataclass(frozen=True)
class Lengths:
    """A prior for fields in space and time: k = size² M(|x - y| / space) M(|t - s| / time), M Matérn's of ν = 9/2."""

    space: float
    time: float
    size: float

    def of_space(self, x: Array, y: Array) -> Array:
        return _matern(_between(x, y) / self.space)

    def of_time(self, t: Array, s: Array) -> Array:
        return _matern(_between(t[:, None], s[:, None]) / self.time)


def _between(x: Array, y: Array) -> Array:
    return np.asarray(np.linalg.norm(x[:, None] - y, axis=2), dtype=np.float64)


def _matern(r: npt.NDArray[np.floating[Any]]) -> Array:
    """The correlation of Matérn for ν = 9/2 (Rasmussen and Williams, Gaussian Processes, MIT Press 2006, ch. 4)."""
    r = 3.0 * r
    return np.asarray((1.0 + r * (1.0 + r * (3.0 / 7.0 + r * (2.0 / 21.0 + r / 105.0)))) * np.exp(-r))


@dataclass(frozen=True)
class Spanned:
    """A scalar field as a sum of products: offset + sum of w_k f_a(k)(t) g_b(k)(x), w Gaussian.

    Attributes:
        lengths: the prior.
        offset: the mean of the samples.
        in_time, in_space: values of f (num_times, .) at times, of g (num_nodes, .) at nodes.
        kept: the numbers a and b of each product.
        weights: the posterior of w.
        J: the products at the samples, (num, num_products).
        residual: the samples less the offset.
    """

    lengths: Lengths
    offset: float
    in_time: Array
    in_space: Array
    kept: npt.NDArray[np.int64]
    weights: GaussianPosterior
    J: Array
    residual: Array

    def field(self, weights: Array) -> Array:
        """Fields of some weights (num, num_products): (num, num_times, num_nodes)."""
        table = np.zeros((len(weights), self.in_time.shape[1], self.in_space.shape[1]))
        table[:, self.kept[0], self.kept[1]] = weights
        return np.asarray(self.offset + self.in_time @ (table @ self.in_space.T))


class FieldPosterior:
    """The field that samples scattered over space and time tell of, at the nodes of a space and at times.

    Collective to make. The prior is Gaussian with the covariance size² M(|x - y| / space) M(|t - s| / time), M the
    correlation of Matérn for ν = 9/2, of the lengths and size that make a few hundred of the samples most likely; its
    mean is theirs. Products of functions of x and of t span it (Nyström's method), those that 300 nodes at most and the
    times tell apart. A warning says where these are too few for its lengths, so that the field is known less well than
    the posterior says. Components of a vector are independent.

    Args:
        V: a Lagrange space, scalar or vector.
        data: (points, times, values), of shapes (num, gdim), (num,), and (num,) or (num, components).
        noise: the standard deviation of their independent errors.
        times: those of the states wanted, (num_times,).

    Attributes:
        times: (num_times,).
        mean: (num_times * size,), state after state, each in the order of ``relax.FieldValues``.
        components: of each component the functions and the posterior of their weights.
    """

    def __init__(self, V: fem.FunctionSpace, data: Data, *, noise: float, times: npt.ArrayLike) -> None:
        if V.num_sub_spaces > V.dofmap.bs or not V.element.interpolation_ident:
            raise BadInput(f"FieldPosterior: expected a Lagrange space, scalar or vector, got {V.ufl_element()}")
        samples = read(data, V)
        if not isinstance(samples, Scattered):
            raise BadInput("FieldPosterior: data: expected scattered samples, (points, times, values), got states")
        if not np.ptp(samples.points, axis=0).any():
            raise BadInput("FieldPosterior: data: expected samples at different points, got one point")
        comm, gdim = V.mesh.comm, V.mesh.geometry.dim
        noise, times = parallel.of_rank_0(comm, (noise, times))
        scale, at = number_in(noise, ABOVE_0, "noise"), np.asarray(times, dtype=float)
        nodes = FieldValues(V).coordinates[:: V.dofmap.bs, :gdim]
        nodes = np.round(nodes, _DIGITS - round(float(np.log10(np.ptp(nodes, axis=0).max()))))
        columns = samples.values.T
        self.times: Array = at
        self.components: list[Spanned] = parallel.on_rank_0(
            comm, lambda: [_spanned(nodes, samples.points, samples.times, values, scale, at) for values in columns]
        )
        self.mean: Array = self.field([c.weights.mean[None] for c in self.components])[0].ravel()

    def sample(self, num: int, *, seed: int = 0) -> Array:
        """Draws from the posterior: (num, num_times * size)."""
        seeds = np.random.SeedSequence(seed).generate_state(len(self.components))
        drawn = [c.weights.sample(num, seed=int(s)) for c, s in zip(self.components, seeds, strict=True)]
        return self.field(drawn).reshape(num, -1)

    def field(self, weights: Sequence[Array]) -> Array:
        """Fields of some weights of each component: (num, num_times, size)."""
        fields = np.stack([c.field(w) for c, w in zip(self.components, weights, strict=True)], axis=-1)
        return fields.reshape(*fields.shape[:2], -1)


def most_likely(x: Array, t: Array, values: Array, noise: float) -> Lengths:
    """The prior under which samples of mean 0 are most likely: their marginal likelihood. Local."""
    # By chance: every so many of sensors in turn may all be one sensor.
    few = np.random.default_rng(0).permutation(len(t))[:_CHOOSE]
    x, t, r = x[few], t[few], values[few]
    between, passed = _between(x, x), np.abs(t[:, None] - t)

    def cost(logs: Array) -> float:
        space, time, size = np.exp(logs)
        K = size**2 * _matern(between / space) * _matern(passed / time)
        K[np.diag_indices(len(r))] += noise**2
        try:
            factor = scipy.linalg.cholesky(K, lower=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            return np.inf
        z = scipy.linalg.solve_triangular(factor, r, lower=True, check_finite=False)
        return float(0.5 * z @ z + np.log(np.diag(factor)).sum())

    start = np.log([0.5 * between.max(), 0.5 * passed.max(), max(r.std(), noise)])
    corners = start + np.vstack([np.zeros(3), np.eye(3)])
    options = {"xatol": 0.05, "fatol": 0.1, "maxfev": 150, "initial_simplex": corners}
    return Lengths(*map(float, np.exp(minimize(cost, start, method="Nelder-Mead", options=options).x)))


def _spanned(nodes: Array, x: Array, t: Array, values: Array, noise: float, times: Array) -> Spanned:
    """One component. Local."""
    offset = float(values.mean())
    lengths = most_likely(x, t, values - offset, noise)
    few = _chosen(nodes, lengths.of_space)
    in_space, at_points, of_space = _functions(lengths.of_space, few, nodes, x)
    in_time, at_times, of_time = _functions(lengths.of_time, times, times, t)
    counts = of_time[:, None] * of_space > _COUNTS * of_time[-1] * of_space[-1]
    kept = np.array(np.nonzero(counts))
    J = lengths.size * at_times[:, kept[0]] * at_points[:, kept[1]]
    if (lost := lengths.size**2 - float((J**2).sum(axis=1).mean())) > _MATTERS * noise**2:
        in_space_alone, in_time_alone = (1.0 - float((f**2).sum(axis=1).mean()) for f in (at_points, at_times))
        warn(
            f"FieldPosterior: {len(few)} of {len(nodes)} nodes and {len(times)} times leave out {lost:.2g} of the "
            f"variance {lengths.size**2:.2g} that fields of length {lengths.space:.2g} in space and {lengths.time:.2g} "
            f"in time have at the samples (shares: {in_space_alone:.1g} in space, {in_time_alone:.1g} in time), beside "
            f"{noise**2:.2g} of the noise: the field is known less well than its posterior says. Take more times, a "
            f"finer mesh where it has less than {_NODES} nodes, or a part of the domain."
        )
    weights = GaussianPosterior.of_linear(IdentityPrior(J.shape[1], std=1.0), J, values - offset, noise)
    return Spanned(lengths, offset, lengths.size * in_time, in_space, kept, weights, J, values - offset)


def _chosen(nodes: Array, correlation: Correlation) -> Array:
    """Nodes that span the prior: each is where those before it leave the most of its variance.

    The pivots of Cholesky's factorisation (Harbrecht, Peters and Schneider, Appl. Numer. Math. 62 (2012) 428-440).
    """
    if len(nodes) <= _NODES:
        return nodes
    left, rows, pivots = np.ones(len(nodes)), np.empty((_NODES, len(nodes))), []
    for n in range(_NODES):
        pivots.append(at := int(np.argmax(left)))
        rows[n] = (correlation(nodes[[at]], nodes)[0] - rows[:n, at] @ rows[:n]) / np.sqrt(left[at])
        left -= rows[n] ** 2
        if left.max() < _COUNTS:
            break
    return nodes[pivots]


def _functions(correlation: Correlation, nodes: Array, *where: Array) -> list[Array]:
    """Functions f with k(x, y) = sum of f(x) f(y) as seen from the nodes: their values at each of ``where``, and sizes.

    Weights that no symmetry of the nodes keeps tell functions of one size apart, which rounding would mix.
    """
    root = np.sqrt(np.random.default_rng(0).uniform(0.5, 1.5, len(nodes)))
    sizes, vectors = scipy.linalg.eigh(root[:, None] * correlation(nodes, nodes) * root)
    large = sizes > _COUNTS * sizes[-1]
    vectors = vectors[:, large] * np.sign(root @ vectors[:, large])
    to_functions = root[:, None] * vectors / np.sqrt(sizes[large])
    return [*(correlation(x, nodes) @ to_functions for x in where), sizes[large]]
