"""The pointwise variance of a Gaussian: the diagonal of its covariance, exactly or from draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from relax.base import parallel
from relax.base.checks import at_least
from relax.base.types import Array
from relax.invert.priors.vectors import FieldVectors

# Columns of the covariance that are worked out at a time.
_BLOCK = 64


def variance(
    vectors: FieldVectors,
    samples: int | None,
    seed: int,
    *,
    diagonal: Callable[[Array], Array],
    colored: Callable[[Array], Array],
) -> Array:
    """The variance of each entry of control vectors, (size,). Collective.

    Args:
        vectors: of the field.
        samples: the mean square of so many draws; None for the exact variance, by a solve for each value.
        seed: of the draws, the same on any number of ranks.
        diagonal: rows (k, owned), each a unit vector over all ranks or zero, to the k entries of C on its diagonal; the
            same on every rank.
        colored: L v for rows (k, owned).
    """
    result = np.zeros(vectors.size)
    if samples is not None:
        at_least(samples, 1, "samples")
        for block in range(0, samples, _BLOCK):
            seeds = [[seed, i] for i in range(block, min(block + _BLOCK, samples))]
            noise = np.stack([vectors.noise(s) for s in seeds])
            result += (vectors.join(colored(vectors.own(noise)), noise) ** 2).sum(axis=0) / samples
        return result
    # Of vectors that each rank holds whole every rank has all entries.
    is_owned = vectors.kind == "owned"
    first = parallel.count_before(vectors.comm, vectors.size) if is_owned else 0
    total = parallel.total(vectors.comm, vectors.size) if is_owned else vectors.size
    for start in range(0, total, _BLOCK):
        columns = np.arange(start, min(start + _BLOCK, total))
        unit = np.zeros((len(columns), vectors.size))
        mine = (columns >= first) & (columns < first + vectors.size)
        unit[mine, columns[mine] - first] = 1.0
        result[columns[mine] - first] = diagonal(vectors.own(unit, dual=True))[mine]
    return result


def of_root(vectors: FieldVectors, root_adjoint: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """``diagonal`` of ``variance``, as the squares of columns of Lᵀ. Collective to call."""

    def diagonal(unit: Array) -> Array:
        return parallel.sum_over_ranks(vectors.comm, (root_adjoint(unit) ** 2).sum(axis=1))

    return diagonal


def of_covariance(vectors: FieldVectors, covariance: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """``diagonal`` of ``variance``, as entries of C. Collective to call."""

    def diagonal(unit: Array) -> Array:
        return parallel.sum_over_ranks(vectors.comm, (covariance(unit) * unit).sum(axis=1))

    return diagonal
