"""Linear solvers that are checked: A x = b and Aᵀ x = b, one right-hand side or many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.null_space import Deflation, NullSpace
from relax.base.la.options import Merged, Options, first_line, inserted, ksp_reason, refused_options, tell_unread
from relax.base.la.parts import Parts
from relax.base.la.work import work_vectors
from relax.base.types import Array
from relax.errors import SolveFailed

# Transposed solves that were found right to round-off. SuperLU_DIST returns wrong answers without a word, and
# transposed BoomerAMG stalls; whatever is not on this list gets a transposed operator with a solver of its own.
_TRANSPOSE_IS_RIGHT = {("lu", "mumps"), ("lu", "petsc"), ("lu", "umfpack"), ("lu", "superlu")}

_DIRECT_TOLERANCE = 1e-6
# A factor that has solved one system well solves another well whose solution is not far larger beside its right-hand
# side: the residual that rounding leaves is in proportion to the solution. A right-hand side that a singular operator
# does not reach shows in a solution 1e10 times larger.
_AS_LARGE = 100.0
# PETSc's own 1e-5 would be the accuracy of derivatives, too.
_RTOL = 1e-10


class LinearSolver:
    """A KSP for A x = b and Aᵀ x = b whose every answer is checked: reason, finite, true residual.

    Collective, as are all methods. The matrix is the caller's; ``factor`` is called each time it has changed.

    Args:
        comm: the communicator of the matrices.
        prefix: PETSc options prefix, ending in an underscore, the same on each rank.
        options: PETSc options below those of the command line.
        self_adjoint: A = Aᵀ: one set-up serves both directions.
    """

    def __init__(self, comm: MPI.Comm, prefix: str, options: Options, *, self_adjoint: bool) -> None:
        self.comm = comm
        self.prefix = prefix
        self.self_adjoint = self_adjoint
        self._options = {"ksp_rtol": _RTOL, **options}
        self._has_told = False
        self._given = options.given if isinstance(options, Merged) else ()
        self.ksp = self._create(prefix)
        self._matrix: PETSc.Mat = None
        self._transposed: PETSc.Mat | None = None
        self._transposed_ksp: PETSc.KSP | None = None
        self._transposed_is_current = False
        # The largest |x| / |b| of a solve whose residual was seen to be small since the factor was made, by direction.
        self._seen: dict[str, float] = {}
        self._residual: PETSc.Vec | None = None
        self._own_comms: list[MPI.Comm] = []
        #: What is done about the null space of the matrix, where it has one that is known.
        self.deflation: Deflation | None = None
        self._parts: Parts | None = None
        # Of the solver of A, and of that of Aᵀ.
        self._schur: dict[bool, PETSc.Mat] = {}

    def _create(self, prefix: str) -> PETSc.KSP:
        ksp = PETSc.KSP().create(self.comm)
        ksp.setOptionsPrefix(prefix)
        with inserted(prefix, self._options), refused_options(prefix):
            ksp.setFromOptions()
        ksp.setErrorIfNotConverged(False)
        return ksp

    @property
    def is_direct(self) -> bool:
        """Whether a factorisation alone solves the system."""
        return self.ksp.getType() == "preonly" and self.ksp.getPC().getType() in ("lu", "cholesky")

    def _package(self) -> tuple[str, str]:
        pc = self.ksp.getPC()
        return pc.getType(), str(pc.getFactorSolverType())

    def placed(self, matrix: PETSc.Mat, fill: Callable[[PETSc.Mat], None] | None = None) -> PETSc.Mat:
        """A matrix, moved to where its factor can live beside others; ``fill`` assembles it if that is to be done.

        Collective.

        Two SuperLU_DIST factors on one communicator corrupt the heap (PETSc 3.22), also when destroyed in good order:
        such a matrix moves to a communicator of its own, which lives until ``destroy``.
        """
        if self._package()[1] != "superlu_dist":
            return matrix
        if fill is not None:
            fill(matrix)
        comm = matrix.comm.tompi4py().Dup()
        copy = PETSc.Mat().createAIJ(
            matrix.getSizes(), bsize=matrix.getBlockSizes(), csr=matrix.getValuesCSR(), comm=comm
        )
        rows, columns = matrix.getLGMap()
        if rows.handle and columns.handle:
            copy.setLGMap(rows, columns)
        copy.setOption(PETSc.Mat.Option.KEEP_NONZERO_PATTERN, True)
        self._own_comms.append(comm)
        matrix.destroy()
        return copy

    @property
    def is_in_parts(self) -> bool:
        """Whether the parts of the system are told to the solver, by ``split``: PETSc's fieldsplit."""
        return bool(self.ksp.getPC().getType() == "fieldsplit")

    def split(self, parts: Parts) -> None:
        """Name the parts of the system, before any matrix is taken."""
        self._parts = parts
        parts.install(self.ksp)

    def prepare(self, ksp: PETSc.KSP, matrix: PETSc.Mat) -> None:
        """What a solver has to know of a matrix that has changed, before it is set up."""
        if self._parts is None:
            return
        which = ksp == self.ksp
        before = self._schur.pop(which, None)
        made = self._parts.precondition(ksp, matrix)
        if before is not None:
            before.destroy()
        if made is not None:
            self._schur[which] = made

    def deflate(self, matrix: PETSc.Mat, space: NullSpace) -> None:
        """Make a matrix with a null space, just assembled, one to solve with: before ``factor``.

        Raises:
            BadProblem: where that is none of its null space.
        """
        if self.deflation is None:
            # A factor of a singular matrix is of no use to a Krylov method, either.
            is_factored = self.ksp.getPC().getType() in ("lu", "cholesky")
            self.deflation = Deflation(space, is_factored=is_factored, self_adjoint=self.self_adjoint)
        self.deflation.take(matrix)

    def factor(self, matrix: PETSc.Mat) -> None:
        """Take the matrix's present values: factor it, or set up its preconditioner.

        Raises:
            SolveFailed: when PETSc cannot.
        """
        if self._residual is None:
            self._residual = matrix.createVecLeft()
        self._matrix = matrix
        self._seen.clear()
        self._transposed_is_current = False
        if self.self_adjoint:
            matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        self._set_up(self.ksp, matrix)
        if self.deflation is not None:
            self.deflation.finish(lambda rows: self._solve_rows(rows, adjoint=True))

    def _set_up(self, ksp: PETSc.KSP, matrix: PETSc.Mat) -> None:
        ksp.setOperators(matrix)
        self.prepare(ksp, matrix)
        try:
            # MUMPS and hypre read their own options during set-up.
            with inserted(self.prefix, self._options):
                ksp.setUp()
        except PETSc.Error as error:
            raise SolveFailed(self._sentence(ksp, f"could not be set up ({first_line(error)})")) from error

    def negative_pivots(self) -> int | None:
        """How many eigenvalues of a symmetric matrix are negative, by Sylvester's law; None where no factor tells.

        For options such as ``DIRECT_COUNTING``: MUMPS' L D L^T.
        """
        if not self.is_direct or self._package() != ("cholesky", "mumps"):
            return None
        pc = self.ksp.getPC()
        return None if pc.getFailedReason() else int(pc.getFactorMatrix().getInertia()[0])

    def factor_bytes(self) -> int:
        """About how much memory of this rank the factor or the preconditioner holds."""
        entries = self._matrix.getInfo(PETSc.Mat.InfoType.GLOBAL_SUM)["nz_used"] * 36
        if self.is_direct:
            entries = self.ksp.getPC().getFactorMatrix().getInfo()["nz_used"] * 12
        return int(entries / self.comm.size) + 1

    def solve(self, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """A x = b.

        Raises:
            SolveFailed: with the reason in words; x is then of no use.
        """
        self._one(b, x, adjoint=False)

    def solve_adjoint(self, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """Aᵀ x = b: by the factor of A where that is known to be right, else by an operator of its own.

        Raises:
            SolveFailed: with the reason in words; x is then of no use.
        """
        self._one(b, x, adjoint=True)

    def _one(self, b: PETSc.Vec, x: PETSc.Vec, *, adjoint: bool) -> None:
        """One system; b is overwritten where the matrix has a null space."""
        deflation = self.deflation
        if deflation is not None:
            b.array[:] = deflation.source(b.array_r[None], adjoint=adjoint)[0]
        self._solve_one(b, x, adjoint=adjoint)
        if deflation is not None:
            x.array[:] = deflation.solution(x.array_r[None], adjoint=adjoint)[0]

    def _solve_one(self, b: PETSc.Vec, x: PETSc.Vec, *, adjoint: bool) -> None:
        """One system with the matrix as it is."""
        if self.self_adjoint or not adjoint:
            self._run(self.ksp, self._matrix, b, x, "forward")
        elif self.is_direct and self._package() in _TRANSPOSE_IS_RIGHT:
            self._run(self.ksp, self._matrix, b, x, "transposed", transposed=True)
        else:
            self._run(*self._adjoint(), b, x, "adjoint")

    def solve_many(self, rhs: Array, *, adjoint: bool = False) -> Array:
        """A X = B, or Aᵀ X = B, for several right-hand sides: one block solve where the factorisation offers it.

        Args:
            rhs: (k, owned rows), a right-hand side a row.
            adjoint: the transposed system.

        Returns:
            (k, owned rows).

        Raises:
            SolveFailed: with the reason in words.
        """
        if self.deflation is None:
            return self._solve_rows(rhs, adjoint=adjoint)
        solution = self._solve_rows(self.deflation.source(rhs, adjoint=adjoint), adjoint=adjoint)
        return self.deflation.solution(solution, adjoint=adjoint)

    def _solve_rows(self, rhs: Array, *, adjoint: bool) -> Array:
        """Several systems with the matrix as it is."""
        k, n = rhs.shape
        adjoint = adjoint and not self.self_adjoint
        block = self.is_direct and k > 1 and (not adjoint or self._package()[1] == "mumps")
        if block:
            return self._solve_block(rhs, adjoint)
        solution = np.empty((k, n))
        with work_vectors(self._matrix) as (x, b):
            for i in range(k):
                b.array[:] = rhs[i]
                self._solve_one(b, x, adjoint=adjoint)
                solution[i] = x.array_r
        return solution

    def _solve_block(self, rhs: Array, transposed: bool) -> Array:
        if self.ksp.getPC().getFailedReason():
            # A single solve says so itself; a block ends in an error of MUMPS that names its own calls.
            raise SolveFailed(self._sentence(self.ksp, ksp_reason(PETSc.KSP.ConvergedReason.DIVERGED_PCSETUP_FAILED)))
        k, n = rhs.shape
        size = self._matrix.getSize()[0]
        B = PETSc.Mat().createDense(((n, size), (None, k)), array=np.asfortranarray(rhs.T), comm=self.comm)
        X = PETSc.Mat().createDense(((n, size), (None, k)), comm=self.comm)
        factor = self.ksp.getPC().getFactorMatrix()
        try:
            B.assemble()
            X.setUp()
            X.assemble()
            if transposed:
                # PETSc 3.22 has no matSolveTranspose for LU, but MUMPS itself solves the transposed system when its
                # ninth control parameter is not 1.
                factor.setMumpsIcntl(9, 0)
            try:
                self.ksp.matSolve(B, X)
            except PETSc.Error as error:
                raise SolveFailed(self._sentence(self.ksp, f"failed in a block ({first_line(error)})")) from error
            finally:
                if transposed:
                    factor.setMumpsIcntl(9, 1)
            solution = X.getDenseArray().T.copy()
        finally:
            B.destroy()
            X.destroy()
        self.tell_unread()
        # One product with random weights sees an error in any column, for the price of one column.
        weights = np.random.default_rng(k).uniform(0.5, 1.5, k)
        with work_vectors(self._matrix) as (x, b):
            b.array[:] = weights @ rhs
            x.array[:] = weights @ solution
            self._check(self.ksp, self._matrix.multTranspose if transposed else self._matrix.mult, b, x)
        return solution

    def _adjoint(self) -> tuple[PETSc.KSP, PETSc.Mat]:
        if self._transposed_ksp is None:
            self._transposed_ksp = self._create(self.prefix)
            if self._parts is not None:
                self._parts.install(self._transposed_ksp)
        if not self._transposed_is_current:
            fresh = self._matrix.transpose(PETSc.Mat())
            if self._transposed is None:
                self._transposed = self.placed(fresh)
            else:
                fresh.copy(self._transposed, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
                fresh.destroy()
            self._set_up(self._transposed_ksp, self._transposed)
        self._transposed_is_current = True
        return self._transposed_ksp, self._transposed

    def _run(
        self, ksp: PETSc.KSP, matrix: PETSc.Mat, b: PETSc.Vec, x: PETSc.Vec, direction: str, *, transposed: bool = False
    ) -> None:
        x.set(0.0)
        try:
            (ksp.solveTranspose if transposed else ksp.solve)(b, x)
        except PETSc.Error as error:
            raise SolveFailed(self._sentence(ksp, f"failed ({first_line(error)})")) from error
        reason = int(ksp.getConvergedReason())
        if reason < 0:
            raise SolveFailed(self._sentence(ksp, ksp_reason(reason)))
        self._check(ksp, matrix.multTranspose if transposed else matrix.mult, b, x, direction)
        self.tell_unread()

    def tell_unread(self) -> None:
        """Warn, once, of options that no part of this solver has read. Called on all ranks, after a solve."""
        if not self._has_told:
            self._has_told = True
            tell_unread(self.prefix, self._given, self._kind(self.ksp))

    def _check(self, ksp: PETSc.KSP, apply: object, b: PETSc.Vec, x: PETSc.Vec, direction: str | None = None) -> None:
        """A positive reason is no proof: direct solvers report success on NaN and on singular operators.

        Args:
            ksp: the solver.
            apply: the product with its matrix.
            b: the right-hand side.
            x: the solution.
            direction: names solves with one factor that vouch for each other; None for a check in full.
        """
        r = self._residual
        assert r is not None
        size = b.norm()
        ratio = x.norm() / size if size > 0.0 else np.inf
        trusted = self._seen.get(direction or "", 0.0)
        # Norms need not be the same to the last bit on all ranks, and what follows is collective.
        if trusted > 0.0 and not parallel.any_rank(self.comm, not ratio <= _AS_LARGE * trusted):
            return
        apply(x, r)  # type: ignore[operator]
        r.aypx(-1.0, b)
        error = r.norm()
        tolerance = _DIRECT_TOLERANCE if ksp.getType() == "preonly" else max(1e3 * ksp.getTolerances()[0], 1e-12)
        if not np.isfinite(error) or not np.isfinite(size):
            raise SolveFailed(
                self._sentence(ksp, "reported success, but its right-hand side or solution is not finite")
            )
        if error > tolerance * size:
            relative = f"{error / max(size, 1e-300):.1e} (expected at most {tolerance:.0e})"
            if ksp.getType() == "preonly" and ksp.getPC().getType() not in ("lu", "cholesky"):
                why = "a preconditioner alone is no solver. Choose a Krylov method, such as ksp_type gmres"
            else:
                why = (
                    "the operator is singular or nearly so. A problem with Neumann data alone needs a clamped part, a "
                    "reaction term, or Problem(..., nullspace=...)"
                )
            what = f"reported success, but its true relative residual is {relative}: {why}"
            raise SolveFailed(self._sentence(ksp, what))
        if direction is not None and self.is_direct and np.isfinite(ratio):
            self._seen[direction] = max(trusted, ratio)

    def _sentence(self, ksp: PETSc.KSP, what: str) -> str:
        advice = (
            f"Try -{self.prefix}ksp_monitor_true_residual, a larger -{self.prefix}ksp_max_it, or options=relax.DIRECT"
        )
        if ksp.getPC().getType() in ("lu", "cholesky"):
            advice = (
                "Look for coefficients and boundary values that are NaN or out of range, and for a part of the mesh "
                "that nothing clamps"
            )
        return (
            f"the linear solve ({self.prefix}: {self._kind(ksp)}) {what}. Iterations: {ksp.getIterationNumber()}, last "
            f"residual norm {ksp.getResidualNorm():.3e}. {advice}"
        )

    def _kind(self, ksp: PETSc.KSP) -> str:
        pc = ksp.getPC()
        package = f" by {pc.getFactorSolverType()}" if pc.getType() in ("lu", "cholesky") else ""
        return f"{ksp.getType()} with {pc.getType()}{package}"

    def destroy(self) -> None:
        """Free what PETSc holds for this solver; the caller has destroyed the matrix before. Collective."""
        for item in (self.ksp, self._transposed_ksp, self._transposed, self._residual):
            if item is not None:
                item.destroy()
        self._matrix = None
        for schur in self._schur.values():
            schur.destroy()
        self._schur.clear()
        if self.deflation is not None:
            self.deflation.destroy()
        for comm in self._own_comms:
            comm.Free()
        self._own_comms.clear()
