"""The bordered operator of one eigenpair: regular where A - E B alone is singular."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.factors import Factor, FactorStore, Key
from relax.base.la.linear import LinearSolver
from relax.base.la.options import Options
from relax.base.log import timed
from relax.base.types import Array
from relax.errors import SolveFailed

PREFIX = "relax_eigen_lin_"


class BorderedSolver:
    """Solves J x = b with J = [[A - E B, -B psi], [-(B psi)^T, 0]], for psi^T B psi = 1. J is symmetric.

    J is the derivative of (A psi - E B psi, (1 - psi^T B psi) / 2) in (psi, E); it is regular where E is simple. The
    row of E is the last one, on the last rank.

    Collective, as is every method. Factors are kept by key, as a reduced map keeps its own.

    Args:
        comm: of the matrices.
        rows: free degrees of freedom of this rank; ``size`` of all ranks.
        options: PETSc options, below those of the command line, whose prefix is ``relax_eigen_lin_``.
        memory: bytes on each rank for kept factors.
    """

    def __init__(self, comm: MPI.Comm, rows: int, size: int, options: Options, memory: float) -> None:
        self.comm = comm
        self._options = options
        self._rows, self._size = rows, size
        self._has_border = self.comm.rank == self.comm.size - 1
        self._csr: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Array] | None = None
        self._factors = FactorStore(self.comm, self._new_factor, memory)

    def find(self, key: Key) -> Factor | None:
        """The factor of this key, where it is still kept. Local, and the same on all ranks."""
        return self._factors.find(key)

    def factor(self, key: Key, A: PETSc.Mat, B: PETSc.Mat, energy: float, mass_psi: Array) -> Factor:
        """The factor of J for A, B, E and B psi (this rank's rows), under this key.

        Raises:
            SolveFailed: when it cannot be factored.
        """
        self._csr = self._rows_of_operator(A, B, energy, mass_psi)
        factor = self._factors.take()
        try:
            with timed(f"{PREFIX}: operator"):
                factor.matrix.setValuesCSR(*self._csr)
                factor.matrix.assemble()
                factor.solver.factor(factor.matrix)
        except SolveFailed:
            self._factors.discard(factor)
            raise
        factor.assign(key)
        return factor

    def solve(self, factor: Factor, b: Array, b_border: Array) -> tuple[Array, Array]:
        """J x = b for several right-hand sides: (p, rows) and (p,), the latter and its result the same on each rank.

        Raises:
            SolveFailed: when a solve fails; the factor is given up.
        """
        p = len(b)
        rhs = np.concatenate([b, b_border[:, None]], axis=1) if self._has_border else np.ascontiguousarray(b)
        try:
            x = factor.solver.solve_many(rhs) if p else rhs
        except SolveFailed:
            self._factors.discard(factor)
            raise
        border = x[:, -1].copy() if self._has_border else np.zeros(p)
        return x[:, : self._rows].copy(), parallel.sum_over_ranks(self.comm, border)

    def _new_factor(self) -> Factor:
        assert self._csr is not None
        n = (self._rows + self._has_border, self._size + 1)
        matrix = PETSc.Mat().createAIJ((n, n), csr=self._csr, comm=self.comm)
        solver = LinearSolver(self.comm, PREFIX, self._options, self_adjoint=True)
        return Factor(solver.placed(matrix), solver)

    def _rows_of_operator(
        self, A: PETSc.Mat, B: PETSc.Mat, energy: float, mass_psi: Array
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Array]:
        """This rank's rows of J, compressed."""
        shifted = A.copy()
        try:
            shifted.axpy(-energy, B, PETSc.Mat.Structure.UNKNOWN_NONZERO_PATTERN)
            starts, columns, values = shifted.getValuesCSR()
        finally:
            shifted.destroy()
        whole = parallel.gather_rows(self.comm, mass_psi)
        columns = np.insert(columns, starts[1:], self._size)
        values = np.insert(values, starts[1:], -mass_psi)
        starts = starts + np.arange(len(starts), dtype=starts.dtype)
        if self._has_border:
            # PETSc's own factorisations need the diagonal entry to be there, zero or not.
            columns = np.concatenate([columns, np.arange(self._size + 1, dtype=columns.dtype)])
            values = np.concatenate([values, -whole, [0.0]])
            starts = np.append(starts, starts[-1:] + self._size + 1)
        return starts.astype(PETSc.IntType), columns.astype(PETSc.IntType), values

    def destroy(self) -> None:
        """Free every factor."""
        self._factors.destroy()
