"""Systems with parts, such as velocity and pressure: PETSc's fieldsplit, with a mass matrix for Schur's complement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from petsc4py import PETSc

from relax.base.types import Indices


class Parts:
    """The parts of a system, by names that stand in PETSc's options: ``fieldsplit_0_pc_type`` and so on.

    Schur's complement of two parts, S = A11 - A10 A00⁻¹ A01, is preconditioned by A11 - R M R: M is the mass matrix of
    part 1, R² the diagonal of A10 diag(A00)⁻¹ A01 over that of M. For Stokes' equations it is M over the viscosity,
    which may vary (Elman, Silvester and Wathen, Finite Elements and Fast Iterative Solvers, Oxford 2014, ch. 4).

    Collective, as are all methods.

    Args:
        names: of the parts.
        rows: the global numbers of each part's rows that this rank owns, ascending.
        block_sizes: how many in turn belong to one node.
        mass: M, with the rows of part 1; None where there are not two parts.
    """

    def __init__(
        self,
        comm: PETSc.Comm,
        names: Sequence[str],
        rows: Sequence[Indices],
        block_sizes: Sequence[int],
        mass: PETSc.Mat | None,
    ) -> None:
        self._names = list(names)
        self._sets = [PETSc.IS().createGeneral(r.astype(PETSc.IntType), comm=comm) for r in rows]
        for one, size in zip(self._sets, block_sizes, strict=True):
            one.setBlockSize(size)
        self._mass = mass

    def install(self, ksp: PETSc.KSP) -> None:
        """Name the parts to a solver whose options are set."""
        ksp.getPC().setFieldSplitIS(*zip(self._names, self._sets, strict=True))

    def precondition(self, ksp: PETSc.KSP, A: PETSc.Mat) -> PETSc.Mat | None:
        """Schur's preconditioner at the present values of A: before the solver is set up. The caller destroys it."""
        if self._mass is None:
            return None
        first, last = self._sets
        upper, lower, S = (A.createSubMatrix(a, b) for a, b in ((first, last), (last, first), (last, last)))
        diagonal = _diagonal_of(A, first)
        upper.diagonalScale(diagonal, None)
        product = lower.matMult(upper)
        scale, own = product.getDiagonal(), self._mass.getDiagonal()
        sign = -1.0 if scale.sum() >= 0.0 else 1.0
        scale.array[:] = np.sqrt(np.abs(scale.array_r) / own.array_r)
        between = self._mass.copy()
        between.diagonalScale(scale, scale)
        S.axpy(sign, between, PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)
        for item in (upper, lower, product, diagonal, scale, own, between):
            item.destroy()
        ksp.getPC().setFieldSplitSchurPreType(PETSc.PC.FieldSplitSchurPreType.USER, S)
        return S

    def destroy(self) -> None:
        """Free what PETSc holds."""
        for item in (*self._sets, self._mass):
            if item is not None:
                item.destroy()


def _diagonal_of(A: PETSc.Mat, rows: PETSc.IS) -> PETSc.Vec:
    """One over the diagonal entries of rows; 1 where these are zero."""
    whole = A.getDiagonal()
    part = whole.getSubVector(rows)
    inverse = part.copy()
    whole.restoreSubVector(rows, part)
    whole.destroy()
    values = inverse.array_r
    inverse.array[:] = np.divide(1.0, values, out=np.ones_like(values), where=values != 0.0)
    return inverse
