"""Operators with a known null space: solved on what it leaves, by a direct solver or a Krylov method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.work import work_vectors
from relax.base.types import Array, Indices
from relax.errors import BadProblem, SolveFailed

# |A n| of a null vector beside |A r| of its entries with random factors. Quadrature and curved cells leave some of it.
_NOTHING = 1e-8


class NullSpace:
    """Vectors n_i with A n_i = 0, and the functionals w_i, of w_i(n_j) = δ_ij, that are zero at what is solved for.

    Collective to make; methods are as they say.

    Args:
        comm: of all vectors.
        vectors: n, (k, owned), independent.
        duals: w, (k, owned), such as ∫ n_i v dx, with zeros where values are clamped.

    Attributes:
        vectors, duals: made orthonormal to one another.
        pins: an entry for each vector that tells it from the others: local indices, -1 on ranks that do not own it.

    Raises:
        BadProblem: where vectors depend on one another.
    """

    def __init__(self, comm: MPI.Comm, vectors: Array, duals: Array) -> None:
        self.comm = comm
        gram = self.products(vectors, duals)
        units = 1.0 / np.sqrt(np.maximum(np.diag(gram), 1e-300))
        scaled = units[:, None] * gram * units
        if np.linalg.eigvalsh(0.5 * (scaled + scaled.T))[0] < _NOTHING:
            raise BadProblem("nullspace: expected vectors that are independent of one another, and not zero")
        factor = np.linalg.inv(np.linalg.cholesky(gram))
        self.vectors: Array = factor @ vectors
        self.duals: Array = factor @ duals
        self.pins = self._pins()

    def products(self, rows: Array, others: Array) -> Array:
        """Products of rows with others over all ranks, (j, k). Collective."""
        return parallel.sum_over_ranks(self.comm, rows @ others.T)

    def _pins(self) -> Indices:
        """Entries by Gauss's elimination with complete pivoting."""
        left, pins = self.vectors.copy(), np.full(len(self.vectors), -1, dtype=np.int64)
        for k in range(len(left)):
            sizes = np.abs(left[k:]).max(axis=0, initial=0.0)
            own = float(sizes.max(initial=0.0))
            largest = parallel.largest(self.comm, own)
            mine = own >= largest * (1.0 - 1e-12)
            rank = self.comm.rank if mine else self.comm.size
            holder = int(parallel.smallest(self.comm, np.array([rank]))[0])
            column: Array = np.zeros(len(left))
            if self.comm.rank == holder:
                pins[k] = int(np.argmax(sizes))
                column = left[:, pins[k]].copy()
            column = parallel.sum_over_ranks(self.comm, column)
            row = k + int(np.argmax(np.abs(column[k:])))
            left[[k, row]], column[[k, row]] = left[[row, k]], column[[row, k]]
            left[k + 1 :] -= np.outer(column[k + 1 :] / column[k], left[k])
        return pins

    @property
    def owned_pins(self) -> Indices:
        """Local indices of those entries that this rank owns. Local."""
        return self.pins[self.pins >= 0]

    def free(self, rows: Array) -> Array:
        """Vectors x, (j, owned), less their part in the null space: w_i(x) = 0 then. Collective."""
        return rows - self.products(rows, self.duals) @ self.vectors


