"""Arrays that are affine in scalar controls, in every step of an evolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from relax.base.types import Array, Indices


@dataclass(frozen=True, eq=False)
class Affine:
    """X(c) = X_0 + Σ c_j X_j. Local.

    Attributes:
        base: X_0 in each step, (T, ...); T is 1 where all steps have the same one.
        slopes: the X_j that are not zero, by j, (T, ...) each.
    """

    base: Array
    slopes: Mapping[int, Array]

    @property
    def changes(self) -> bool:
        """Whether steps differ in more than their scalars."""
        return len(self.base) > 1

    @property
    def is_zero(self) -> bool:
        """For all scalars, in all steps."""
        return not self.base.any() and not self.slopes

    @property
    def nbytes(self) -> int:
        """Of all terms."""
        return self.base.nbytes + sum(slope.nbytes for slope in self.slopes.values())

    def at(self, n: int, c: Array) -> Array:
        """X in step n at scalars (S, num_scalars): (S, ...), or (1, ...) where it does not depend on them."""
        total: Array = of_step(self.base, n)[None]
        for j, slope in self.slopes.items():
            total = total + np.multiply.outer(c[:, j], of_step(slope, n))
        return total

    def between(self, first: int, last: int) -> Affine:
        """X in the steps from ``first`` to before ``last``; as it is where all have the same one."""
        if not self.changes:
            return self
        return Affine(self.base[first:last], {j: slope[first:last] for j, slope in self.slopes.items()})

    def part(self, rows: Indices, columns: Indices | None = None) -> Affine:
        """Some rows, and some columns, of each term."""

        def cut(terms: Array) -> Array:
            return terms[:, rows] if columns is None else terms[:, rows][:, :, columns]

        return affine(cut(self.base), {j: cut(slope) for j, slope in self.slopes.items()})

    def times(self, right: Array) -> Affine:
        """X(c) R for a matrix or a vector R."""
        return affine(self.base @ right, {j: slope @ right for j, slope in self.slopes.items()})


def of_step(arrays: Array, n: int) -> Array:
    """What belongs to step n, where all steps may have the same one, (1, ...). Local."""
    part: Array = arrays[n if len(arrays) > 1 else 0]
    return part


def affine(base: Array, slopes: Mapping[int, Array]) -> Affine:
    """An ``Affine`` without the slopes that are zero."""
    return Affine(np.ascontiguousarray(base), {j: np.ascontiguousarray(s) for j, s in slopes.items() if s.any()})


def rows_times(rows: Array, matrix: Array) -> Array:
    """Rows (S, K, n) by a matrix for each sample (S, n, k), or one for all (1, n, k): (S, K, k)."""
    if len(matrix) == 1 and len(rows) > 1:
        S, K, n = rows.shape
        return np.asarray((rows.reshape(S * K, n) @ matrix[0]).reshape(S, K, matrix.shape[2]))
    return np.asarray(rows @ matrix)
