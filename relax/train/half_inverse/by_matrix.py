"""The half-inverse step from a whole Jacobian: by its Gram matrix, or by its singular values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from relax.base.types import Array
from relax.train.half_inverse.band import BandReduction
from relax.train.half_inverse.jacobian import BatchJacobian
from relax.train.half_inverse.spectrum import Filter, Symmetric

_EPS = float(np.finfo(np.float64).eps)
# Rows from which on a reduction to a band is faster than one to tridiagonal form.
_MANY = 3_000


@dataclass(frozen=True)
class Direction:
    """d = J phi(J) g, in whatever way it was found.

    Attributes:
        d: (p,), to be multiplied by -lr.
        slope: gᵀ J d, how fast the loss falls along it.
        singular_values: those that were found, falling.
        kept: how many of them are in d.
        discrepancy: how far the rows of J are from what an ordinary sweep backwards says, relative, beyond rounding.
        iterations: of a Krylov method; 0 of others.
        factor: of J Jᵀ, to be used again; None where there is none.
    """

    d: Array
    slope: float
    singular_values: Array
    kept: int
    discrepancy: float = 0.0
    iterations: int = 0
    factor: Symmetric | None = None


def by_gram(
    J: BatchJacobian, g: Array, phi: Filter, factor: Symmetric | None = None, *, by_band: bool = False
) -> Direction:
    """d = Jᵀ phi(K) g with K = J Jᵀ; or phi(H) Jᵀ g with H = JᵀJ where there are fewer parameters than outputs.

    The Gram matrix has the squares of the singular values: of those below sqrt(n eps) s_max nothing is left in it, and
    they are dropped whatever ``rcond`` says. A singular value s is found to eps (s_max/s)² relative.

    Args:
        J: m rows, p columns.
        g: (m,).
        phi: of the singular values.
        factor: of the J Jᵀ of other weights, to be used instead; ``discrepancy`` then says how old it is.
        by_band: for many rows, try first whether all singular values are kept: a band matrix is then enough, in two
            thirds of the time, and no factor is found.
    """
    if J.num_columns < J.num_rows:
        d, s, kept, c, filtered = _applied(Symmetric(J.normal()), J.vjp(g), phi)
        return Direction(d, float(c @ filtered), s, kept, J.discrepancy())
    is_new, discrepancy = factor is None, 0.0
    if factor is None:
        K, r = J.gram(), J.probe()
        discrepancy = max(J.discrepancy(), _apart(float(np.linalg.norm(J.swept_probe)), float(r @ (K @ r))))
        if by_band and len(K) >= _MANY:
            direction = _by_band(J, K, g, phi, discrepancy)
            if direction is not None:
                return direction
        factor = Symmetric(K)
    w, s, kept, c, filtered = _applied(factor, g, phi)
    d = J.vjp(w)
    of_Kw = factor.eigenvalues * filtered
    if not is_new:
        discrepancy = _apart(float(np.linalg.norm(d)), float(filtered @ of_Kw))
    return Direction(d, float(c @ of_Kw), s, kept, discrepancy, factor=factor)


def _by_band(J: BatchJacobian, K: Array, g: Array, phi: Filter, discrepancy: float) -> Direction | None:
    """The direction where all singular values are kept; None where some are not."""
    band = BandReduction(K.copy())
    s = np.sqrt(np.maximum(band.eigenvalues, 0.0))
    _, kept = phi(s, least=_lost(len(s)))
    if J.exchange.any(kept < len(s)):
        return None
    w, slope = band.power(0.5 * (1.0 + phi.power), (phi.damping * float(s[-1])) ** 2, g)
    return Direction(J.vjp(w), slope, s[::-1], len(s), discrepancy)


def _lost(n: int) -> float:
    """The part of the largest singular value below which an n by n Gram matrix knows of none."""
    return float(np.sqrt(n * _EPS))


def _apart(length: float, square: float) -> float:
    """How far the length of Jᵀ r is from what J Jᵀ says, relative to the larger."""
    said = float(np.sqrt(max(square, 0.0)))
    return abs(length - said) / max(length, said) if length != said else 0.0


def by_blocks(J: BatchJacobian, g: Array, phi: Filter, blocks: int) -> Direction:
    """The direction with K block-diagonal: what samples of different blocks have in common is left out.

    No factors are exchanged; each team has ``blocks`` of its own.
    """
    w = np.zeros_like(g)
    spectra = []
    for rows, K in J.gram_of_blocks(blocks):
        w[rows], s, kept, _, _ = _applied(Symmetric(K), g[rows], phi)
        spectra.append(np.column_stack([s, np.arange(len(s)) < kept]))
    d = J.vjp(w)
    every = J.exchange.all_rows(np.concatenate([np.empty((0, 2)), *spectra]))
    s = np.sort(every[:, 0])[::-1]
    return Direction(d, float(J.vjp(g) @ d), s, int(every[:, 1].sum()), J.discrepancy())


def by_svd(J: BatchJacobian, g: Array, phi: Filter) -> Direction:
    """d = V s^-power Uᵀ g from J = U S Vᵀ, for singular values whose squares would be lost.

    The shorter side of J is reduced to a triangle R, each team with its share of the longer one (TSQR); R has the
    singular values of J and one set of its vectors. A singular value is found to eps s_max/s relative. Each team holds
    its share of J.
    """
    by_rows = J.num_columns < J.num_rows
    R = J.triangle_of_rows() if by_rows else J.triangle_of_columns()
    _, s, vectors = scipy.linalg.svd(R, full_matrices=False, check_finite=False, overwrite_a=True)
    c = vectors @ (J.vjp(g) if by_rows else g)
    weights, kept = phi(s, least=max(J.num_rows, J.num_columns) * _EPS)
    filtered = weights * c
    d, slope = vectors.T @ filtered, c @ filtered
    if not by_rows:
        d, slope = J.vjp(d), c @ (s**2 * filtered)
    return Direction(d, float(slope), s, kept, J.discrepancy())


def _applied(factor: Symmetric, g: Array, phi: Filter) -> tuple[Array, Array, int, Array, Array]:
    """phi(K) g, the singular values, falling, how many are kept, and coordinates of g and of phi(K) g."""
    s = np.sqrt(factor.eigenvalues)
    c = factor.coordinates(g)
    weights, kept = phi(s, least=_lost(len(s)))
    filtered = weights * c
    return factor.combination(filtered), s[::-1], kept, c, filtered
