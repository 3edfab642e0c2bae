"""Spectra of Hessians of networks, and the width of a minimum that they tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mpi4py import MPI
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from relax.base import parallel
from relax.base.checks import at_least, number_in, positive
from relax.base.monte_carlo import Estimate
from relax.base.types import Array
from relax.errors import BadInput
from relax.relaxation.functions import as_numbers
from relax.relaxation.optim.noise import derived_seed
from relax.relaxation.weights import LossClosure, Weights

# A direction of this length beside the largest is what rounding leaves of none, in units of the number format's.
_NO_DIRECTION = 10.0


@dataclass(frozen=True)
class HessianSpectrum:
    """Eigenvalues of a Hessian as quadratures, one for each of some random vectors. In units of loss per weight².

    For each vector v = (±1, ...), sum_k weights_k g(nodes_k) is vᵀ g(H) v/|v|², to rounding for polynomials g up to
    the degree 2 num - 1; its expectation is tr g(H)/size. Local, as are all methods.

    Attributes:
        nodes: (vectors, num), increasing in each row.
        weights: (vectors, num), not negative, each row of sum 1.
        size: how many eigenvalues there are.
    """

    nodes: Array
    weights: Array
    size: int

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue: from below, and first of all to converge."""
        return float(self.nodes.max())

    @property
    def lambda_min(self) -> float:
        """The least eigenvalue, from above."""
        return float(self.nodes.min())

    @property
    def trace(self) -> Estimate:
        """The sum of all eigenvalues, by Hutchinson's estimator: the mean of vᵀ H v."""
        found = self.average(lambda x: x)
        return Estimate(self.size * found.mean, self.size * found.error)

    def average(self, g: Callable[[Array], Any]) -> Estimate:
        """tr g(H)/size, with the standard error over the vectors.

        Nothing is known of what lies between two nodes: a step of g, such as the share that ``lambda x: x > 0.1`` is,
        has to be where few eigenvalues are, or where nodes are dense, as they are at the ends of the spectrum.
        """
        rows = (self.weights * np.asarray(g(self.nodes), dtype=np.float64)).sum(axis=1)
        return Estimate(np.asarray(rows.mean()), np.asarray(rows.std(ddof=1) / math.sqrt(len(rows))))

    def density(self, x: npt.ArrayLike, width: float) -> Array:
        """How many eigenvalues lie around each of x, (n,): of integral 1, a Gaussian of this width for each node."""
        width = positive(width, "HessianSpectrum.density: width")
        at = as_numbers(x, "HessianSpectrum.density: x: expected numbers, (n,)").reshape(-1)
        bells = np.exp(-0.5 * ((at[:, None, None] - self.nodes) / width) ** 2) / (width * math.sqrt(2.0 * math.pi))
        return np.asarray((bells * self.weights).sum(axis=2).mean(axis=1))

    def width(self, t: float = math.inf) -> Estimate:
        """1 over the harmonic mean of lambda + 1/t: the mean over all eigenvalues of t/(1 + t lambda).

        The width of a minimum as it is seen from within a spring 1/t: beta times the variance per weight of
        exp(-beta (f(y) + |y - x|²/(2t))) where f is a quadratic. Flat directions count as t. Without a spring, t = inf,
        it is 1 over the harmonic mean of the eigenvalues; relaxing f for a time t takes each lambda to
        lambda/(1 + t lambda), and adds exactly t to this width (Chaudhari, Oberman, Osher, Soatto, Carlier 2018, on
        how minima widen).

        Raises:
            BadInput: where an eigenvalue is not above -1/t, with the t that would do.
        """
        t = number_in(t, (lambda v: v > 0.0, "a time > 0 (inf for no spring)"), "HessianSpectrum.width: t")
        least = self.lambda_min
        # Of a spectrum that ends at 0 rounding leaves eigenvalues of either sign.
        if not least + 1.0 / t > 1e-12 * max(self.lambda_max, -least):
            most = f"t below {-1.0 / least:.3g}" if least < 0.0 else "a finite t"
            raise BadInput(
                f"HessianSpectrum.width: expected eigenvalues above -1/t = {-1.0 / t:.3g}, got one of {least:.3g}, "
                f"along which there is no width; try {most}"
            )
        return self.average(lambda x: 1.0 / (x + 1.0 / t))


def hessian_spectrum(
    params: Any,
    closure: LossClosure,
    *,
    num: int = 80,
    vectors: int = 4,
    seed: int = 0,
    comm: MPI.Comm = MPI.COMM_SELF,
) -> HessianSpectrum:
    """The spectrum of the Hessian of a loss at the present weights, from ``num`` products for each vector. Collective.

    Lanczos' method with full reorthogonalisation, from random signs; Gauss quadratures from its tridiagonal matrices
    (Golub, Meurant 1994; stochastic Lanczos quadrature: Ubaru, Chen, Saad 2017). ``num`` vectors of the size of the
    weights are kept. Where there are no more different eigenvalues than ``num``, nodes are all of them.

    Args:
        params: a model, or parameters; those that require no gradient are no weights.
        closure: returns the loss and does not call ``backward``. It is called once: the Hessian is that of its
            mini-batch, if it takes one, and of its dropout, if there is any. On several ranks each returns its own
            samples' part of a sum, and the Hessian is that of the sum.
        num: products with the Hessian for each vector.
        vectors: random vectors, 2 or more.
        seed: of the vectors.
        comm: whose ranks share the samples, with the same weights on each.

    Raises:
        BadInput: on every rank, for what does not fit.
        NotConverged: on every rank, where the loss or a product is not finite.
    """
    weights = Weights("hessian_spectrum", params, closure, comm)
    num, vectors, seed = parallel.of_rank_0(comm, (num, vectors, seed))
    at_least(num, 1, "hessian_spectrum: num"), at_least(vectors, 2, "hessian_spectrum: vectors")
    seed = at_least(seed, 0, "hessian_spectrum: seed")
    product, like = weights.hessian(), weights.present()
    rows = []
    for i in range(vectors):
        stream = torch.Generator().manual_seed(derived_seed(seed, i))
        signs = (2 * torch.randint(2, (weights.size,), generator=stream) - 1).to(like)
        rows.append(_quadrature(product, signs, min(num, weights.size)))
    # An invariant subspace ends a row early: nodes of weight 0 fill it.
    length = max(len(nodes) for nodes, _ in rows)
    nodes = np.stack([np.pad(x, (0, length - len(x)), mode="edge") for x, _ in rows])
    parts = np.stack([np.pad(w, (0, length - len(w))) for _, w in rows])
    return HessianSpectrum(nodes, parts, weights.size)


def _quadrature(product: Callable[[Tensor], Tensor], start: Tensor, num: int) -> tuple[Array, Array]:
    """(nodes, weights) of one vector, (num,) or fewer."""
    basis = start.new_empty((num, len(start)))
    diagonal: list[float] = []
    beside: list[float] = []
    q = start / start.norm()
    for k in range(num):
        basis[k] = q
        w = product(q)
        diagonal.append(float(w @ q))
        so_far = basis[: k + 1]
        # Once leaves a component of rounding times what was cancelled; twice is enough (Kahan, Parlett).
        for _ in range(2):
            w = w - so_far.T @ (so_far @ w)
        length = float(w.norm())
        scale = max(abs(a) for a in diagonal + beside)
        if k + 1 == num or length <= _NO_DIRECTION * torch.finfo(w.dtype).eps * scale:
            break
        beside.append(length)
        q = w / length
    nodes, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return nodes, vectors[0] ** 2
