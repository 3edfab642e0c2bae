"""A sparse symmetric positive matrix whose inverse is asked for on some of its entries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT_SYMMETRIC
from relax.base.la.work import work_vectors
from relax.base.types import Array


class RestrictedInverse:
    """v -> (K_FF)⁻¹ v_F, zero elsewhere, with F the free entries: one factor for each F, made when F changes.

    Collective, as are all methods; vectors hold the values that this rank owns.

    Args:
        K: symmetric positive, a PETSc matrix of AIJ, which is this object's from here on.
        prefix: of PETSc's options.
    """

    def __init__(self, K: PETSc.Mat, prefix: str) -> None:
        self.matrix = K
        self._comm = K.comm.tompi4py()
        self._work = K.duplicate(copy=True)
        self._work.setOption(PETSc.Mat.Option.KEEP_NONZERO_PATTERN, True)
        self._solver = LinearSolver(self._comm, prefix, DIRECT_SYMMETRIC, self_adjoint=True)
        self._free: npt.NDArray[np.bool_] | None = None

    def product(self, v: Array) -> Array:
        """K v."""
        with work_vectors(self.matrix) as (x, y):
            x.array[:] = v
            self.matrix.mult(x, y)
            return np.array(y.array_r)

    def solve(self, v: Array, free: npt.NDArray[np.bool_]) -> Array:
        """(K_FF)⁻¹ v_F, for v and F of shape (owned,)."""
        if self._free is None or parallel.any_rank(self._comm, not np.array_equal(self._free, free)):
            self.matrix.copy(self._work, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
            first = self.matrix.getOwnershipRange()[0]
            self._work.zeroRowsColumns((first + np.flatnonzero(~free)).astype(PETSc.IntType), diag=1.0)
            self._solver.factor(self._work)
            self._free = free.copy()
        with work_vectors(self.matrix) as (x, y):
            y.array[:] = np.where(free, v, 0.0)
            self._solver.solve(y, x)
            return np.where(free, x.array_r, 0.0)

    def close(self) -> None:
        """Free the matrices and the factor."""
        self._solver.destroy()
        self._work.destroy()
        self.matrix.destroy()
