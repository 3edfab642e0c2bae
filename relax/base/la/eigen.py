"""The lowest pairs of a symmetric generalised eigenproblem, A x = λ M x: all of them, none twice, by SLEPc."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la import kinds
from relax.base.la.linear import LinearSolver, work_vectors
from relax.base.la.options import (
    DIRECT_COUNTING,
    Merged,
    Options,
    first_line,
    inserted,
    merged,
    refused_options,
    tell_unread,
)
from relax.base.log import logger, timed
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed

PREFIX = "relax_eigen_"
_GET_SLEPC = (
    "eigenstates need slepc4py (real build), which is not installed: on Debian `apt install python3-slepc4py-real`, "
    "with conda `conda install -c conda-forge slepc4py`"
)
#: Krylov-Schur on (A - σM)^-1 M with L D L^T by MUMPS.
SHIFT_AND_INVERT: Options = {
    "eps_type": "krylovschur",
    "eps_tol": 1e-13,
    "eps_max_it": 300,
    "st_type": "sinvert",
    "st_ksp_type": "preonly",
    "st_pc_type": "cholesky",
    "st_pc_factor_mat_solver_type": "mumps",
}
#: Neighbours closer than this fraction of the scale are one cluster: their vectors are determined together only.
SAME_EIGENVALUE = 1e-6
# |A x - λ M x| over λ |M x|. Rounding alone leaves the condition number of A times 1e-16, on fine meshes 1e-9.
_RESIDUAL = 1e-6
# How often to look for more of a cluster, or for pairs passed over; and for how many of a cluster first, then doubled.
_ROUNDS, _FEW = 10, 4


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of A x = λ M x.

    Attributes:
        values: λ ascending, (p,), the same bits on every rank.
        vectors: (p, owned rows), M-orthonormal.
        residuals: |A x - λ M x| / (λ |M x|), (p,).
        scale: what gaps are compared with.
    """

    values: Array
    vectors: Array
    residuals: Array
    scale: float

    def clusters(self) -> tuple[range, ...]:
        """Runs of two and more values whose neighbours are closer than ``SAME_EIGENVALUE * scale``. Local."""
        cuts = np.flatnonzero(np.diff(self.values) > SAME_EIGENVALUE * self.scale) + 1
        ends = [0, *map(int, cuts), len(self.values)]
        return tuple(range(a, b) for a, b in itertools.pairwise(ends) if b - a > 1)


def checked_options(options: Options | None) -> Merged:
    """Options for SLEPc over the defaults; what comes from here, as it is.

    Raises:
        BadInput: for a key that is no option of the eigensolver, and for words where PETSc wants a number.
    """
    if isinstance(options, Merged):
        return options
    options = options or {}
    for key in options:
        if not key.startswith(("eps_", "st_", "bv_", "ds_", "rg_", "fn_")):
            raise BadInput(
                f"options: expected keys that start with eps_ or st_ (the shifted operator's solver is st_ksp_type, "
                f"st_pc_type, ...), got {key!r}"
            )
        kinds.check(key, options[key], key)
    return merged(SHIFT_AND_INVERT, options)


def restricted(A: PETSc.Mat, rows: npt.NDArray[np.int32], into: PETSc.Mat | None = None) -> PETSc.Mat:
    """These rows of a square matrix and the same columns.

    Collective. The caller destroys it.

    Args:
        A: assembled, of block size 1.
        rows: this rank's part: owned rows, by their local numbers.
        into: an earlier result for the same rows, to be filled anew.
    """
    chosen = PETSc.IS().createGeneral(A.getOwnershipRange()[0] + rows, comm=A.comm)
    try:
        return A.createSubMatrix(chosen, chosen, into)
    finally:
        chosen.destroy()


def products(A: PETSc.Mat, vectors: Array) -> Array:
    """A x for each row of (p, owned rows). Collective."""
    result = np.empty_like(vectors)
    with work_vectors(A) as (x, y):
        for i, row in enumerate(vectors):
            x.array[:] = row
            A.mult(x, y)
            result[i] = y.array_r
    return result


