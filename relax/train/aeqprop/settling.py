"""Where an energy settles: Newton's method on energy, nudging and knobs, for the state alone or with the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.forms import assembled, num_owned
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT, DIRECT_SYMMETRIC
from relax.base.types import Array
from relax.errors import BadProblem, SolveFailed
from relax.problem.boundary import ExpressionCondition
from relax.train.aeqprop.energy import Energy, Misfit

_MOST = 60
# A Newton step that is nothing beside what it steps from, and what of the promised decrease is enough.
_NOTHING, _ARMIJO, _SHORTEST = 1e-11, 1e-4, 1e-8


class Rest(NamedTuple):
    """Where it rests: owned values of s and of each θ, the value there, Newton's steps."""

    parts: list[Array]
    value: float
    iterations: int


class Settling:
    """min over s, or over s and θ, of E(θ, s) + β C(s) [+ ½ |θ - u|²/ε]. Collective, as are all methods.

    Args:
        energy: E.
        misfit: C.
        rate: ε.
        is_mass: |θ - u|² is the integral of the square; else the sum of squared values.
    """

    def __init__(self, energy: Energy, misfit: Misfit, rate: float, *, is_mass: bool) -> None:
        self.energy, self._misfit, self._rate, self._is_mass = energy, misfit, rate, is_mass
        self._fields = [energy.state, *energy.parameters]
        self._comm = energy.state.function_space.mesh.comm
        self._sizes = [num_owned(f.function_space) for f in self._fields]
        self._duals = [fem.Function(f.function_space) for f in self._fields]
        clamped = [bc.dof_indices()[0][: bc.dof_indices()[1]] for bc in energy.bcs]
        self._clamped = np.unique(np.concatenate([np.empty(0, dtype=np.int32), *clamped]))
        # One quadrature for the energy and its derivatives: else these are those of another energy, by some 1e-5.
        self._E = with_fixed_degrees(compat.one_subdomain_data(energy.E))
        self._value = fem.form(self._E)
        self._slopes = [fem.form(ufl.derivative(self._E, f)) for f in self._fields]
        self._bends = [[self._bend(a, b) for b in self._fields] for a in self._fields]
        if self._bends[0][0] is None:
            raise BadProblem(
                "Energy: E: expected one that bends with the state, got one that is linear in it: no least value"
            )
        self._masses = [self._mass(theta) for theta in energy.parameters]
        self._mass_solvers = []
        for M in self._masses:
            solver = LinearSolver(self._comm, f"relax_{energy.name}_mass_", DIRECT_SYMMETRIC, self_adjoint=True)
            solver.factor(M)
            self._mass_solvers.append(solver)

    def _bend(self, a: fem.Function, b: fem.Function) -> fem.Form | None:
        form = ufl.derivative(ufl.derivative(self._E, a), b)
        expanded = ufl.algorithms.expand_derivatives(form)
        return None if expanded.empty() else fem.form(expanded)

    def _mass(self, theta: fem.Function) -> PETSc.Mat:
        Q = theta.function_space
        M = fem_petsc.assemble_matrix(fem.form(ufl.inner(ufl.TrialFunction(Q), ufl.TestFunction(Q)) * ufl.dx))
        M.assemble()
        if not self._is_mass:
            M.zeroEntries()
            M.shift(1.0)
        return M

    # -- at rest -------------------------------------------------------------------------------------------------------

    def state(self, theta: Sequence[Array], y: Array, beta: float) -> Rest:
        """The state at rest for these parameters, from where the state's register is."""
        self.write([None, *theta])
        return self._settle(1, y, beta, None)

    def both(self, knobs: Sequence[Array], y: Array, beta: float) -> Rest:
        """State and parameters at rest for these knobs, from where their registers are."""
        return self._settle(len(self._fields), y, beta, list(knobs))

    def parameters(self) -> list[Array]:
        """Owned values of each θ, as the registers are."""
        return self.read()[1:]

    def cost(self, y: Array) -> float:
        """C at the state's register."""
        gap = (self._misfit.observable.value(self.energy.state) - y) / self._misfit.noise
        return float(0.5 * gap @ gap)

    def norm(self, parts: Sequence[Array]) -> float:
        """The Euclidean norm over all ranks of owned values."""
        return self._norm(np.concatenate(list(parts)))

    def force(self) -> list[Array]:
        """∂E/∂θ where the registers are, as representers in the metric of the parameters: owned values."""
        duals = [assembled(form, dual).copy() for form, dual in zip(self._slopes[1:], self._duals[1:], strict=True)]
        return [solver.solve_many(dual[None, :])[0] for solver, dual in zip(self._mass_solvers, duals, strict=True)]

    # -- Newton's method -----------------------------------------------------------------------------------------------

    def _settle(self, count: int, y: Array, beta: float, knobs: list[Array] | None) -> Rest:
        """Over the first ``count`` fields."""
        self._clamp()
        value, largest = self._value_at(y, beta, knobs), 0.0
        if not np.isfinite(value):
            raise SolveFailed(
                f"Aeqprop: the energy is {value}; look for inputs and boundary values that are not finite"
            )
        for iteration in range(_MOST):
            slope = self._slope_at(count, y, beta, knobs)
            step = self._newton_step(count, slope, beta)
            promised = parallel.dot(self._comm, slope, step)
            if not promised >= 0.0:
                raise SolveFailed(
                    "Aeqprop: the energy has no least value near here: it bends downwards. For parameters in which it "
                    "is linear take logarithms (exp(θ) in E), or a smaller rate, or less nudging"
                )
            here = self.read(count)
            largest = max(largest, self._norm(np.concatenate(here)), self._norm(step))
            length = 1.0
            if self._norm(step) <= _NOTHING * largest:
                return Rest(self.read(), value, iteration)
            while True:
                self.write(self._moved(here, -length * step))
                tried = self._value_at(y, beta, knobs)
                if tried <= value - _ARMIJO * length * promised + 1e-14 * abs(value):
                    break
                length *= 0.5
                if length < _SHORTEST:
                    raise SolveFailed(
                        "Aeqprop: Newton's method found no smaller energy along its step; try less nudging"
                    )
            value = tried
        raise SolveFailed(
            f"Aeqprop: not at rest after {_MOST} steps of Newton's method; try less nudging, a smaller rate"
        )

    def _value_at(self, y: Array, beta: float, knobs: list[Array] | None) -> float:
        value = parallel.sum_over_ranks(self._comm, np.array([fem.assemble_scalar(self._value)]))[0]
        gap = (self._misfit.observable.value(self.energy.state) - y) / self._misfit.noise
        value += 0.5 * beta * gap @ gap
        if knobs is not None:
            for M, theta, u, size in zip(self._masses, self.energy.parameters, knobs, self._sizes[1:], strict=True):
                d = theta.x.array[:size] - u
                value += 0.5 / self._rate * parallel.dot(self._comm, d, _times(M, d))
        return float(value)

    def _slope_at(self, count: int, y: Array, beta: float, knobs: list[Array] | None) -> Array:
        parts = [assembled(form, dual).copy() for form, dual in zip(self._slopes[:count], self._duals, strict=False)]
        gap = beta * (self._misfit.observable.value(self.energy.state) - y) / self._misfit.noise**2
        parts[0] += self._misfit.observable.adjoint(self.energy.state, np.asarray(gap, dtype=np.float64))
        parts[0][self._clamped] = 0.0
        if knobs is not None:
            for i, (M, u) in enumerate(zip(self._masses, knobs, strict=True)):
                parts[1 + i] += _times(M, self.energy.parameters[i].x.array[: self._sizes[1 + i]] - u) / self._rate
        return np.concatenate(parts)

    def _newton_step(self, count: int, slope: Array, beta: float) -> Array:
        """(H + β/σ² Bᵀ B)⁻¹ of the slope: the few rows of B by Woodbury's formula."""
        H = self._hessian(count)
        solver = LinearSolver(self._comm, f"relax_{self.energy.name}_", DIRECT, self_adjoint=True)
        try:
            solver.factor(H)
            rows = np.zeros((self._misfit.observable.size, len(slope)))
            for i in range(len(rows)):
                one = np.zeros(len(rows))
                one[i] = 1.0
                rows[i, : self._sizes[0]] = self._misfit.observable.adjoint(self.energy.state, one)
            rows[:, self._clamped] = 0.0
            if beta == 0.0:
                return solver.solve_many(slope[None, :])[0]
            solved = solver.solve_many(np.vstack([slope[None, :], rows]))
            small = parallel.sum_over_ranks(self._comm, rows @ solved.T)
            S = self._misfit.noise**2 / beta * np.eye(len(rows)) + small[:, 1:]
            return np.asarray(solved[0] - np.linalg.solve(S, small[:, 0]) @ solved[1:])
        finally:
            solver.destroy()
            H.destroy()

    def _hessian(self, count: int) -> PETSc.Mat:
        """Of E, and of the knobs where parameters settle, too; clamped rows and columns the identity's."""
        blocks: list[list[PETSc.Mat | None]] = [[None] * count for _ in range(count)]
        for i in range(count):
            for j in range(i, count):
                form = self._bends[i][j]
                if form is None:
                    continue
                blocks[i][j] = block = self._block(form, i, j)
                if j > i:
                    blocks[j][i] = block.transpose(PETSc.Mat())
        if count == 1:
            return blocks[0][0]
        for i, M in enumerate(self._masses):
            pull = M.copy()
            pull.scale(1.0 / self._rate)
            mine = blocks[1 + i][1 + i]
            if mine is not None:
                pull.axpy(1.0, mine, PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)
                mine.destroy()
            blocks[1 + i][1 + i] = pull
        nest = PETSc.Mat().createNest(blocks, comm=self._comm)
        nest.assemble()
        whole = PETSc.Mat()
        nest.convert("aij", whole)
        for block in (b for row in blocks for b in row if b is not None):
            block.destroy()
        nest.destroy()
        return whole

    def _block(self, form: fem.Form, i: int, j: int) -> PETSc.Mat:
        """Of fields i and j. Conditions are for the state, also where parameters are in the very space of it."""
        matrix = fem_petsc.assemble_matrix(form)
        matrix.assemble()
        if i == j == 0:
            matrix.zeroRowsColumnsLocal(self._clamped, 1.0)
        elif i == 0:
            matrix.zeroRowsLocal(self._clamped, 0.0)
        return matrix

    # -- registers -----------------------------------------------------------------------------------------------------

    def _clamp(self) -> None:
        for bc in self.energy.bcs:
            if isinstance(bc, ExpressionCondition):
                bc.refresh()
            bc.set(self.energy.state.x.array)

    def read(self, count: int | None = None) -> list[Array]:
        """Owned values of the first fields, s and each θ, or of all. Local."""
        return [f.x.array[:n].copy() for f, n in zip(self._fields[:count], self._sizes, strict=False)]

    def write(self, parts: Sequence[Array | None]) -> None:
        """Write such values. Collective."""
        for f, part in zip(self._fields, parts, strict=False):
            if part is not None:
                f.x.array[: len(part)] = part
                f.x.scatter_forward()

    def _moved(self, parts: list[Array], step: Array) -> list[Array]:
        ends = np.cumsum([len(p) for p in parts])[:-1]
        return [p + d for p, d in zip(parts, np.split(step, ends), strict=True)]

    def _norm(self, owned: Array) -> float:
        return float(np.sqrt(parallel.dot(self._comm, owned, owned)))


def _times(M: PETSc.Mat, owned: Array) -> Array:
    x, y = M.createVecs()
    x.array[:] = owned
    M.mult(x, y)
    result = np.array(y.array_r)
    x.destroy()
    y.destroy()
    return result
