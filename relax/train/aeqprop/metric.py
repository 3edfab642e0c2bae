"""How far parameters are from their knobs."""

from __future__ import annotations

from collections.abc import Sequence

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from relax.base.fem.forms import num_owned
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT_SYMMETRIC
from relax.base.types import Array
from relax.train.aeqprop.terms import product


class Metric:
    """½ |θ - u|²/ε of several parameters, one after the other in an array of owned values. Collective.

    Args:
        parameters: θ.
        rate: ε.
        is_mass: |θ - u|² is the integral of the square; else the sum of squared values.
        name: of the energy, for the prefix of the solver's options.
    """

    def __init__(self, parameters: Sequence[fem.Function], rate: float, *, is_mass: bool, name: str) -> None:
        self._rate = rate
        self._ends = np.cumsum([num_owned(theta.function_space) for theta in parameters])
        self._masses: list[PETSc.Mat] = []
        self._solvers: list[LinearSolver] = []
        for Q in (theta.function_space for theta in parameters) if is_mass else ():
            M = fem_petsc.assemble_matrix(fem.form(ufl.inner(ufl.TrialFunction(Q), ufl.TestFunction(Q)) * ufl.dx))
            M.assemble()
            solver = LinearSolver(Q.mesh.comm, f"relax_{name}_mass_", DIRECT_SYMMETRIC, self_adjoint=True)
            solver.factor(M)
            self._masses.append(M)
            self._solvers.append(solver)
        #: Of the curvature of ½ |θ|²/ε.
        self.diagonal = np.ones(self._ends[-1]) / rate
        if is_mass:
            self.diagonal = np.concatenate([M.getDiagonal().array_r for M in self._masses]) / rate

    def pull(self, d: Array) -> Array:
        """The slope of ½ |d|²/ε."""
        if not self._masses:
            return np.asarray(d / self._rate, dtype=np.float64)
        pulled = [product(M, part) for M, part in zip(self._masses, self._split(d), strict=True)]
        return np.asarray(np.concatenate(pulled) / self._rate, dtype=np.float64)

    def moved(self, slope: Array) -> Array:
        """ε times the representer of a slope: d with ``pull(d)`` the slope."""
        if not self._masses:
            return self._rate * slope
        parts = zip(self._solvers, self._split(slope), strict=True)
        return self._rate * np.concatenate([solver.solve_many(part[None, :])[0] for solver, part in parts])

    def _split(self, values: Array) -> list[Array]:
        return np.split(values, self._ends[:-1])
