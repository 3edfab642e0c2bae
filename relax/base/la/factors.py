"""Assembled and factored operators, kept while a linearisation point still needs them and memory lasts."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.linear import LinearSolver

_MOST_FACTORS = 62  # their use is agreed on in the bits of one integer
_FEWEST_FACTORS = 2  # a point being held while another one is tried, as every line search does


class Key:
    """Names the point at which an operator is assembled. Whoever may still need the operator holds its key."""

    __slots__ = ("__weakref__", "_parts")

    def part(self, name: bytes) -> Key:
        """What this names has several values: the key of the one of this name, held by this one."""
        if not hasattr(self, "_parts"):
            self._parts: dict[bytes, Key] = {}
        return self._parts.setdefault(name, Key())


class Factor:
    """A matrix, its linear solver and work vectors. Collective to make and to destroy.

    Attributes:
        matrix: ∂F/∂u.
        solver: the solver that holds the matrix's factor or preconditioner.
        rhs, solution: work vectors, free between two calls.
    """

    def __init__(self, matrix: PETSc.Mat, solver: LinearSolver) -> None:
        self.matrix = matrix
        self.solver = solver
        self.rhs = matrix.createVecLeft()
        self.solution = matrix.createVecRight()
        self._key: weakref.ref[Key] | None = None
        self.used = 0

    def holds(self, key: Key) -> bool:
        """Whether this is the operator of ``key``. Local."""
        return self._key is not None and self._key() is key

    def is_forgotten(self) -> bool:
        """Whether nobody on this rank holds the key any more. Local: ranks can differ."""
        return self._key is None or self._key() is None

    def assign(self, key: Key | None) -> None:
        """From now on this is the operator of ``key``. Local."""
        self._key = None if key is None else weakref.ref(key)

    def destroy(self) -> None:
        """Free what PETSc holds."""
        for item in (self.rhs, self.solution, self.matrix):
            item.destroy()
        self.solver.destroy()


class FactorStore:
    """Factors by key, least recently used given up first.

    A matrix and its symbolic factorisation cost more than the numbers in them, so factors are re-filled, not re-made.
    All ranks make the same choices: a key that only some ranks have dropped (garbage collectors run at different times)
    counts as needed, and nothing is freed outside of a collective call.

    Args:
        comm: the communicator of the operators.
        make: makes an empty factor. Collective.
        memory: bytes on each rank for all factors together.
    """

    def __init__(self, comm: MPI.Comm, make: Callable[[], Factor], memory: float) -> None:
        self._comm = comm
        self._make = make
        self._memory = memory
        self._factors: list[Factor] = []
        self._clock = itertools.count(1)
        self._limit: int | None = None

    def find(self, key: Key) -> Factor | None:
        """The factor of a key, if it is still there. Local, and the same on all ranks."""
        for factor in self._factors:
            if factor.holds(key):
                factor.used = next(self._clock)
                return factor
        return None

    def take(self) -> Factor:
        """A factor to fill: one that no point needs, else a new one, else the one used longest ago.

        Collective. It has no key until ``Factor.assign``.
        """
        factor = self._free() or self._new() or min(self._factors, key=lambda f: f.used)
        factor.assign(None)
        factor.used = next(self._clock)
        return factor

    def discard(self, factor: Factor) -> None:
        """Destroy a factor in which a solve failed: PETSc keeps the failure, and locks on vectors. Collective."""
        self._factors.remove(factor)
        factor.destroy()

    def _free(self) -> Factor | None:
        forgotten = sum(1 << i for i, factor in enumerate(self._factors) if factor.is_forgotten())
        agreed = parallel.all_ranks_mask(self._comm, forgotten) if self._factors else 0
        for i, factor in enumerate(self._factors):
            if agreed >> i & 1:
                return factor
        return None

    def _new(self) -> Factor | None:
        if self._factors and len(self._factors) >= self._most():
            return None
        self._factors.append(self._make())
        return self._factors[-1]

    def _most(self) -> int:
        if self._limit is None:
            size = parallel.largest(self._comm, float(self._factors[0].solver.factor_bytes()))
            self._limit = min(max(int(self._memory / size), _FEWEST_FACTORS), _MOST_FACTORS)
        return self._limit

    def destroy(self) -> None:
        """Free every factor. Collective."""
        for factor in self._factors:
            factor.destroy()
        self._factors.clear()
