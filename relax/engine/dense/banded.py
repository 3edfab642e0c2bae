"""Steps whose operators are banded: LAPACK's band factors, one a sample and step, instead of inverses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg.lapack
import scipy.sparse

from relax.base.types import Array
from relax.engine.dense.affine import Affine, of_step
from relax.engine.dense.inverses import singular


def bandwidths(A: Affine) -> tuple[int, int]:
    """How many diagonals there are below and above the main one, in all terms."""
    n = A.base.shape[-1]
    present = np.zeros((n, n), dtype=bool)
    for term in (A.base, *A.slopes.values()):
        present |= (term != 0.0).any(axis=0)
    rows, columns = np.nonzero(present)
    return int(np.max(rows - columns, initial=0)), int(np.max(columns - rows, initial=0))


class BandedMatrices:
    """Matrices that are affine in scalars, in LAPACK's band storage, with room for the factors. Local.

    Args:
        A: the matrices.
        gamma: γ of B = γ A + E.
        E: what remains of B; None of a stationary problem.
    """

    def __init__(self, A: Affine, gamma: float, E: Affine | None) -> None:
        self.lower, self.upper = bandwidths(A)
        self.gamma = gamma
        self._A = Affine(self._stored(A.base), {j: self._stored(slope) for j, slope in A.slopes.items()})
        self.E = E
        terms = {} if E is None else {-1: E.base, **E.slopes}
        self._E = {j: [scipy.sparse.csr_matrix(t) for t in term] for j, term in terms.items()}

    @property
    def bytes_a_step(self) -> int:
        """Of the factor of one sample."""
        return 8 * self._A.base[0].size

    def _stored(self, terms: Array) -> Array:
        """(T, n, n) to (T, n, rows of the band): column by column."""
        n, depth = terms.shape[-1], 2 * self.lower + self.upper + 1
        stored = np.zeros((len(terms), n, depth))
        for offset in range(-self.upper, self.lower + 1):
            columns = np.arange(max(0, -offset), min(n, n - offset))
            stored[:, columns, self.lower + self.upper + offset] = terms[:, columns + offset, columns]
        return stored

    @property
    def changes(self) -> bool:
        """Whether the matrices are others in each step, whatever the scalars are."""
        return self._A.changes

    def factored(self, n: int, c: Array) -> list[tuple[Array, npt.NDArray[Any]]]:
        """A factor of A(c) in step n for each sample, or one for all.

        Raises:
            SolveFailed: for a singular matrix.
        """
        factors = []
        for one in self._A.at(n, c):
            factor, pivots, info = scipy.linalg.lapack.dgbtrf(one.T, self.lower, self.upper, overwrite_ab=True)
            if info != 0:
                raise singular()
            factors.append((factor, pivots))
        return factors

    def by_rest(self, n: int, c: Array, rows: Array, *, transposed: bool) -> Array:
        """E(c) r, or E(c)ᵀ r, for rows r (S, K, n)."""
        S, K, length = rows.shape
        flat = rows.reshape(S * K, length)
        total = np.zeros_like(rows)
        for j, terms in self._E.items():
            E = terms[n if len(terms) > 1 else 0]
            part = (flat @ E if transposed else flat @ E.T).reshape(rows.shape)
            total += part if j < 0 else c[:, j, None, None] * part
        return total


@dataclass(frozen=True, eq=False)
class BandedStep:
    """One step of all samples by band factors; as ``DenseStep``."""

    band: BandedMatrices
    n: int
    c: Array
    factors: list[tuple[Array, npt.NDArray[Any]]]

    def solve(self, rows: Array) -> Array:
        """A⁻¹ r for each row r of (S, K, n)."""
        return self._solve(rows, 0)

    def adjoint(self, rows: Array) -> Array:
        """A⁻ᵀ r."""
        return self._solve(rows, 1)

    def _solve(self, rows: Array, transposed: int) -> Array:
        if len(self.factors) == 1 and len(rows) != 1:
            S, K, n = rows.shape
            return self._solve(rows.reshape(1, S * K, n), transposed).reshape(rows.shape)
        solutions = np.empty_like(rows)
        for i, (factor, pivots) in enumerate(self.factors):
            solution, _ = scipy.linalg.lapack.dgbtrs(
                factor, self.band.lower, self.band.upper, rows[i].T, pivots, trans=transposed
            )
            solutions[i] = solution.T
        return solutions

    def forward(self, rows: Array) -> Array:
        """-A⁻¹ B r; zero of a stationary problem."""
        band = self.band
        if band.E is None:
            return np.zeros_like(rows)
        return -band.gamma * rows - self.solve(band.by_rest(self.n, self.c, rows, transposed=False))

    def backward(self, rows: Array, adjoint: Array | None = None) -> Array:
        """-Bᵀ A⁻ᵀ r; ``adjoint`` is A⁻ᵀ r where it is known already."""
        band = self.band
        if band.E is None:
            return np.zeros_like(rows)
        adjoint = self.adjoint(rows) if adjoint is None else adjoint
        return -band.gamma * rows - band.by_rest(self.n, self.c, adjoint, transposed=True)


class BandedOperators:
    """The factors of all steps at the scalars of a batch; as ``DenseOperators``. Local.

    Args:
        band: the matrices.
        c: scalars, (num_steps, S, num_scalars), or (1, S, num_scalars).
        num_steps: how many steps.
        memory: bytes for factors; where they need more, each sweep makes them again.
    """

    def __init__(self, band: BandedMatrices, c: Array, num_steps: int, memory: float) -> None:
        self._band = band
        self._c = c
        self._num_steps = num_steps
        self._is_one = len(c) == 1 and not band.changes
        self._keeps = self._is_one or band.bytes_a_step * c.shape[1] * num_steps <= memory
        self._kept: dict[int, list[tuple[Array, npt.NDArray[Any]]]] = {}

    def steps(self, *, backwards: bool = False) -> Iterator[tuple[int, BandedStep]]:
        """(n, the step from u_n to u_{n+1})."""
        for n in reversed(range(self._num_steps)) if backwards else range(self._num_steps):
            c = of_step(self._c, n)
            key = 0 if self._is_one else n
            factors = self._kept.get(key)
            if factors is None:
                factors = self._band.factored(n, c)
                if self._keeps:
                    self._kept[key] = factors
            yield n, BandedStep(self._band, n, c, factors)
