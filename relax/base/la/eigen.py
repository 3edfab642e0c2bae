"""Pairs of a symmetric generalised eigenproblem, A x = λ M x: all that are asked for, none twice, by SLEPc."""

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
from relax.base.la.linear import LinearSolver
from relax.base.la.matrices import largest_quotient, products
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
# What is below these shares of the largest eigenvalue is rounding: no scale, and how far below 0 a shift stays of it.
_NO_SCALE, _BELOW_0 = 1e-8, 1e-10
# M - this of its diagonal has only positive eigenvalues where M is definite (those of a mass matrix, beside its
# diagonal, are above 1e-3).
_DEFINITE = 1e-10
# Where in its interval a shift lies: elsewhere, should there be an eigenvalue.
_PLACES = (0.5, 0.43, 0.58)
# How often to look for more of a cluster, or for pairs passed over; and for how many of a cluster first, then doubled.
_ROUNDS, _FEW = 10, 4


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of A x = λ M x.

    Attributes:
        values: λ ascending, (p,), the same bits on every rank.
        vectors: (p, owned rows), M-orthonormal.
        residuals: |A x - λ M x| / (|λ| |M x|), (p,); what rounding makes of λ = 0 counts as λ.
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


class EigenPairs:
    """Pairs of A x = λ M x, for A and M symmetric and M positive definite.

    Collective, as is every method. A Krylov method started from one vector can pass over a copy of a multiple
    eigenvalue; so eigenvalues are counted by the inertia of A - τM (Sylvester's law), and those that are missing are
    looked for in the complement of those that were found.

    Args:
        A, M: the pencil. The caller keeps and destroys them.
        T: a part of A, positive definite. Its mean over the pairs is the scale that tells close from equal: it does not
            change when a multiple of M is added to A. When not given, the scale is the mean of |λ|.
        options: PETSc options, with prefix ``relax_eigen_`` on the command line.
        floor: a number below all eigenvalues, as far as is known: 0 for a positive definite A. Just below 0 when not
            given; then A need not be definite.

    Attributes:
        floor: such a number, lower where it was found to be too high.
    """

    def __init__(
        self,
        A: PETSc.Mat,
        M: PETSc.Mat,
        T: PETSc.Mat | None = None,
        options: Options | None = None,
        floor: float | None = None,
    ) -> None:
        self.comm = A.comm.tompi4py()
        self._A, self._M, self._T = A, M, T
        self._options = checked_options(options)
        self._largest = largest_quotient(A, M)
        self.floor = -_BELOW_0 * self._largest if floor is None else floor
        self._shift = self.floor
        self._counts_itself = True

    def lowest(self, k: int) -> Pairs:
        """The k lowest pairs, and those that are in one cluster with the last of them.

        Raises:
            SolveFailed: when they cannot all be found, or one is not accurate.
        """
        size = self._A.getSize()[0]
        pairs = self._from_floor(min(k + 1, size))
        for i in range(_ROUNDS):
            last = _clear_end(pairs, k)
            if last is None and len(pairs.values) < size:
                pairs = self._more(pairs, min(_FEW * 2**i, size - len(pairs.values)))
                continue
            if last is None:
                return self._accurate(pairs, slice(size))
            below = self._count_below(0.5 * (pairs.values[last - 1] + pairs.values[last]), default=last)
            if below == last:
                return self._accurate(pairs, slice(last))
            if below < last:
                break
            if self._lower_floor(pairs):
                pairs = self._from_floor(min(k + 1, size))
                continue
            logger.info("eigensolver: %d of %d eigenvalues were passed over at first", below - last, below)
            self._shift = self.floor  # the missing ones may lie below it
            pairs = self._more(pairs, below - last)
        raise SolveFailed(
            f"the eigensolver ({PREFIX}) and the inertia of the shifted operator do not agree on how many eigenvalues "
            f"there are up to the {k}th. Is the matrix's condition beyond rounding (a potential of very different "
            f"sizes)? Try -{PREFIX}eps_ncv {4 * k + 40}, or another k"
        )

    def between(self, k: int, low: float, high: float) -> Pairs:
        """The k pairs with low < λ < high, which are all there.

        Raises:
            SolveFailed: when there are not k, when one lies at a bound, and as ``lowest``.
        """
        size = self._A.getSize()[0]
        pairs, is_counted = None, False
        for place in _PLACES:
            # Seen from the middle those of the interval are nearest; and one more, to see what lies at a bound.
            self._shift = low + place * (high - low)
            inside, found = (0, 0) if pairs is None else (len(_inside(pairs, low, high)), len(pairs.values))
            try:
                pairs = self._more(pairs, min(k - inside + 1, size - found))
                chosen = _inside(pairs, low, high)
                result = self._accurate(pairs, chosen)
            except SolveFailed:
                if place == _PLACES[-1]:
                    raise
                pairs = None  # the shift itself may be an eigenvalue
                continue
            _refuse_at_bounds(pairs, low, high)
            if not is_counted and self._counts_itself:
                below = self._count_below(low, default=0)
                count = self._count_below(high, default=below + len(chosen)) - below
                is_counted = True
                if count != k:
                    raise SolveFailed(_told_count(k, low, high, f"{count} ({below} are below them)"))
            if len(chosen) > k or not (is_counted or len(chosen) == k):
                raise SolveFailed(_told_count(k, low, high, f"{len(chosen)}{' or more' * (len(chosen) > k)}"))
            if len(chosen) == k:
                return result
            if len(pairs.values) == size:
                break
        raise SolveFailed(
            f"the eigensolver ({PREFIX}) and the inertia of the shifted operator do not agree on how many eigenvalues "
            f"lie in ({low:.6g}, {high:.6g}). Try -{PREFIX}eps_ncv {4 * k + 40}, or bounds that are closer"
        )

    def indefinite(self) -> int:
        """In how many dimensions xᵀ M x > 0 fails."""
        diagonal, reduced = self._M.getDiagonal(), self._M.copy()
        try:
            bad = parallel.total(self.comm, int(np.count_nonzero(~(diagonal.array_r > 0.0))))
            if not bad:
                diagonal.scale(1.0 - _DEFINITE)
                reduced.setDiagonal(diagonal)
                bad = self._negative_pivots(reduced) or 0
            return bad
        finally:
            diagonal.destroy()
            reduced.destroy()

    def _from_floor(self, count: int) -> Pairs:
        """The lowest pairs, as far as they are seen from the floor."""
        self._shift = self.floor
        pairs = self._more(None, count)
        if pairs.values[0] - self._span(pairs) - self._shift > 0.5 * (pairs.values[0] - self._shift):
            # The floor is far below: seen from there all wanted values look alike.
            self._shift = float(pairs.values[0] - self._span(pairs))
            pairs = self._more(None, count)
        return pairs

    def _lower_floor(self, pairs: Pairs) -> bool:
        """Move the floor below all eigenvalues, where it is not; whether it was moved."""
        before, step = self.floor, max(abs(self.floor), self._span(pairs))
        while self._count_below(self.floor, default=0) > 0:
            self.floor -= step
            step *= 4.0
        return self.floor < before

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
        T_vectors = A_vectors if self._T is None else products(self._T, vectors)
        defects = A_vectors - values[:, None] * M_vectors
        squares = np.stack([(defects**2).sum(axis=1), (M_vectors**2).sum(axis=1), (vectors * T_vectors).sum(axis=1)])
        defect, mass, part = parallel.sum_over_ranks(self.comm, squares)
        least = _NO_SCALE * self._largest
        residuals = np.sqrt(defect) / ((np.abs(values) + least) * np.sqrt(mass))
        return Pairs(values, vectors, residuals, max(float(np.abs(part).mean()), least))

    def _count_below(self, tau: float, default: int) -> int:
        """How many eigenvalues lie below tau: the negative pivots of A - tau M."""
        if not self._counts_itself:
            return default
        shifted = self._A.copy()
        shifted.axpy(-tau, self._M, PETSc.Mat.Structure.UNKNOWN_NONZERO_PATTERN)
        try:
            negative = self._negative_pivots(shifted)
        finally:
            shifted.destroy()
        return default if negative is None else negative

    def _negative_pivots(self, matrix: PETSc.Mat) -> int | None:
        solver = LinearSolver(self.comm, PREFIX + "count_", DIRECT_COUNTING, self_adjoint=True)
        try:
            solver.factor(matrix)
            return solver.negative_pivots()
        finally:
            solver.destroy()

    def _accurate(self, pairs: Pairs, chosen: slice | npt.NDArray[np.int64]) -> Pairs:
        """The chosen pairs, once their residuals have been looked at."""
        residuals = pairs.residuals[chosen]
        if not np.isfinite(residuals).all() or residuals.max(initial=0.0) > _RESIDUAL:
            raise SolveFailed(
                f"the eigensolver ({PREFIX}) reported success, but a relative residual is {residuals.max():.1e} "
                f"(expected at most {_RESIDUAL:.0e}). Try a smaller -{PREFIX}eps_tol, or a direct solver for "
                f"the shifted operator (-{PREFIX}st_pc_type cholesky)"
            )
        return Pairs(pairs.values[chosen], pairs.vectors[chosen], residuals, pairs.scale)


def _inside(pairs: Pairs, low: float, high: float) -> npt.NDArray[np.int64]:
    return np.flatnonzero((pairs.values > low) & (pairs.values < high))


def _refuse_at_bounds(pairs: Pairs, low: float, high: float) -> None:
    """Where an eigenvalue lies at a bound, which of them lie between the bounds is a matter of rounding. Local."""
    for bound in (low, high):
        gaps = np.abs(pairs.values - bound)
        if gaps.min() <= SAME_EIGENVALUE * pairs.scale:
            raise SolveFailed(
                f"bounds: an eigenvalue, {pairs.values[gaps.argmin()]:.12g}, lies at the bound {bound:.12g}; expected "
                "bounds in gaps of the spectrum; move the bound"
            )


def _told_count(k: int, low: float, high: float, count: str) -> str:
    return (
        f"bounds: expected k = {k} eigenvalues in ({low:.12g}, {high:.12g}), there are {count}; pass another k, or "
        "bounds in other gaps of the spectrum"
    )


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
