"""Which terms add up to nothing, as far as their errors tell: least generalised eigenvalues of ever fewer terms."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from relax.base.types import Array

# A set of terms is within the noise up to this many times what all of them are, or the noise alone would be.
_WITHIN = 2.0
#: All sets of so many terms at most are looked at.
MOST = 16


@dataclass(frozen=True)
class TermSet:
    """Some terms, and the best vector of them.

    Attributes:
        mu: the least cᵀ M c / cᵀ S c.
        next_mu: the next one, with another c.
        kept: numbers of the terms.
        vector: c.
    """

    mu: float
    next_mu: float
    kept: tuple[int, ...]
    vector: Array


def least(M: Array, S: Array, kept: Sequence[int]) -> TermSet:
    """The least of cᵀ M c / cᵀ S c over vectors c of some terms. Local."""
    rows = np.ix_(kept, kept)
    M, S = M[rows], S[rows]
    # S/(M + S) rather than M/S: S may know no error of a term, M none of its sum.
    shares, vectors = scipy.linalg.eigh(S, M + S)
    with np.errstate(divide="ignore"):
        mu = 1.0 / np.maximum(shares[::-1], 0.0) - 1.0
    mu = np.maximum(mu, 0.0)
    return TermSet(float(mu[0]), float(mu[1]) if len(mu) > 1 else np.inf, tuple(kept), vectors[:, -1])


def eliminate(M: Array, S: Array) -> list[TermSet]:
    """Of all terms, of all but one and so on down to one term: the set of the least mu. Local.

    All sets are looked at: the term that is missed least at first may belong to the smallest set.
    """
    return [_sets(M, S, size)[0] for size in range(len(M), 0, -1)]


def rivals(M: Array, S: Array, found: TermSet) -> list[TermSet]:
    """Other sets of as many terms that are zero as far as the noise tells: their mu is at most 1. Local."""
    return [step for step in _sets(M, S, len(found.kept))[1:] if step.mu <= max(found.mu, 1.0)]


def _sets(M: Array, S: Array, size: int) -> list[TermSet]:
    """All sets of so many terms, the least mu first."""
    return sorted((least(M, S, kept) for kept in itertools.combinations(range(len(M)), size)), key=lambda s: s.mu)


def smallest_within(path: Sequence[TermSet]) -> TermSet:
    """The smallest set of a path that is within the noise as all terms are."""
    limit = _WITHIN * max(path[0].mu, 1.0)
    return [step for step in path if step.mu <= limit][-1]
