"""Entries of a vector that are sums of others: systems for the rest of them alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.work import work_vectors
from relax.base.types import Array, Indices
from relax.errors import BadProblem

# Each product makes chains of masters half as long: what has not ended after these goes in circles.
_CHAIN = 6


class Ties:
    """Slaves u_s = Σ c_k u_{m_k}, as u = T û: T is the identity but for their rows, and has no columns of theirs.

    An equation r(u) = 0 is solved as Tᵀ r(T û) = 0, with Tᵀ A T for A, and the identity's rows and columns at the
    slaves. A master that is a slave itself is replaced by its own masters. Collective, as is every method.

    Args:
        comm: of the vectors.
        num_owned: entries of this rank.
        block_size: of the matrices.
        slaves: owned entries, by their local numbers, each once.
        masters: by their global numbers, those of one slave after the other.
        coefficients: c, for each master.
        starts: where those of each slave begin, and their end.

    Raises:
        BadProblem: on every rank, where slaves follow one another in a circle.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        num_owned: int,
        block_size: int,
        slaves: Indices,
        masters: npt.NDArray[np.int64],
        coefficients: Array,
        starts: Indices,
    ) -> None:
        self._slaves = slaves
        first = parallel.count_before(comm, num_owned)
        own = np.arange(first, first + num_owned)
        is_free = np.ones(num_owned, dtype=bool)
        is_free[slaves] = False
        # A slave's own column has a zero that is stored: the sparsity of Tᵀ A T is to have a diagonal there.
        rows = np.concatenate([np.arange(num_owned), np.repeat(slaves, np.diff(starts))])
        columns, values = np.concatenate([own, masters]), np.concatenate([is_free, coefficients])
        order = np.lexsort((columns, rows))
        rows, columns, values = rows[order], columns[order], values[order]
        # PETSc keeps one of several entries at a place; a master that is named twice counts twice.
        is_new = np.ones(len(rows), dtype=bool)
        is_new[1:] = (np.diff(rows) > 0) | (np.diff(columns) > 0)
        sums = np.add.reduceat(values, np.flatnonzero(is_new)) if len(values) else values
        lengths = np.append(0, np.cumsum(np.bincount(rows[is_new], minlength=num_owned)))
        csr = (lengths.astype(PETSc.IntType), columns[is_new].astype(PETSc.IntType), sums)
        size = (num_owned, None)
        T = PETSc.Mat().createAIJ((size, size), bsize=block_size, csr=csr, comm=comm)
        for _ in range(_CHAIN):
            if not self._is_chained(T):
                break
            longer = T.matMult(T)
            T.destroy()
            T = longer
        else:
            T.destroy()
            raise BadProblem("mpc: slaves follow one another in a circle; expected masters that end in what is free")
        self._T = T
        self._product: PETSc.Mat | None = None

    def _is_chained(self, T: PETSc.Mat) -> bool:
        """Whether a master is a slave."""
        with work_vectors(T) as (x, y):
            x.set(0.0)
            # Random, so that no two of them cancel.
            x.array[self._slaves] = np.random.default_rng(T.comm.rank).uniform(1.0, 2.0, len(self._slaves))
            T.mult(x, y)
            return y.norm() > 0.0

    def extended(self, rows: Array) -> Array:
        """T û of each row, (k, owned): slaves are what their masters make them."""
        return self._times(rows, self._T.mult)

    def gathered(self, rows: Array) -> Array:
        """Tᵀ r of each row, (k, owned): what belongs to slaves goes to their masters, and leaves zeros."""
        return self._times(rows, self._T.multTranspose)

    def _times(self, rows: Array, apply: Callable[[PETSc.Vec, PETSc.Vec], None]) -> Array:
        result = np.empty_like(rows)
        with work_vectors(self._T) as (x, y):
            for i, row in enumerate(rows):
                x.array[:] = row
                apply(x, y)
                result[i] = y.array_r
        return result

    def reduced(self, A: PETSc.Mat, held: Indices) -> PETSc.Mat:
        """Tᵀ A T, with the identity's rows and columns at slaves and at other entries that are held.

        Args:
            A: of the same sparsity each time.
            held: owned entries, by their local numbers, the slaves among them.

        Returns:
            A matrix that the next call overwrites.
        """
        if self._product is None:
            self._product = A.PtAP(self._T)
            self._product.setOption(PETSc.Mat.Option.KEEP_NONZERO_PATTERN, True)
        else:
            A.PtAP(self._T, self._product)
        first = A.getOwnershipRange()[0]
        self._product.zeroRowsColumns((first + held).astype(PETSc.IntType), diag=1.0)
        return self._product

    def destroy(self) -> None:
        """Free what PETSc holds."""
        for item in (self._T, self._product):
            if item is not None:
                item.destroy()
        self._product = None
