"""How differences between what is seen and data are weighed: P of ½ rᵀ P r, the precision of the noise."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import array_like
from relax.base.types import Array
from relax.errors import BadInput
from relax.observe.fields import FieldValues

# Misfits are divided by its square.
_LEAST_NOISE = 1e-150
# A matrix is symmetric that is so to this share of its largest entry.
_SYMMETRIC = 1e-10


class Weighing(Protocol):
    """P, symmetric positive, on vectors that every rank holds whole.

    Attributes:
        count: about what rᵀ P r is where r is noise: how many numbers were seen, or the size of where a field was.
        kept: what it was made of, as a checkpoint keeps it.
    """

    count: float
    kept: Array

    def weigh(self, r: Array) -> Array:
        """P r for r of shape (..., n). Collective."""

    def root(self, r: Array) -> Array | None:
        """R r for r of shape (..., n), P = Rᵀ R; None where there is no such R at hand. Collective."""


class Independent:
    """Standard deviations, (n,): P = diag(1 / σ²)."""

    def __init__(self, sigma: Array) -> None:
        self.kept = sigma
        self.count = float(len(sigma))

    def weigh(self, r: Array) -> Array:
        return np.asarray(r / self.kept / self.kept)

    def root(self, r: Array) -> Array | None:
        return np.asarray(r / self.kept)


class DenseMatrix:
    """A matrix with its Cholesky factor L: P = L Lᵀ, or where it is a covariance, P⁻¹ = L Lᵀ."""

    def __init__(self, matrix: Array, factor: Array, *, is_covariance: bool) -> None:
        self.kept = matrix
        self.count = float(len(matrix))
        self._factor, self._is_covariance = factor, is_covariance

    def weigh(self, r: Array) -> Array:
        if not self._is_covariance:
            return np.asarray(r @ self.kept)
        return np.asarray(scipy.linalg.cho_solve((self._factor, True), np.atleast_2d(r).T).T.reshape(r.shape))

    def root(self, r: Array) -> Array | None:
        if not self._is_covariance:
            return np.asarray(r @ self._factor)
        rows = scipy.linalg.solve_triangular(self._factor, np.atleast_2d(r).T, lower=True).T
        return np.asarray(rows.reshape(r.shape))


class SparseMatrix:
    """A sparse matrix, P or its inverse, with its factors by SuperLU."""

    def __init__(self, matrix: Any, factors: Any, *, is_covariance: bool) -> None:
        self.kept = np.array(matrix.data)
        self.count = float(matrix.shape[0])
        self._apply = factors.solve if is_covariance else matrix.dot

    def weigh(self, r: Array) -> Array:
        return np.asarray(self._apply(np.ascontiguousarray(np.atleast_2d(r).T)).T.reshape(r.shape))

    def root(self, r: Array) -> Array | None:
        return None


class OfField:
    """The mass matrix of what ``FieldValues`` sees, over σ²: rᵀ P r is the integral of r² / σ²."""

    def __init__(self, values: FieldValues, sigma: float) -> None:
        self.kept = np.array([sigma])
        self._values, self._sigma = values, sigma
        self.count = float(np.ones(values.size) @ values.mass(np.ones(values.size)))

    def weigh(self, r: Array) -> Array:
        return np.asarray(self._values.mass(r) / self._sigma**2)

    def root(self, r: Array) -> Array | None:
        return None


def weighing(comm: MPI.Comm, observable: Any, size: int, noise: Any, precision: Any) -> Weighing:
    """What ``Misfit`` is given as noise and precision. Collective.

    Args:
        comm: the ranks.
        observable: what sees; None where that is not known.
        size: how many numbers are seen.
        noise: a number, a vector, or a covariance matrix.
        precision: a matrix, "L2", or None.

    Raises:
        BadInput: on every rank, for what is neither.
    """
    if isinstance(precision, str):
        return _of_field(comm, observable, noise, precision)
    if precision is not None:
        if np.ndim(array_like(noise, "noise")) != 0 or parallel.any_rank(comm, bool(noise != 1.0)):
            raise BadInput("noise: expected none beside a precision matrix, which says all of the noise")
        return _of_matrix(comm, precision, size, is_covariance=False, what="precision")
    if scipy.sparse.issparse(noise) or np.ndim(array_like(noise, "noise")) == 2:
        return _of_matrix(comm, noise, size, is_covariance=True, what="noise")
    is_number = np.ndim(array_like(noise, "noise")) == 0
    return Independent(_deviations(comm, np.full(size, noise) if is_number else noise, size))


def _deviations(comm: MPI.Comm, values: Any, size: int) -> Array:
    sigma = parallel.checked_on_all(comm, values, size, "noise")
    if sigma.ndim != 1:
        raise BadInput(f"noise: expected shape ({size},), got {sigma.shape}")
    # Decided on rank 0's copies, which are every rank's by now.
    if (least := sigma.min(initial=1.0)) <= 0.0:
        raise BadInput(
            f"noise: expected positive standard deviations, got {least:.3g}; it weighs the data, so an "
            "observation to be ignored has a large noise, not zero"
        )
    if not least > _LEAST_NOISE:
        raise BadInput(f"noise: expected standard deviations above {_LEAST_NOISE:.0e}, got {least:.3g}")
    return sigma


def _of_field(comm: MPI.Comm, observable: Any, noise: Any, precision: str) -> OfField:
    with parallel.together(comm):
        if precision != "L2":
            raise BadInput(f"precision: expected a matrix or 'L2', got {precision!r}")
        if not isinstance(observable, FieldValues):
            raise BadInput(
                f"precision: 'L2' is the integral of what relax.FieldValues sees, and G sees "
                f"{type(observable).__name__}; give standard deviations as noise, or a matrix"
            )
        if np.ndim(array_like(noise, "noise")) != 0:
            raise BadInput(f"noise: expected one number beside precision='L2', got shape {np.shape(noise)}")
    return OfField(observable, float(_deviations(comm, np.full(1, noise), 1)[0]))


def _of_matrix(comm: MPI.Comm, given: Any, size: int, *, is_covariance: bool, what: str) -> DenseMatrix | SparseMatrix:
    """Rank 0's matrix on every rank, symmetric and positive."""
    is_sparse = scipy.sparse.issparse(given)
    if is_sparse:
        with parallel.together(comm):
            _check_square(given, size, what)
        matrix = parallel.of_rank_0(comm, scipy.sparse.csc_matrix(given, dtype=np.float64))
        entries = matrix.data
    else:
        matrix = entries = parallel.checked_on_all(comm, given, size, what)
        _check_square(matrix, size, what)
    if not np.isfinite(entries).all():
        raise BadInput(f"{what}: {np.count_nonzero(~np.isfinite(entries))} of its entries are NaN or infinite")
    if abs(matrix - matrix.T).max() > _SYMMETRIC * np.abs(entries).max(initial=0.0):
        raise BadInput(f"{what}: expected a symmetric matrix, got one that is not")
    try:
        if not is_sparse:
            return DenseMatrix(matrix, np.linalg.cholesky(matrix), is_covariance=is_covariance)
        # Without exchange of rows the pivots are those of L D Lᵀ: as many are negative as eigenvalues are.
        symmetric = {"SymmetricMode": True}
        lu = scipy.sparse.linalg.splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=symmetric)
        if np.array_equal(lu.perm_r, lu.perm_c) and bool((lu.U.diagonal() > 0.0).all()):
            return SparseMatrix(matrix, lu, is_covariance=is_covariance)
    except (np.linalg.LinAlgError, RuntimeError):
        pass
    kind = "covariance" if is_covariance else "precision"
    raise BadInput(f"{what}: expected a {kind} matrix, with positive eigenvalues only, got one that has others")


def _check_square(matrix: Any, size: int, what: str) -> None:
    if matrix.shape != (size, size):
        raise BadInput(f"{what}: expected a matrix of shape ({size}, {size}), got {matrix.shape}")
