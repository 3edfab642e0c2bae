"""The inverse of the energy's curvature in one state, made positive where the energy bends downwards."""

from __future__ import annotations

import numpy as np
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT_COUNTING
from relax.base.types import Array
from relax.errors import SolveFailed
from relax.train.aeqprop.terms import EnergyTerms

# What is added to the diagonal, relative to it, where the curvature is not positive: at first, and how it grows.
_FIRST, _GROWTH, _MOST = 1e-2, 8.0, 16


class StateFactor:
    """(∂²E/∂s² + δ D + β/σ² BᵀB)⁻¹, with the few rows of B = G'(s) by Woodbury's formula.

    D is the size of the diagonal, and δ = 0 where that is positive definite without, by the count of negative pivots;
    with options for which there is no such count δ is always 0. Collective, as are all methods.
    """

    def __init__(self, terms: EnergyTerms) -> None:
        self._terms = terms
        prefix = f"relax_{terms.energy.name}_"
        self._solver = LinearSolver(terms.comm, prefix, DIRECT_COUNTING, self_adjoint=True)
        self._H: PETSc.Mat | None = None
        self._rows: Array = np.empty((0, 0))
        self._solved: Array = self._rows
        self._small: Array = self._rows
        #: δ.
        self.shift = 0.0

    def update(self, beta: float) -> None:
        """Take the curvature where the registers are.

        Raises:
            SolveFailed: where it is singular.
        """
        H = self._H = self._terms.bend(self._H)
        self._rows = self._terms.rows() if beta else np.empty((0, len(self._terms.state())))
        last, self.shift = self.shift, 0.0
        vector = H.getDiagonal()
        diagonal = vector.array_r.copy()
        size = np.abs(diagonal)
        np.maximum(size, 1e-8 * parallel.largest(self._terms.comm, size.max(initial=0.0)), out=size)
        try:
            for _ in range(_MOST):
                self._solver.factor(H)
                if self._negative(beta) <= 0:
                    return
                self.shift = self.shift * _GROWTH or max(_FIRST, last / _GROWTH)
                vector.array[:] = diagonal + self.shift * size
                H.setDiagonal(vector)
        finally:
            vector.destroy()
        raise SolveFailed(
            "Aeqprop: the energy bends downwards whatever is added to its curvature; look for coefficients out of range"
        )

    def _negative(self, beta: float) -> int:
        """How many directions bend downwards: those of H, and what the rows take away or add (Sylvester's law)."""
        count = self._solver.negative_pivots() or 0
        if not len(self._rows):
            return count
        self._solved = self._solver.solve_many(self._rows)
        across = parallel.sum_over_ranks(self._terms.comm, self._rows @ self._solved.T)
        self._small = self._terms.misfit.noise**2 / beta * np.eye(len(across)) + 0.5 * (across + across.T)
        bends = np.linalg.eigvalsh(self._small)
        positive = int(np.count_nonzero(bends > -1e-13 * np.abs(bends).max()))
        return count + positive - (len(across) if beta > 0.0 else 0)

    def solve(self, rhs: Array) -> Array:
        """Of owned values."""
        solution = self._solver.solve_many(rhs[None, :])[0]
        if len(self._rows):
            seen = parallel.sum_over_ranks(self._terms.comm, self._rows @ solution)
            solution -= np.linalg.solve(self._small, seen) @ self._solved
        return solution
