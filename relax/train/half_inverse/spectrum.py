"""Powers of singular values, and functions of symmetric matrices applied to vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from relax.base.types import Array

# Below this size of a matrix its eigenvectors cost no more than a reduction to tridiagonal form.
_SMALL = 64


@dataclass(frozen=True)
class Filter:
    """phi(s) = s^-(1 + power) for singular values s > rcond s_max, and 0 for others.

    The step is d = Jᵀ phi(J Jᵀ) g = phi(JᵀJ) Jᵀ g, with phi taken of s = sqrt(eigenvalue).

    Attributes:
        power: 1/2 half-inverse, 1 Gauss–Newton, -1 gradient descent.
        rcond: relative to the largest.
        damping: lambda of (s² + lambda² s_max²)^(-(1 + power)/2), which stands for s^-(1 + power) where it is not 0.
    """

    power: float
    rcond: float
    damping: float = 0.0

    def __call__(self, s: Array, *, least: float = 0.0) -> tuple[Array, int]:
        """phi(s) for all singular values s >= 0, and how many are kept.

        Args:
            s: the singular values.
            least: relative to the largest, what rounding makes of zero.
        """
        largest = s.max()
        kept = (s > max(self.rcond, least) * largest) & (s > 0.0)
        exponent = -0.5 * (1.0 + self.power)
        base = np.where(kept, s, 1.0) ** 2 + (self.damping * largest) ** 2
        return np.where(kept, base**exponent, 0.0), int(np.count_nonzero(kept))


class Symmetric:
    """A symmetric matrix K = W diag(x) Wᵀ, to apply functions of. Local.

    W is never formed for a large one: K = Q T Qᵀ with T tridiagonal costs 4/3 n³, the eigenvectors of T n², and a
    vector goes through both in n². All eigenvectors of K would cost twice the time.

    Args:
        K: (n, n), overwritten.

    Attributes:
        eigenvalues: x, ascending, none below zero: K has none but by rounding.
    """

    def __init__(self, K: Array) -> None:
        n = len(K)
        self.eigenvalues: Array
        self._vectors: Array
        self._reflectors: Array
        self._factors: Array
        if n <= _SMALL:
            self.eigenvalues, self._vectors = scipy.linalg.eigh(K, overwrite_a=True, check_finite=False)
            self._reflectors, self._factors = np.empty((0, 0)), np.empty(0)
        else:
            lwork = int(scipy.linalg.lapack.dsytrd_lwork(n, lower=1)[0])
            packed, diagonal, beside, self._factors, info = scipy.linalg.lapack.dsytrd(
                np.asfortranarray(K), lower=1, lwork=lwork, overwrite_a=True
            )
            assert info == 0
            self._reflectors = np.asfortranarray(packed[1:, :-1])
            self.eigenvalues, self._vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside, check_finite=False)
        self.eigenvalues = np.maximum(self.eigenvalues, 0.0)

    def coordinates(self, g: Array) -> Array:
        """Wᵀ g."""
        return np.asarray(self._vectors.T @ self._reflected(g, "T"))

    def combination(self, c: Array) -> Array:
        """W c."""
        return self._reflected(np.asarray(self._vectors @ c), "N")

    def _reflected(self, g: Array, trans: str) -> Array:
        """Q g or Qᵀ g. The first row and column of Q are those of the identity."""
        if not len(self._factors):
            return g
        turned, _, info = scipy.linalg.lapack.dormqr(
            "L", trans, self._reflectors, self._factors, g[1:, None], lwork=64 * len(g)
        )
        assert info == 0
        return np.concatenate([g[:1], turned[:, 0]])

    def state(self) -> dict[str, Array]:
        """Arrays that :meth:`restored` makes it of again."""
        return {
            "eigenvalues": self.eigenvalues,
            "vectors": self._vectors,
            "reflectors": self._reflectors,
            "factors": self._factors,
        }

    @classmethod
    def restored(cls, state: dict[str, Array]) -> Symmetric:
        """The matrix whose state was saved."""
        new = cls.__new__(cls)
        new.eigenvalues, new._vectors = state["eigenvalues"], state["vectors"]
        new._reflectors, new._factors = np.asfortranarray(state["reflectors"]), state["factors"]
        return new
