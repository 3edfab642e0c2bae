"""The half-inverse step from products with J and Jᵀ alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from relax.base.types import Array
from relax.train.half_inverse.by_matrix import Direction
from relax.train.half_inverse.jacobian import BatchJacobian
from relax.train.half_inverse.spectrum import Filter

# A direction that rounding has left nothing of.
_NOTHING = 1e-13
# Steps between two looks at the result.
_LOOK = 4


def by_krylov(J: BatchJacobian, g: Array, phi: Filter, *, iterations: int, tolerance: float) -> Direction:
    """d ≈ Jᵀ phi(J Jᵀ) g from Golub–Kahan bidiagonalisation started at g: a regularised half-inverse.

    k steps give U (m, k) with orthonormal columns, u_1 = g/|g|, and a bidiagonal B with Uᵀ J Jᵀ U = B Bᵀ; then
    phi(J Jᵀ) g ≈ |g| U phi(B Bᵀ) e_1. B keeps small singular values that its square would lose. Each step costs one
    product with J and one with Jᵀ; memory is k vectors of length m, whatever the number of parameters.

    Small singular values dominate a half-inverse step and are the last to be found, so a limit on the steps acts as a
    filter: modes that the space has not resolved are left out or damped. The filter on the singular values of B is
    smooth, phi(s) s⁴/(s⁴ + (rcond s_max)⁴), since a value at a hard edge would jump with every step of the iteration.
    Where the space is exhausted, those of B are those of J, and the edge is hard.
    SLEPc's MFN applies functions of a matrix, too; it has powers by composition only, squares J, stops with an error
    where the space is exhausted, and does not tell the spectrum.

    Args:
        J: m rows, p columns.
        g: (m,).
        phi: of the singular values.
        iterations: at most so many steps.
        tolerance: stop when a step changes the result by so much of its norm, where ``iterations`` are fewer than the
            space may take.
    """
    # What rounding decides must be decided alike on all ranks: ``exchange.any``.
    size = float(np.linalg.norm(g))
    U = np.empty((min(iterations, len(g)), len(g)))
    alphas: list[float] = []
    betas: list[float] = []
    v: Array = np.zeros(J.num_columns)
    u = np.array(g / size)
    before: Array = np.empty(0)
    gradient: Array = v
    is_exhausted = len(U) == min(len(g), J.num_columns + 1)
    for k in range(len(U)):
        U[k] = u
        pulled = J.vjp(u)
        if k == 0:
            gradient = size * pulled
        pulled = pulled - (betas[-1] if betas else 0.0) * v
        alpha = float(np.linalg.norm(pulled))
        if J.exchange.any(alpha <= _NOTHING * max([*alphas, *betas, 0.0])):
            # The space is exhausted. What is left of g has no part in J: a singular value of zero.
            alphas.append(0.0)
            is_exhausted = True
            break
        v = np.array(pulled / alpha)
        alphas.append(alpha)
        # The edge is hard only at the end of the space: where it can be reached, nothing stops short of it.
        if not is_exhausted and k % _LOOK == _LOOK - 1:
            after, _ = _of_bidiagonal(alphas, betas, size, phi, smooth=True)
            change = np.linalg.norm(after - np.append(before, np.zeros(len(after) - len(before))))
            if J.exchange.any(bool(len(before) and change <= tolerance * np.linalg.norm(after))):
                break
            before = after
        if k + 1 == len(U):
            break
        pushed = J.jvp(v) - alpha * u
        for _ in range(2):
            # Twice is enough: vectors of the space so far must not come back by rounding.
            pushed -= U[: k + 1].T @ (U[: k + 1] @ pushed)
        beta = float(np.linalg.norm(pushed))
        if J.exchange.any(beta <= _NOTHING * max(alphas)):
            is_exhausted = True
            break
        u = np.array(pushed / beta)
        betas.append(beta)
    coefficients, s = _of_bidiagonal(alphas, betas[: len(alphas) - 1], size, phi, smooth=not is_exhausted)
    w = U[: len(alphas)].T @ coefficients
    d = J.vjp(w)
    _, kept = phi(s)
    return Direction(d, float(gradient @ d), s, kept, iterations=len(alphas))


def _of_bidiagonal(
    alphas: list[float], betas: list[float], size: float, phi: Filter, *, smooth: bool
) -> tuple[Array, Array]:
    """|g| phi(B Bᵀ) e_1 with the smooth filter or the hard one, and the singular values of B, falling."""
    B = np.diag(alphas) + np.diag(betas[: len(alphas) - 1], -1)
    P, s, _ = np.linalg.svd(B)
    if smooth:
        edge = (phi.rcond * s[0]) ** 4
        weights = replace(phi, rcond=0.0)(s)[0] * s**4 / np.where(s > 0.0, s**4 + edge, 1.0)
    else:
        weights, _ = phi(s)
    return np.asarray(P @ (weights * (size * P[0]))), s