class LowestPairs:
    """The pairs of A x = λ M x with the smallest λ, for A, M and T symmetric and positive definite.

    Collective, as is every method. A Krylov method started from one vector can pass over a copy of a multiple
    eigenvalue; so the eigenvalues below the last one are counted by the inertia of A - τM (Sylvester's law), and those
    that are missing are looked for in the complement of those that were found.

    Args:
        A, M: the pencil. The caller keeps and destroys them.
        T: a part of A. Its mean over the pairs is the scale that tells close from equal: it does not change when a
            multiple of M is added to A.
        options: PETSc options, with prefix ``relax_eigen_`` on the command line.
    """

    def __init__(self, A: PETSc.Mat, M: PETSc.Mat, T: PETSc.Mat, options: Options | None = None) -> None:
        self.comm = A.comm.tompi4py()
        self._A, self._M, self._T = A, M, T
        self._options = checked_options(options)
        self._shift = 0.0
        self._counts_itself = True

    def find(self, k: int) -> Pairs:
        """The k lowest pairs, and those that are in one cluster with the last of them.

        Raises:
            SolveFailed: when they cannot all be found, or one is not accurate.
        """
        size = self._A.getSize()[0]
        pairs = self._more(None, min(k + 1, size))
        if pairs.values[0] - self._span(pairs) > 0.5 * pairs.values[0]:
            # The pencil's lower bound 0 is far below: seen from there all wanted values look alike.
            self._shift = float(pairs.values[0] - self._span(pairs))
            pairs = self._more(None, min(k + 1, size))
        for i in range(_ROUNDS):
            last = _clear_end(pairs, k)
            if last is None and len(pairs.values) < size:
                pairs = self._more(pairs, min(_FEW * 2**i, size - len(pairs.values)))
                continue
            if last is None:
                return self._accurate(pairs, size)
            below = self._count_below(0.5 * (pairs.values[last - 1] + pairs.values[last]), default=last)
            if below == last:
                return self._accurate(pairs, last)
            if below < last:
                break
            logger.info("eigensolver: %d of %d eigenvalues were passed over at first", below - last, below)
            self._shift = 0.0  # the missing ones may lie below it
            pairs = self._more(pairs, below - last)
        raise SolveFailed(
            f"the eigensolver ({PREFIX}) and the inertia of the shifted operator do not agree on how many eigenvalues "
            f"there are up to the {k}th. Is the matrix's condition beyond rounding (a potential of very different "
            f"sizes)? Try -{PREFIX}eps_ncv {4 * k + 40}, or another k"
        )

    def _span(self, pairs: Pairs) -> float:
        return float(pairs.values[-1] - pairs.values[0] + pairs.scale)

    def _more(self, pairs: Pairs | None, count: int) -> Pairs:
        """``pairs`` and ``count`` more pairs, the lowest of the complement, in a Rayleigh-Ritz basis of all."""
        known = np.empty((0, self._A.getLocalSize()[0])) if pairs is None else pairs.vectors
        with timed(f"{PREFIX}: {count} pairs"):
            new = self._krylov(count, known)
        return self._ritz(np.concatenate([known, new]))

    def _krylov(self, count: int, known: Array) -> Array:
        """Vectors of the lowest ``count`` pairs M-orthogonal to known vectors: (count, owned rows)."""
        # Only those who ask for eigenstates need SLEPc, which not every DOLFINx comes with.
        try:
            from slepc4py import SLEPc
        except ModuleNotFoundError as error:
            raise ImportError(_GET_SLEPC) from error
        eps = SLEPc.EPS().create(self.comm)
        deflated = [self._A.createVecRight() for _ in known]
        x = self._A.createVecRight()
        try:
            eps.setOptionsPrefix(PREFIX)
            eps.setOperators(self._A, self._M)
            eps.setProblemType(SLEPc.EPS.ProblemType.GHEP)
            eps.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
            eps.setTarget(self._shift)
            eps.setDimensions(count)
            for vector, row in zip(deflated, known, strict=True):
                vector.array[:] = row
            if deflated:
                eps.setDeflationSpace(deflated)
            with inserted(PREFIX, self._options), refused_options(PREFIX):
                _call(eps.setFromOptions)
            self._solve(eps)
            tell_unread(PREFIX, self._options.given, eps.getType())
            if eps.getConverged() < count:
                raise SolveFailed(
                    f"the eigensolver ({PREFIX}: {eps.getType()}) found {eps.getConverged()} of {count} eigenpairs in "
                    f"{eps.getIterationNumber()} iterations. Try a larger -{PREFIX}eps_ncv or -{PREFIX}eps_max_it, or "
                    f"-{PREFIX}eps_monitor to see where it stalls"
                )
            vectors = np.empty((count, x.getLocalSize()))
            for i in range(count):
                eps.getEigenvector(i, x)
                vectors[i] = x.array_r
            return vectors
        finally:
            for vector in deflated:
                vector.destroy()
            x.destroy()
            eps.destroy()

    def _solve(self, eps: Any) -> None:
        try:
            # MUMPS reads its options during set-up.
            with inserted(PREFIX, self._options):
                _call(eps.setUp)
                # With any other solver for the shifted operator, memory for a factor is not ours to spend.
                self._counts_itself = eps.getST().getKSP().getPC().getType() in ("cholesky", "lu")
                _call(eps.solve)
        except PETSc.Error as error:
            raise SolveFailed(
                f"the eigensolver ({PREFIX}) failed ({first_line(error)}). Look for coefficients that are NaN or out "
                f"of range, or try another -{PREFIX}st_pc_type"
            ) from error

    def _ritz(self, basis: Array) -> Pairs:
        """The best pairs in the span of these vectors: errors of the values are the square of those of the vectors."""
        A_basis, M_basis = products(self._A, basis), products(self._M, basis)
        p = len(basis)
        sums = parallel.sum_over_ranks(self.comm, np.concatenate([basis @ A_basis.T, basis @ M_basis.T]))
        try:
            inverse = np.linalg.inv(np.linalg.cholesky(0.5 * (sums[p:] + sums[p:].T)))
            reduced = inverse @ (0.5 * (sums[:p] + sums[:p].T)) @ inverse.T
            values, rotation = np.linalg.eigh(0.5 * (reduced + reduced.T))
        except np.linalg.LinAlgError as error:
            # The sums are the same bits on every rank, and so is this.
            raise SolveFailed(f"the eigensolver ({PREFIX}) gave vectors that are dependent: {error}") from error
        values = parallel.from_rank_0(self.comm, values)
        weights = parallel.from_rank_0(self.comm, rotation.T @ inverse)
        vectors, A_vectors, M_vectors = weights @ basis, weights @ A_basis, weights @ M_basis
        T_vectors = products(self._T, vectors)
        defects = A_vectors - values[:, None] * M_vectors
        squares = np.stack([(defects**2).sum(axis=1), (M_vectors**2).sum(axis=1), (vectors * T_vectors).sum(axis=1)])
        defect, mass, part = parallel.sum_over_ranks(self.comm, squares)
        residuals = np.sqrt(defect) / (np.abs(values) * np.sqrt(mass))
        return Pairs(values, vectors, residuals, float(part.mean()))

    def _count_below(self, tau: float, default: int) -> int:
        """How many eigenvalues lie below tau: the negative pivots of A - tau M."""
        if not self._counts_itself:
            return default
        shifted = self._A.copy()
        shifted.axpy(-tau, self._M, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
        solver = LinearSolver(self.comm, PREFIX + "count_", DIRECT_COUNTING, self_adjoint=True)
        try:
            solver.factor(shifted)
            negative = solver.negative_pivots()
        finally:
            shifted.destroy()
            solver.destroy()
        return default if negative is None else negative

    def _accurate(self, pairs: Pairs, count: int) -> Pairs:
        """The first ``count`` pairs, once their residuals have been looked at."""
        residuals = pairs.residuals[:count]
        if not np.isfinite(residuals).all() or residuals.max() > _RESIDUAL:
            raise SolveFailed(
                f"the eigensolver ({PREFIX}) reported success, but a relative residual is {residuals.max():.1e} "
                f"(expected at most {_RESIDUAL:.0e}). Try a smaller -{PREFIX}eps_tol, or a direct solver for "
                f"the shifted operator (-{PREFIX}st_pc_type cholesky)"
            )
        return Pairs(pairs.values[:count], pairs.vectors[:count], residuals, pairs.scale)


def _call(method: Callable[[], object]) -> None:
    """A method of SLEPc: slepc4py 3.25 wraps PETSc's error in one of Python's own."""
    try:
        method()
    except SystemError as error:
        raise (error.__cause__ or error) from None


def _clear_end(pairs: Pairs, k: int) -> int | None:
    """The smallest count of at least k pairs that no cluster reaches beyond, as far as is known; None when unknown."""
    gaps = np.diff(pairs.values)[k - 1 :]
    clear = np.flatnonzero(gaps > SAME_EIGENVALUE * pairs.scale)
    return k + int(clear[0]) if clear.size else None
