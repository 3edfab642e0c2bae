"""PETSc's options, its failures as sentences, and linear solvers that are checked. Nothing else touches the options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from relax.errors import BadInput, SolveFailed

Array = npt.NDArray[np.float64]
Options = Mapping[str, object]

#: LU by MUMPS: any operator that is not singular, on any number of ranks.
DIRECT: Options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
#: L D L^T by MUMPS, half the work and memory of LU: symmetric operators, definite or not.
DIRECT_SYMMETRIC: Options = {"ksp_type": "preonly", "pc_type": "cholesky", "pc_factor_mat_solver_type": "mumps"}
# The unpreconditioned norm, because a preconditioned residual of 1e-10 can hide a true one of 1e-5.
#: Conjugate gradients with algebraic multigrid: symmetric positive operators, large or in 3-D.
AMG_CG: Options = {
    "ksp_type": "cg",
    "ksp_rtol": 1e-10,
    "ksp_norm_type": "unpreconditioned",
    "ksp_max_it": 500,
    "pc_type": "hypre",
}
#: GMRES with algebraic multigrid from the right: operators that are not symmetric, large or in 3-D.
AMG_GMRES: Options = {
    "ksp_type": "gmres",
    "ksp_pc_side": "right",
    "ksp_rtol": 1e-10,
    "ksp_gmres_restart": 100,
    "ksp_max_it": 1000,
    "pc_type": "hypre",
}
#: SNES: Newton with a backtracking line search.
NEWTON: Options = {"snes_type": "newtonls", "snes_linesearch_type": "bt"}

PRESETS: dict[str, Options] = {
    "direct": DIRECT,
    "direct_symmetric": DIRECT_SYMMETRIC,
    "amg_cg": AMG_CG,
    "amg_gmres": AMG_GMRES,
}

# Transposed solves that were found right to round-off. SuperLU_DIST returns wrong answers without a word, and
# transposed BoomerAMG stalls; whatever is not on this list gets a transposed operator with a solver of its own.
_TRANSPOSE_IS_RIGHT = {("lu", "mumps"), ("lu", "petsc"), ("lu", "umfpack"), ("lu", "superlu")}

# Options that make sense only beside the ``pc_type`` or ``ksp_type`` that they were written for.
_BOUND_TO_PC = ("pc_", "mat_mumps_")
_BOUND_TO_KSP = ("ksp_",)

_DIRECT_TOLERANCE = 1e-6

_KSP_REASONS = {
    -2: "broke down with a zero inner product",
    -3: "did not reach its tolerance within ksp_max_it iterations",
    -4: "diverged: the residual grew beyond the divergence tolerance",
    -5: "broke down",
    -6: "broke down: the operator or preconditioner is not suited to BiCG",
    -7: "needs a symmetric operator and this one is not",
    -8: "found the preconditioner indefinite",
    -9: "met NaN or infinity",
    -10: "found the operator indefinite",
    -11: "could not set up its preconditioner or factor the operator (is the operator singular?)",
}
_SNES_REASONS = {
    -1: "left the domain of the residual",
    -2: "evaluated the residual too many times",
    -3: "had a linear solve fail",
    -4: "met NaN or infinity in the residual",
    -5: "did not reach its tolerance within the allowed steps",
    -6: "found no decrease along the Newton direction",
    -7: "failed in its inner solve",
    -8: "stopped in a local minimum of the residual norm that is no root",
    -9: "diverged: the residual grew beyond the divergence tolerance",
    -10: "could not evaluate the Jacobian",
    -11: "left the trust region",
}


def insert_command_line(arguments: Sequence[str]) -> None:
    """Put command-line options into PETSc's database; works after PETSc has started, too."""
    if arguments:
        PETSc.Options().insertString(" ".join(f'"{a}"' if " " in a else a for a in arguments))


def preset(options: Options | str | None) -> Options | None:
    """A preset's options by name; a mapping or None as it is.

    Raises:
        BadInput: for an unknown name, listing the known ones.
    """
    if not isinstance(options, str):
        return options
    if options not in PRESETS:
        raise BadInput(f"options: expected a mapping of PETSc options or one of {sorted(PRESETS)}, got {options!r}")
    return PRESETS[options]


def merged(defaults: Options, options: Options | None) -> dict[str, object]:
    """``options`` over ``defaults``; a new ``pc_type`` or ``ksp_type`` drops the defaults written for the old one."""
    if not options:
        return dict(defaults)
    kept = dict(defaults)
    for key, bound in (("pc_type", _BOUND_TO_PC), ("ksp_type", _BOUND_TO_KSP)):
        if key in options and options[key] != defaults.get(key):
            kept = {k: v for k, v in kept.items() if not k.startswith(bound)}
    return {**kept, **options}


