"""The inverses and propagators of all steps of a batch, kept or made in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from relax.base.types import Array
from relax.engine.dense.affine import Affine, of_step, rows_times
from relax.engine.dense.banded import BandedMatrices, BandedOperators, bandwidths
from relax.engine.dense.inverses import AffineInverses

# Bytes of matrices that are made at once: they stay in the cache from one operation to the next.
_BLOCK = 8e6
# Bands are taken for at least so many unknowns, when they fill at most one part in so many of the matrix.
_BAND_FROM = 64
_BAND_SHARE = 4


class StepMatrices:
    """What does not depend on controls: A, B, and how they are best combined. Local.

    The two often change with the scalars alike, B_j = γ A_j (the theta-method): then the propagator is
    -A⁻¹ B = -γ - A⁻¹ (B_0 - γ A_0), a product with one matrix for all steps and samples.
    """

    def __init__(self, A: Affine, B: Affine | None) -> None:
        self.pencil = AffineInverses(A)
        self.B = B
        self._gamma, self._E = self._alike(A, B)
        self._A = A

    @cached_property
    def band(self) -> BandedMatrices | None:
        """The band storage of operators that differ, where solving in it is the faster."""
        lower, upper = bandwidths(self._A)
        n = self.pencil.size
        if not self._A.slopes or n < _BAND_FROM or 2 * lower + upper + 1 > n / _BAND_SHARE:
            return None
        return BandedMatrices(self._A, self._gamma, self._E)

    def operators(self, c: Array, num_steps: int, memory: float) -> DenseOperators | BandedOperators:
        """The steps of a batch: scalars (num_steps, S, num_scalars), or (1, S, num_scalars); bytes to keep them in."""
        if self.band is not None:
            return BandedOperators(self.band, c, num_steps, memory)
        return DenseOperators(self, c, num_steps, memory)

    def spread(self, c: Array, num_steps: int) -> tuple[int, int]:
        """How many steps, and samples, have operators of their own."""
        terms = [matrix for matrix in (self._A, self.B) if matrix is not None]
        by_scalars = any(matrix.slopes for matrix in terms)
        by_steps = any(matrix.changes for matrix in terms) or (by_scalars and len(c) > 1)
        return num_steps if by_steps else 1, c.shape[1] if by_scalars else 1

    @staticmethod
    def _alike(A: Affine, B: Affine | None) -> tuple[float, Affine | None]:
        if B is None or A.changes or B.changes or not A.slopes or set(A.slopes) != set(B.slopes):
            return 0.0, B
        j = next(iter(A.slopes))
        gamma = float(np.vdot(A.slopes[j], B.slopes[j]) / np.vdot(A.slopes[j], A.slopes[j]))
        scale = max(np.abs(slope).max() for slope in B.slopes.values())
        gap = max(np.abs(B.slopes[i] - gamma * A.slopes[i]).max() for i in A.slopes)
        # Both are assembled from the same integrals: what differs is the order of a few sums.
        if gap > 16.0 * np.finfo(float).eps * scale:
            return 0.0, B
        return gamma, Affine(B.base - gamma * A.base, {})

    def propagators(self, first: int, last: int, c: Array, inverses: Array) -> Array | None:
        """-A⁻¹ B, as ``AffineInverses.inverses`` gives A⁻¹; None where there is no B."""
        if self._E is None:
            return None
        E = self._E.between(first, last)
        product = _times(inverses, E.base)
        for j, slope in E.slopes.items():
            # Also where A is the same for all, its propagator is not.
            product = product + c[:, :, j, None, None] * _times(inverses, slope)
        np.negative(product, out=product)
        if self._gamma:
            i = np.arange(product.shape[-1])
            product[..., i, i] -= self._gamma
        return product


def _times(matrices: Array, right: Array) -> Array:
    """Matrices (l, s, n, n) by (1, n, k), or by one for each step, (L, n, k)."""
    if len(right) > 1:
        return np.asarray(matrices @ right[:, None])
    n = matrices.shape[-1]
    product = matrices.reshape(int(np.prod(matrices.shape[:-1])), n) @ right[0]
    return np.asarray(product.reshape(*matrices.shape[:-1], right.shape[-1]))


@dataclass(frozen=True, eq=False)
class DenseStep:
    """One step of all samples by matrices, (S, n, n), or (1, n, n) where all have the same. Rows are (S, K, n). Local.

    Attributes:
        inverse: A⁻¹.
        propagator: -A⁻¹ B; None of a stationary problem.
    """

    inverse: Array
    propagator: Array | None

    def solve(self, rows: Array) -> Array:
        """A⁻¹ r for each row r."""
        return rows_times(rows, self.inverse.transpose(0, 2, 1))

    def adjoint(self, rows: Array) -> Array:
        """A⁻ᵀ r."""
        return rows_times(rows, self.inverse)

    def forward(self, rows: Array) -> Array:
        """-A⁻¹ B r; zero of a stationary problem."""
        return np.zeros_like(rows) if self.propagator is None else rows_times(rows, self.propagator.transpose(0, 2, 1))

    def backward(self, rows: Array, adjoint: Array | None = None) -> Array:
        """-Bᵀ A⁻ᵀ r; ``adjoint`` is A⁻ᵀ r where it is known already."""
        return np.zeros_like(rows) if self.propagator is None else rows_times(rows, self.propagator)


class DenseOperators:
    """A⁻¹ and -A⁻¹ B in each step at the scalars of a batch. Local.

    They are kept where they fit into ``memory`` bytes, and otherwise made again, some steps at a time, in each sweep.

    Args:
        matrices: A and B.
        c: scalars, (num_steps, S, num_scalars), or (1, S, num_scalars).
        num_steps: how many steps.
        memory: bytes for the matrices.
    """

    def __init__(self, matrices: StepMatrices, c: Array, num_steps: int, memory: float) -> None:
        self._matrices = matrices
        self._c = c
        self._num_steps = num_steps
        steps, samples = matrices.spread(c, num_steps)
        bytes_a_step = max(1, 2 * 8 * matrices.pencil.size**2 * samples)
        fitting = max(1, int(min(memory, _BLOCK) / bytes_a_step))
        self._at_once = num_steps if steps == 1 else min(num_steps, fitting)
        self._keeps_all = steps * bytes_a_step <= memory
        self._kept: dict[int, tuple[Array, Array | None]] = {}

    def steps(self, *, backwards: bool = False) -> Iterator[tuple[int, DenseStep]]:
        """(n, the step from u_n to u_{n+1})."""
        starts = range(0, self._num_steps, self._at_once)
        for first in reversed(starts) if backwards else starts:
            last = min(first + self._at_once, self._num_steps)
            inverses, propagators = self._some(first, last)
            for n in range(last - 1, first - 1, -1) if backwards else range(first, last):
                propagator = None if propagators is None else of_step(propagators, n - first)
                yield n, DenseStep(of_step(inverses, n - first), propagator)

    def _some(self, first: int, last: int) -> tuple[Array, Array | None]:
        kept = self._kept.get(first)
        if kept is None:
            c = self._c[first:last] if len(self._c) > 1 else self._c
            inverses = self._matrices.pencil.inverses(first, last, c)
            kept = inverses, self._matrices.propagators(first, last, c, inverses)
            if self._keeps_all:
                self._kept[first] = kept
        return kept
