"""Inverses of many small matrices that are affine in scalars."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from relax.base.types import Array
from relax.engine.dense.affine import Affine
from relax.errors import SolveFailed

# How far, relative to the largest entry, partial fractions may be from LAPACK's inverses.
_CLOSE = 1e-12


def singular() -> SolveFailed:
    """What is said of an operator that cannot be inverted."""
    return SolveFailed(
        "a step's operator is singular at one of the controls; are boundary conditions missing, or is a coefficient "
        "zero?"
    )


@dataclass(frozen=True, eq=False)
class _Fractions:
    """A(c)^-1 = Re Σ R_i / (1 + (c - s) λ_i), one term for a pair of conjugates.

    Attributes:
        shift: s.
        rates: λ_i.
        matrices: the real and imaginary parts of the R_i that count, (n, n n): as many rows as A has.
        is_real: of each rate.
    """

    shift: float
    rates: npt.NDArray[np.complex128]
    matrices: Array
    is_real: npt.NDArray[np.bool_]

    def __call__(self, c: Array) -> Array:
        """(k,) to (k, n, n)."""
        weights = 1.0 / (1.0 + np.multiply.outer(c - self.shift, self.rates))
        paired = weights[:, ~self.is_real]
        rows = np.hstack([weights[:, self.is_real].real, paired.real, paired.imag])
        n = round(np.sqrt(self.matrices.shape[1]))
        return np.asarray((rows @ self.matrices).reshape(len(c), n, n))

    def extremes(self, c: Array) -> Array:
        """Those of c where most is lost: the largest, and that next to a pole."""
        nearest = np.abs(1.0 + np.multiply.outer(c - self.shift, self.rates)).min(axis=1)
        return c[[np.argmax(np.abs(c - self.shift)), np.argmin(nearest)]]


class AffineInverses:
    """The inverses of A(c). Local.

    Where A depends on one scalar alone, A(c) = A_s (1 + (c - s) A_s^-1 A_1) has the eigenvectors of A_s^-1 A_1 for
    every c: one eigendecomposition gives the inverses for all c by a single matrix product, at a tenth of the time of
    as many factorisations. They are compared with LAPACK's where most is lost, each time; where they are not as good,
    and for several scalars, LAPACK's batches are taken.
    """

    def __init__(self, A: Affine) -> None:
        self._A = A
        self.size = A.base.shape[-1]

    @cached_property
    def _fractions(self) -> _Fractions | None:
        A = self._A
        if len(A.slopes) != 1 or A.changes:
            return None
        ((_, (slope,)),) = A.slopes.items()
        for shift in (0.0, 1.0):
            try:
                return _fractions(A.base[0] + shift * slope, slope, shift)
            except np.linalg.LinAlgError:
                continue
        return None

    def inverses(self, first: int, last: int, c: Array) -> Array:
        """A(c)^-1 in some steps.

        Args:
            first: the first step.
            last: the one after the last.
            c: scalars, (steps, S, num_scalars), or (1, S, num_scalars) for all steps.

        Returns:
            (steps, S, n, n), each of the first two axes of length 1 where all have the same.

        Raises:
            SolveFailed: for a singular matrix.
        """
        A = self._A.between(first, last)
        if self._fractions is not None and c.shape[0] * c.shape[1] > self.size:
            inverses = self._by_fractions(self._fractions, c[:, :, next(iter(A.slopes))])
            if inverses is not None:
                return inverses
        total: Array = A.base[:, None]
        for j, slope in A.slopes.items():
            total = total + c[:, :, j, None, None] * slope[:, None]
        return self._lapack(total)

    @staticmethod
    def _lapack(matrices: Array) -> Array:
        try:
            return np.asarray(np.linalg.inv(matrices))
        except np.linalg.LinAlgError as error:
            raise singular() from error

    def _by_fractions(self, fractions: _Fractions, c: Array) -> Array | None:
        at = fractions.extremes(c.ravel())
        ((_, (slope,)),) = self._A.slopes.items()
        exact = self._lapack(self._A.base + at[:, None, None] * slope)
        gap = np.abs(fractions(at) - exact).max(axis=(1, 2))
        if not np.all(gap <= _CLOSE * np.abs(exact).max(axis=(1, 2))):
            return None
        return fractions(c.ravel()).reshape(*c.shape, self.size, self.size)


def _fractions(A: Array, slope: Array, shift: float) -> _Fractions:
    rates, V = np.linalg.eig(np.linalg.solve(A, slope))
    W = np.linalg.inv(V) @ np.linalg.inv(A)
    is_real = rates.imag == 0.0
    upper = rates.imag > 0.0

    def outer(which: npt.NDArray[np.bool_]) -> npt.NDArray[np.complex128]:
        return np.einsum("ji,ik->ijk", V[:, which], W[which]).reshape(int(which.sum()), A.size)

    pairs = outer(upper)
    matrices = np.vstack([outer(is_real).real, 2.0 * pairs.real, -2.0 * pairs.imag])
    counted = is_real | upper
    return _Fractions(shift, rates[counted].astype(np.complex128), matrices, is_real[counted])