class Deflation:
    """One matrix with a null space: pinned where it is factored, else told to PETSc for a Krylov method.

    With A N = 0 and Zᵀ A = 0, A x = b becomes A x = b - W (Zᵀ b), w(x) = 0, and Aᵀ y = c becomes Aᵀ y = c - W (Nᵀ c),
    w(y) = 0 up to Z: transposes of one another. Z is N where A's is a symmetric null space, else it is solved for.

    Collective, as are all methods.

    Args:
        space: the null space.
        is_factored: whether the solver, or its preconditioner, is a factor of the matrix.
        self_adjoint: A = Aᵀ.
    """

    def __init__(self, space: NullSpace, *, is_factored: bool, self_adjoint: bool) -> None:
        self.space = space
        self._is_factored = is_factored
        self._self_adjoint = self_adjoint
        self._left: Array = space.vectors
        self._wanting: Array | None = None
        self._petsc: PETSc.NullSpace | None = None
        self._norms: Array = np.sqrt(parallel.sum_over_ranks(space.comm, np.sum(space.vectors**2, axis=1)))

    def take(self, A: PETSc.Mat) -> None:
        """Check a matrix just assembled, and make it one that can be solved with.

        Raises:
            BadProblem: where the vectors are none of its null space, or a Krylov method lacks that of the transpose.
        """
        space, pins = self.space, self.space.pins
        for k, share in enumerate(finite(shares(A, space.vectors))):
            if share > _NOTHING:
                raise BadProblem(
                    f"nullspace: expected vectors that the derivative of the residual takes to zero, got {share:.1e} "
                    f"of its terms left of vector {k}; is a value clamped, or a term in the way, that knows of it?"
                )
        symmetric = self._self_adjoint or max(finite(shares(A, space.vectors, transposed=True))) <= _NOTHING
        self._left, self._wanting = space.vectors, None
        if not self._is_factored:
            if not symmetric:
                raise BadProblem(
                    "nullspace: the transpose of the operator has another null space, for which a direct solver is "
                    "needed: options=relax.DIRECT"
                )
            if self._petsc is None:
                self._petsc = orthonormal(A, space.vectors)
            A.setNullSpace(self._petsc)
            A.setTransposeNullSpace(self._petsc)
            return
        first = A.getOwnershipRange()[0]
        if not symmetric:
            # Of z, Aᵀ z = 0, with unit vectors at the pins.
            self._wanting = np.empty_like(space.vectors)
            with work_vectors(A) as (x, y):
                for k, pin in enumerate(pins):
                    y.set(0.0)
                    if pin >= 0:
                        y.array[pin] = 1.0
                    A.multTranspose(y, x)
                    self._wanting[k] = -x.array_r
        A.setOption(PETSc.Mat.Option.KEEP_NONZERO_PATTERN, True)
        A.zeroRowsColumns((first + space.owned_pins).astype(PETSc.IntType), diag=1.0)

    def finish(self, solve_transposed: Callable[[Array], Array]) -> None:
        """The null space of the transpose, by the factor of the pinned matrix."""
        if self._wanting is None:
            return
        space = self.space
        rhs, self._wanting = self._wanting, None
        rhs[:, space.owned_pins] = 0.0
        z = solve_transposed(rhs)
        for k, pin in enumerate(space.pins):
            if pin >= 0:
                z[k, pin] += 1.0
        self._left = np.asarray(np.linalg.solve(space.products(z, space.duals), z), dtype=np.float64)

    def source(self, rows: Array, *, adjoint: bool = False) -> Array:
        """Right-hand sides (j, owned), as the pinned matrix takes them."""
        space = self.space
        against = space.vectors if adjoint else self._left
        left: Array = rows - space.products(rows, against) @ space.duals
        if self._is_factored:
            left[:, space.owned_pins] = 0.0
        return left

    def solution(self, rows: Array, *, adjoint: bool = False) -> Array:
        """Solutions (j, owned) of the pinned matrix, less their part in the null space."""
        space = self.space
        along = self._left if adjoint else space.vectors
        return rows - space.products(rows, space.duals) @ along

    def incompatible(self, rhs: Array) -> tuple[float, float]:
        """The largest |zᵀ b|, and |z|ᵀ|b| beside it, of a right-hand side (owned,) of A x = b."""
        products = self.space.products(self._left, rhs[None])[:, 0]
        sizes = self.space.products(np.abs(self._left), np.abs(rhs)[None])[:, 0]
        worst = int(np.argmax(np.abs(products) / np.maximum(sizes, 1e-300)))
        return abs(float(products[worst])), float(sizes[worst])

    def restrict(self, residual: Array) -> float:
        """Take out of a residual (owned,) what no step changes, in place; its Euclidean norm."""
        space = self.space
        if self._is_factored:
            own = residual[space.owned_pins].copy()
            residual[space.owned_pins] = 0.0
            return float(np.sqrt(parallel.dot(space.comm, own, own)))
        products = space.products(space.vectors, residual[None])[:, 0]
        residual[:] = residual - products @ space.duals
        # Products of unit vectors: those with ∫ n · n dx = 1 have the size of the domain in them.
        return float(np.linalg.norm(products / self._norms))

    def destroy(self) -> None:
        """Free what PETSc holds."""
        if self._petsc is not None:
            self._petsc.destroy()
            self._petsc = None


def shares(A: PETSc.Mat, vectors: Array, *, transposed: bool = False) -> list[float]:
    """|A n| of vectors (k, owned), or |Aᵀ n|, beside that of those times random factors; NaN for an A with NaN in it.

    Collective.
    """
    # Signs alone are all the same on few entries, now and then.
    factors = np.random.default_rng(A.comm.rank).uniform(-(3**0.5), 3**0.5, vectors.shape[1])
    apply = A.multTranspose if transposed else A.mult
    found = []
    with work_vectors(A) as (x, y):
        for n in vectors:
            norms = []
            for values in (n, n * factors):
                x.array[:] = values
                apply(x, y)
                norms.append(y.norm())
            found.append(norms[0] / max(norms[1], 1e-300) if np.isfinite(norms).all() else np.nan)
    return found


def finite(found: list[float]) -> list[float]:
    """``shares``, where they are numbers. Local.

    Raises:
        SolveFailed: where they are not.
    """
    if not np.isfinite(found).all():
        raise SolveFailed(
            "nullspace: the derivative of the residual is not finite there: look for coefficients that are NaN or out "
            "of range"
        )
    return found


def orthonormal(A: PETSc.Mat, vectors: Array) -> PETSc.NullSpace:
    """The span of vectors (k, owned), orthonormal in the Euclidean product, for PETSc. Collective."""
    products = parallel.sum_over_ranks(A.comm.tompi4py(), vectors @ vectors.T)
    columns = []
    for row in np.linalg.solve(np.linalg.cholesky(products), vectors):
        column = A.createVecRight()
        column.array[:] = row
        columns.append(column)
    made = PETSc.NullSpace().create(constant=False, vectors=columns, comm=A.comm)
    for column in columns:
        column.destroy()
    return made
