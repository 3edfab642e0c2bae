"""Functions of a symmetric positive definite matrix: its square roots, by polynomials and by shifted solves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from mpi4py import MPI
from numpy.polynomial import chebyshev
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.linear import LinearSolver
from relax.base.la.matrices import products
from relax.base.la.options import Options
from relax.base.types import Array
from relax.errors import SolveFailed

# Relative errors of a root. Below it lies the rounding of the solves of an operator of condition 1e6.
_TOLERANCE = 1e-13
# Up to this condition a polynomial in the matrix costs less than the factors of shifted ones.
_POLYNOMIAL = 400.0
_LANCZOS_STEPS = 40
# Steps of the arithmetic-geometric mean: enough for conditions of 1e16.
_MEANS = 9
# Lanczos sees an extreme eigenvalue from inside; a root is as accurate a little outside of the bounds.
_MARGIN = 0.8


class InverseRoot:
    """K = W^-½ (W^-½ R W^-½)^-½, W the diagonal of R: a square K with K Kᵀ = R⁻¹, for R symmetric positive definite.

    Collective, as are all methods. K is no triangular factor, which depends on an order of elimination and so on the
    ranks, but a function of the matrix, the same on any number of them. Of a well conditioned R, such as a mass matrix,
    it is a Chebyshev polynomial in R. Of another it is a sum of shifted inverses, the trapezoidal rule for a contour
    integral (Hale, Higham and Trefethen, SIAM J. Numer. Anal. 46 (2008) 2505–2523, method 3), as many as the logarithm
    of the condition asks for, about 25 of 1e6; all are factored and kept when K is first used.

    Args:
        R: assembled; the caller's.
        solver: one that holds R's factor, where R may be badly conditioned.
        options: PETSc options of the shifted solves.
        prefix: of their options.

    Raises:
        SolveFailed: where R is not positive.
    """

    def __init__(
        self, R: PETSc.Mat, *, solver: LinearSolver | None = None, options: Options | None = None, prefix: str = ""
    ) -> None:
        self.comm: MPI.Comm = R.comm.tompi4py()
        self._matrix = R
        self._options, self._prefix = options or {}, prefix
        diagonal = R.getDiagonal()
        weights: Array = diagonal.array_r.copy()
        diagonal.destroy()
        if parallel.any_rank(self.comm, bool((weights <= 0.0).any())):
            raise SolveFailed("a square root was asked for of a matrix that is not positive: its diagonal is not")
        self._root = np.sqrt(weights)
        self._shifted: list[LinearSolver] = []
        self._matrices: list[PETSc.Mat] = []
        self._high = self._largest()
        self._low = _MARGIN * self._least(solver)
        if not self._low > 0.0:
            raise SolveFailed(
                "a square root was asked for of a matrix that is not positive definite: the least eigenvalue is about "
                f"{self._low / _MARGIN:.1e} of the largest"
            )
        self.condition = self._high / self._low

    def _scaled(self, v: Array) -> Array:
        """W^-½ R W^-½ v, row by row."""
        return np.asarray(products(self._matrix, v / self._root) / self._root)

    def _largest(self) -> float:
        """The largest row sum of W^-½ R W^-½: a bound of its eigenvalues."""
        scaled, scale = self._matrix.copy(), self._matrix.createVecRight()
        try:
            scale.array[:] = 1.0 / self._root
            scaled.diagonalScale(scale, scale)
            return parallel.of_rank_0(self.comm, float(scaled.norm(PETSc.NormType.INFINITY)))
        finally:
            scaled.destroy()
            scale.destroy()

    def _least(self, solver: LinearSolver | None) -> float:
        if solver is None:
            return self._ritz(self._scaled)[0]
        inverse = self._ritz(lambda v: np.asarray(solver.solve_many(v * self._root) * self._root))
        return 1.0 / inverse[-1] if inverse[-1] > 0.0 else -1.0

    def _ritz(self, apply: Callable[[Array], Array]) -> Array:
        """Ritz values, ascending, of a few steps of Lanczos' method with full orthogonalisation."""
        rng = np.random.default_rng([20, self.comm.rank])
        v = rng.standard_normal(len(self._root))
        v /= math.sqrt(parallel.dot(self.comm, v, v))
        basis, diagonal, beside = [v], [], []
        for _ in range(_LANCZOS_STEPS):
            w = apply(basis[-1][None])[0]
            known = np.array(basis)
            along = parallel.sum_over_ranks(self.comm, known @ w)
            diagonal.append(float(along[-1]))
            w = w - along @ known
            w = w - parallel.sum_over_ranks(self.comm, known @ w) @ known
            size = math.sqrt(parallel.dot(self.comm, w, w))
            if not size > 1e-10 * abs(diagonal[0]):
                break
            beside.append(size)
            basis.append(w / size)
        T = np.diag(diagonal) + np.diag(beside[: len(diagonal) - 1], 1) + np.diag(beside[: len(diagonal) - 1], -1)
        return np.linalg.eigvalsh(T)

    def _inverse_root(self, v: Array) -> Array:
        """(W^-½ R W^-½)^-½ v, row by row."""
        return self._polynomial(v) if self.condition <= _POLYNOMIAL else self._by_shifts(v)

    def _polynomial(self, v: Array) -> Array:
        """Clenshaw's recursion."""
        middle, half = 0.5 * (self._high + self._low), 0.5 * (self._high - self._low)
        rate = (math.sqrt(self.condition) - 1.0) / (math.sqrt(self.condition) + 1.0)
        degree = 4 + math.ceil(math.log(_TOLERANCE) / math.log(max(rate, 1e-3)))

        def root(x: Any) -> Any:
            return (middle + half * x) ** -0.5

        coefficients = chebyshev.chebinterpolate(root, degree)
        one, two = np.zeros_like(v), np.zeros_like(v)
        for c in coefficients[:0:-1]:
            moved = (self._scaled(one) - middle * one) / half if half > 0.0 else np.zeros_like(v)
            one, two = c * v + 2.0 * moved - two, one
        moved = (self._scaled(one) - middle * one) / half if half > 0.0 else np.zeros_like(v)
        return np.asarray(coefficients[0] * v + moved - two)

    def _by_shifts(self, v: Array) -> Array:
        shifts, weights = _contour(self._low, self._high)
        if not self._shifted:
            for shift in shifts:
                self._factor(float(shift))
        return np.asarray(
            sum(
                w * solver.solve_many(v * self._root) * self._root
                for w, solver in zip(weights, self._shifted, strict=True)
            )
        )

    def _factor(self, shift: float) -> None:
        """R + shift W."""
        matrix, diagonal = self._matrix.copy(), self._matrix.createVecRight()
        diagonal.array[:] = shift * self._root**2
        matrix.setDiagonal(diagonal, PETSc.InsertMode.ADD_VALUES)
        diagonal.destroy()
        matrix.setOption(PETSc.Mat.Option.SPD, True)
        solver = LinearSolver(self.comm, self._prefix, self._options, self_adjoint=True)
        solver.factor(matrix)
        self._matrices.append(matrix)
        self._shifted.append(solver)

    def apply(self, v: Array) -> Array:
        """K v for rows (k, owned)."""
        return np.asarray(self._inverse_root(v) / self._root)

    def adjoint(self, v: Array) -> Array:
        """Kᵀ v for rows (k, owned)."""
        return self._inverse_root(v / self._root)

    def inverse(self, v: Array) -> Array:
        """K⁻¹ v for rows (k, owned)."""
        return self._inverse_root(products(self._matrix, v) / self._root)

    def inverse_adjoint(self, v: Array) -> Array:
        """K⁻ᵀ v for rows (k, owned): a square root of R, K⁻ᵀ K⁻¹ = R."""
        return np.asarray(products(self._matrix, self._inverse_root(v) / self._root))

    def destroy(self) -> None:
        """Free what PETSc holds; the matrix is the caller's."""
        for solver in self._shifted:
            solver.destroy()
        for matrix in self._matrices:
            matrix.destroy()
        self._shifted, self._matrices = [], []