def user_options(prefix: str, keys: Sequence[str] = ("ksp_type", "pc_type")) -> dict[str, object]:
    """Those of ``keys`` that the user has set on the command line or in the environment for this prefix."""
    database = PETSc.Options()
    return {k: database.getString(prefix + k) for k in keys if database.hasName(prefix + k)}


def has_user_options(prefix: str) -> bool:
    """Whether PETSc's database holds any option that starts with ``prefix``."""
    return any(name.startswith(prefix) for name in PETSc.Options().getAll())


@contextmanager
def inserted(prefix: str, options: Options) -> Iterator[None]:
    """``options`` in PETSc's database for as long as the block runs, under what the user has set there."""
    database = PETSc.Options()
    options = merged(options, user_options(prefix))
    mine = {prefix + k: v for k, v in options.items() if not database.hasName(prefix + k)}
    for name, value in mine.items():
        database.setValue(name, None if value is True else value)
    try:
        yield
    finally:
        for name in mine:
            database.delValue(name)


def snes_failure(snes: PETSc.SNES, prefix: str) -> str:
    """The sentence for a SNES that did not converge."""
    reason = int(snes.getConvergedReason())
    words = _SNES_REASONS.get(reason, f"stopped with PETSc's reason {reason}")
    inner = int(snes.getKSP().getConvergedReason())
    if reason == -3 and inner < 0:
        words += f", which {_KSP_REASONS.get(inner, f'stopped with reason {inner}')}"
    return (
        f"Newton's method ({prefix}) {words}: {snes.getIterationNumber()} steps, residual norm "
        f"{snes.getFunctionNorm():.3e}. Try a better first guess in problem.state, more steps, or "
        f"-{prefix}snes_monitor to see where it stalls"
    )


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
        self._options = options
        self.ksp = self._create(prefix)
        self._matrix: PETSc.Mat | None = None
        self._transposed: PETSc.Mat | None = None
        self._transposed_ksp: PETSc.KSP | None = None
        self._transposed_is_current = False
        self._residual: PETSc.Vec | None = None
        self._own_comms: list[MPI.Comm] = []

    def _create(self, prefix: str) -> PETSc.KSP:
        ksp = PETSc.KSP().create(self.comm)
        ksp.setOptionsPrefix(prefix)
        with inserted(prefix, self._options):
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

    def placed(self, matrix: PETSc.Mat) -> PETSc.Mat:
        """An assembled matrix, moved to where its factor can live beside others. Collective.

        Two SuperLU_DIST factors on one communicator corrupt the heap (PETSc 3.22), also when destroyed in good order: such
        a matrix moves to a communicator of its own, which lives until ``destroy``.
        """
        if self._package()[1] != "superlu_dist":
            return matrix
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

    def factor(self, matrix: PETSc.Mat) -> None:
        """Take the matrix's present values: factor it, or set up its preconditioner.

        Raises:
            SolveFailed: when PETSc cannot.
        """
        if self._residual is None:
            self._residual = matrix.createVecLeft()
        self._matrix = matrix
        self._transposed_is_current = False
        if self.self_adjoint:
            matrix.setOption(PETSc.Mat.Option.SYMMETRIC, True)
        self._set_up(self.ksp, matrix)

    def _set_up(self, ksp: PETSc.KSP, matrix: PETSc.Mat) -> None:
        ksp.setOperators(matrix)
        try:
            # MUMPS and hypre read their own options during set-up.
            with inserted(self.prefix, self._options):
                ksp.setUp()
        except PETSc.Error as error:
            raise SolveFailed(self._sentence(ksp, f"could not be set up ({_first_line(error)})")) from error

    def factor_bytes(self) -> int:
        """About how much memory of this rank the factor or the preconditioner holds."""
        assert self._matrix is not None
        entries = self._matrix.getInfo(PETSc.Mat.InfoType.GLOBAL_SUM)["nz_used"] * 36
        if self.is_direct:
            entries = self.ksp.getPC().getFactorMatrix().getInfo()["nz_used"] * 12
        return int(entries / self.comm.size) + 1

    def solve(self, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """A x = b.

        Raises:
            SolveFailed: with the reason in words; x is then of no use.
        """
        assert self._matrix is not None
        self._run(self.ksp, self.ksp.solve, b, x)
        self._check(self.ksp, self._matrix.mult, b, x)

    def solve_adjoint(self, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """Aᵀ x = b: by the factor of A where that is known to be right, else by an operator of its own.

        Raises:
            SolveFailed: with the reason in words; x is then of no use.
        """
        assert self._matrix is not None
        if self.self_adjoint:
            self.solve(b, x)
        elif self._factor_serves_transpose():
            self._run(self.ksp, self.ksp.solveTranspose, b, x)
            self._check(self.ksp, self._matrix.multTranspose, b, x)
        else:
            ksp, matrix = self._adjoint()
            self._run(ksp, ksp.solve, b, x)
            self._check(ksp, matrix.mult, b, x)

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
        k, n = rhs.shape
        adjoint = adjoint and not self.self_adjoint
        block = self.is_direct and k > 1 and (not adjoint or self._package()[1] == "mumps")
        solution = self._solve_block(rhs, adjoint) if block else np.empty((k, n))
        if not block:
            assert self._matrix is not None
            b, x = self._matrix.createVecLeft(), self._matrix.createVecRight()
            try:
                for i in range(k):
                    b.array[:] = rhs[i]
                    (self.solve_adjoint if adjoint else self.solve)(b, x)
                    solution[i] = x.array_r
            finally:
                b.destroy()
                x.destroy()
        return solution

    def _solve_block(self, rhs: Array, transposed: bool) -> Array:
        assert self._matrix is not None
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
                raise SolveFailed(self._sentence(self.ksp, f"failed in a block ({_first_line(error)})")) from error
            finally:
                if transposed:
                    factor.setMumpsIcntl(9, 1)
            solution = X.getDenseArray().T.copy()
        finally:
            B.destroy()
            X.destroy()
        # One product with random weights sees an error in any column, for the price of one column.
        weights = np.random.default_rng(k).uniform(0.5, 1.5, k)
        b, x = self._matrix.createVecLeft(), self._matrix.createVecRight()
        try:
            b.array[:] = weights @ rhs
            x.array[:] = weights @ solution
            self._check(self.ksp, self._matrix.multTranspose if transposed else self._matrix.mult, b, x)
        finally:
            b.destroy()
            x.destroy()
        return solution

    def _factor_serves_transpose(self) -> bool:
        return self.is_direct and self._package() in _TRANSPOSE_IS_RIGHT

    def _adjoint(self) -> tuple[PETSc.KSP, PETSc.Mat]:
        assert self._matrix is not None
        if self._transposed_ksp is None:
            self._transposed_ksp = self._create(self.prefix)
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

    def _run(self, ksp: PETSc.KSP, solve: object, b: PETSc.Vec, x: PETSc.Vec) -> None:
        x.set(0.0)
        try:
            solve(b, x)  # type: ignore[operator]
        except PETSc.Error as error:
            raise SolveFailed(self._sentence(ksp, f"failed ({_first_line(error)})")) from error
        reason = int(ksp.getConvergedReason())
        if reason < 0:
            words = _KSP_REASONS.get(reason, f"stopped with PETSc's reason {reason}")
            raise SolveFailed(self._sentence(ksp, words))

    def _check(self, ksp: PETSc.KSP, apply: object, b: PETSc.Vec, x: PETSc.Vec) -> None:
        """A positive reason is no proof: direct solvers report success on NaN and on singular operators."""
        r = self._residual
        assert r is not None
        apply(x, r)  # type: ignore[operator]
        r.aypx(-1.0, b)
        error, size = r.norm(), b.norm()
        tolerance = _DIRECT_TOLERANCE if ksp.getType() == "preonly" else max(1e3 * ksp.getTolerances()[0], 1e-12)
        if not np.isfinite(error) or not np.isfinite(size):
            raise SolveFailed(
                self._sentence(ksp, "reported success, but its right-hand side or solution is not finite")
            )
        if error > tolerance * size:
            raise SolveFailed(
                self._sentence(
                    ksp,
                    f"reported success, but its true relative residual is {error / max(size, 1e-300):.1e} "
                    f"(expected at most {tolerance:.0e}): the operator is singular or nearly so. A problem with "
                    "Neumann data alone needs a clamped part or a reaction term",
                )
            )

    def _sentence(self, ksp: PETSc.KSP, what: str) -> str:
        pc = ksp.getPC()
        solver = f"{ksp.getType()} with {pc.getType()}"
        if pc.getType() in ("lu", "cholesky"):
            solver += f" by {pc.getFactorSolverType()}"
        return (
            f"the linear solve ({self.prefix}: {solver}) {what}. Iterations: {ksp.getIterationNumber()}, last residual "
            f"norm {ksp.getResidualNorm():.3e}. Try -{self.prefix}ksp_monitor_true_residual, a larger "
            f"-{self.prefix}ksp_max_it, or options=relax.DIRECT"
        )

    def destroy(self) -> None:
        """Free what PETSc holds for this solver; the caller has destroyed the matrix before. Collective."""
        for item in (self.ksp, self._transposed_ksp, self._transposed, self._residual):
            if item is not None:
                item.destroy()
        self._matrix = None
        for comm in self._own_comms:
            comm.Free()
        self._own_comms.clear()


def _first_line(error: PETSc.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
