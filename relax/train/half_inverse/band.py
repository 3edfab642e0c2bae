"""Powers of large symmetric positive definite matrices applied to vectors, by way of a band matrix."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
import torch

from relax.base.types import Array

# Rows beside the diagonal: as few as leave the reduction to products of matrices.
_WIDTH = 64
# Of the quadrature, and of the two series that take the place of its far poles.
_ACCURACY, _FAR, _TERMS = 1e-13, 1e-2, 7


class BandReduction:
    """K = Q B Qᵀ with B a band matrix. Local.

    A reduction to tridiagonal form moves the whole matrix through memory for every column; to a band it is made of
    products of matrices. Beyond some thousand rows that is what counts. Powers of B are sums over its poles, a banded
    factorisation each (:meth:`power`), which needs K to be definite.

    Args:
        K: (n, n), overwritten.

    Attributes:
        eigenvalues: ascending.
    """

    def __init__(self, K: Array) -> None:
        n, b = len(K), _WIDTH
        A = torch.from_numpy(K)
        self._reflectors: list[tuple[Array, Array]] = []
        for k in range(0, n - b, b):
            packed, tau = torch.geqrf(A[k + b :, k : k + b].contiguous())
            columns = min(b, n - k - b)
            V = torch.tril(packed[:, :columns], -1)
            V.diagonal().fill_(1.0)
            T = _compact(V, tau)
            A[k + b :, k : k + b] = 0.0
            A[k + b : k + b + columns, k : k + b] = torch.triu(packed[:columns])
            rest = A[k + b :, k + b :]
            W = rest @ (V @ T)
            W -= 0.5 * V @ (T.T @ (V.T @ W))
            rest.addmm_(torch.cat([V, W], 1), torch.cat([W, V], 1).T, alpha=-1.0)
            self._reflectors.append((V.numpy(), T.numpy()))
        self._band = np.zeros((b + 1, n))
        for i in range(min(b + 1, n)):
            self._band[i, : n - i] = np.diagonal(K, -i)
        self.eigenvalues: Array = scipy.linalg.eig_banded(self._band, lower=True, eigvals_only=True)

    def power(self, a: float, shift: float, g: Array) -> tuple[Array, float]:
        """w = (K + shift)^-a g for a in [0, 1], and wᵀ K g.

        For 0 < a < 1 by x^-a = sin(pi a)/pi ∫ e^((1 - a) y) / (x + e^y) dy and the trapezoidal rule in y, whose error
        is exp(-2 pi²/h) for steps h. Poles e^y far below or far above the spectrum are summed as geometric series in
        1/x and x.
        """
        seen = self._turned(g, transposed=True)
        w = self._power(a, shift, seen)
        return self._turned(w, transposed=False), float(w @ self._times(seen))

    def _power(self, a: float, shift: float, g: Array) -> Array:
        if a == 0.0:
            return g
        if a == 1.0:
            return self._solved(shift, g)
        low, high = self.eigenvalues[0] + shift, self.eigenvalues[-1] + shift
        h = 2.0 * math.pi**2 / -math.log(_ACCURACY)
        first, last = math.floor(math.log(low * _FAR) / h), math.ceil(math.log(high / _FAR) / h)
        total = np.zeros_like(g)
        for k in range(first + 1, last):
            total += math.exp((1.0 - a) * k * h) * self._solved(shift + math.exp(k * h), g)
        below, above = self._solved(shift, g), g
        for j in range(_TERMS):
            rate = 1.0 - a + j
            total += (-1) ** j * math.exp(rate * first * h) / -math.expm1(-rate * h) * below
            rate = a + j
            total += (-1) ** j * math.exp(-rate * last * h) / -math.expm1(-rate * h) * above
            below, above = self._solved(shift, below), self._times(above) + shift * above
        return np.asarray(h * math.sin(math.pi * a) / math.pi * total)

    def _solved(self, shift: float, g: Array) -> Array:
        shifted = self._band.copy()
        shifted[0] += shift
        return np.asarray(scipy.linalg.solveh_banded(shifted, g, lower=True, overwrite_ab=True, check_finite=False))

    def _times(self, g: Array) -> Array:
        total = self._band[0] * g
        for i in range(1, len(self._band)):
            beside = self._band[i, : len(g) - i]
            total[i:] += beside * g[: len(g) - i]
            total[: len(g) - i] += beside * g[i:]
        return np.asarray(total)

    def _turned(self, g: Array, *, transposed: bool) -> Array:
        """Q g, or Qᵀ g."""
        turned = g.copy()
        for V, T in self._reflectors if transposed else reversed(self._reflectors):
            tail = turned[len(g) - len(V) :]
            tail -= V @ ((T.T if transposed else T) @ (V.T @ tail))
        return turned


def _compact(V: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """T with H_1 H_2 ... = I - V T Vᵀ."""
    products, T = V.T @ V, torch.diag(tau)
    for j in range(1, len(tau)):
        T[:j, j] = -tau[j] * (T[:j, :j] @ products[:j, j])
    return T