def _contour(low: float, high: float) -> tuple[Array, Array]:
    """Shifts s and weights w with Σ w / (x + s) = x^-½ for low <= x <= high, by ``_TOLERANCE``.

    Points of the upper half of the contour are those of the lower half seen from its end, so that none loses digits.
    """
    ratio = low / high
    half = math.ceil(-0.5 * math.log(_TOLERANCE) * (3.0 - math.log(ratio)) / (2.0 * math.pi**2))
    quarter = float(scipy.special.ellipkm1(ratio))
    # Jacobi's functions by the arithmetic-geometric mean, from the complementary parameter, which is exact.
    a, b = 1.0, math.sqrt(ratio)
    steps = []
    for _ in range(_MEANS):
        steps.append((a - b) / (a + b))
        a, b = 0.5 * (a + b), math.sqrt(a * b)
    phi = 2.0**_MEANS * a * (np.arange(half) + 0.5) * quarter / (2 * half)
    for step in reversed(steps):
        phi = 0.5 * (phi + np.arcsin(step * np.sin(phi)))
    sn, cn = np.sin(phi), np.cos(phi)
    dn = np.sqrt(cn**2 + ratio * sn**2)
    far = 1.0 / (math.sqrt(ratio) * sn**2)
    shifts = low * np.concatenate([(sn / cn) ** 2, cn**2 * far / math.sqrt(ratio)])
    weights = math.sqrt(low) * quarter / (math.pi * half) * np.concatenate([dn / cn**2, dn * far])
    return shifts, weights
