"""Small operations on matrices: parts, products, how far one is from symmetric."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.work import work_vectors
from relax.base.types import Array

#: Rounding of an assembled symmetric operator stays below this.
SYMMETRY = 1e-13


def asymmetry(A: PETSc.Mat) -> float:
    """|xᵀ A y - yᵀ A x| over |A x| |y| for random x and y: below ``SYMMETRY`` for A = Aᵀ, NaN or inf where A is.

    Collective. The same bits on every rank, so what is decided by it is decided on all.
    """
    # Ranks that drew the same would make vectors that repeat, for which a part can vanish.
    rng = np.random.default_rng([20, A.comm.rank])
    with work_vectors(A) as (x, Ax), work_vectors(A) as (y, Ay):
        x.array[:] = rng.uniform(-1.0, 1.0, x.local_size)
        y.array[:] = rng.uniform(-1.0, 1.0, y.local_size)
        A.mult(x, Ax)
        A.mult(y, Ay)
        gap, size = abs(x.dot(Ay) - y.dot(Ax)), Ax.norm() * y.norm()
    return parallel.of_rank_0(A.comm.tompi4py(), float(gap / size) if size != 0.0 else float(gap))


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


def largest_quotient(A: PETSc.Mat, M: PETSc.Mat) -> float:
    """The largest |A_ii| / M_ii: about the largest |λ|, what rounding is in proportion to. Collective."""
    a, m = A.getDiagonal(), M.getDiagonal()
    try:
        seen = m.array_r > 0.0
        quotients = np.abs(a.array_r[seen]) / m.array_r[seen]
        return parallel.largest(A.comm.tompi4py(), float(quotients.max(initial=0.0)))
    finally:
        a.destroy()
        m.destroy()
