"""Tangents and adjoints of the state for many directions at once: ∂F/∂m by forms, or as sparse matrices."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.forms import present
from relax.base.fem.pointwise import PointLaw
from relax.base.la.factors import Factor, Key
from relax.base.types import Array
from relax.engine.residual.registers import Point
from relax.engine.residual.residual import Residual

# Assembling ∂F/∂m as a matrix costs about as much as a few vector assemblies.
_FEW = 3


class Sensitivity:
    """∂F/∂m at a point, as an operator on several directions at once. Collective, as are all methods.

    A few directions go through forms, which are cheap to assemble once; many go through sparse matrices, which are
    cheap to apply again. A control whose ∂F/∂m lasts (``Point.lasting``) always goes through its matrix.

    Args:
        residual: its registers hold the point whenever a method is called.
        assemble: for controls whose matrix is not made by the residual's own assembly.
    """

    def __init__(self, residual: Residual, assemble: Mapping[int, Callable[[PETSc.Mat], None]] | None = None) -> None:
        self._residual = residual
        self._assemble = dict(assemble or {})
        n = len(residual.controls)
        self._all = tuple(range(n))
        # Weights go through their law each time: as rows ∂F/∂θ would be as many dense vectors.
        self._weights = tuple(i for i, c in enumerate(residual.controls) if isinstance(c, PointLaw))
        self._created = [False] * n
        self._matrices: list[PETSc.Mat | None] = [None] * n
        self._constants: list[Array | None] = [None] * n
        self._stamps: list[weakref.ref[Key] | None] = [None] * n
        self._work: list[tuple[PETSc.Vec, PETSc.Vec] | None] = [None] * n

    def _current(self, i: int, point: Point) -> None:
        """Make matrix and rows of control i those of the registers' point."""
        stamp = self._lasting(i, point) or point.here
        held = self._stamps[i]
        if held is not None and held() is stamp:
            return
        if not self._created[i]:
            self._matrices[i] = self._residual.create_sensitivity(i)
            self._created[i] = True
        C = self._matrices[i]
        if C is not None:
            (self._assemble.get(i) or (lambda matrix: self._residual.assemble_sensitivity(i, matrix)))(C)
        self._constants[i] = self._residual.constant_sensitivity(i)
        self._stamps[i] = weakref.ref(stamp)

    @staticmethod
    def _lasting(i: int, point: Point) -> Key | None:
        return point.lasting[i] if point.lasting else None

    def _by_matrix(self, point: Point, directions: int) -> tuple[int, ...]:
        """The controls whose ∂F/∂m is taken as a matrix for so many directions."""
        may = [i for i in self._all if i not in self._weights]
        return tuple(i for i in may if directions > _FEW or self._lasting(i, point) is not None)

    def state_tangents(self, point: Point, directions: list[list[Array]], factor: Factor) -> Array:
        """du with A du = -∂F/∂m dm, clamped values included.

        Args:
            point: what the registers hold.
            directions: for each direction a part per control: owned and ghost values, or the entries of a constant.
            factor: of the operator at that point.

        Returns:
            (num_directions, owned).
        """
        rhs, lifts = self.tangent_sources(point, directions)
        return self.tangents_of(solve_rows(factor, rhs, adjoint=False), lifts)

    def tangent_sources(self, point: Point, directions: list[list[Array]]) -> tuple[Array, Array]:
        """∂F/∂m dm and the clamped values' part, and du at clamped values: (num_directions, owned) twice."""
        residual = self._residual
        n = residual.num_owned
        by_matrix = self._by_matrix(point, len(directions))
        by_form = tuple(i for i in self._all if i not in by_matrix)
        rhs = self.products(point, directions, by_matrix)
        lifts = np.zeros_like(rhs)
        for row, parts in enumerate(directions):
            if by_form:
                residual.registers.install_tangent(parts)
                rhs[row] += residual.tangent_source(by_form)
            if residual.boundary.has_controls:
                lift = residual.registers.tangent_state.x.array
                lift[:] = 0.0
                residual.boundary.lift(parts, lift)
                residual.tied.complete(residual.registers.tangent_state)
                lifts[row] = lift[:n]
                rhs[row] += residual.operator_action()
        residual.tied.restrict(*rhs)
        return rhs, lifts

    def tangents_of(self, solutions: Array, lifts: Array) -> Array:
        """du of what ``tangent_sources`` gave, solved for: (num_directions, owned)."""
        return lifts - self._residual.tied.extended(solutions)

    def products(self, point: Point, directions: list[list[Array]], which: Sequence[int]) -> Array:
        """∂F/∂m dm by matrices, summed over the controls ``which``: (num_directions, owned), unclamped."""
        residual = self._residual
        total = np.zeros((len(directions), residual.num_owned))
        for i in which:
            self._current(i, point)
            C, columns = self._matrices[i], self._constants[i]
            if C is not None:
                owned = self._length(i)
                total += self._product(i, C, np.array([parts[i][:owned] for parts in directions]), transposed=False)
            if columns is not None:
                total += np.array([parts[i] for parts in directions]) @ columns
        return total

    def adjoints(self, duals: Array, factor: Factor) -> Array:
        """λ with Aᵀ λ = the dual vectors, zeroed at clamped values, for each row: (k, owned)."""
        return self.adjoints_of(solve_rows(factor, self.adjoint_sources(duals), adjoint=True))

    def adjoint_sources(self, duals: Array) -> Array:
        """Dual vectors (k, owned) as right-hand sides, zeroed at clamped values."""
        rhs = duals.copy()
        self._residual.tied.restrict(*rhs)
        return rhs

    def adjoints_of(self, solutions: Array) -> Array:
        """λ of what ``adjoint_sources`` gave, solved for: (k, owned)."""
        return self._residual.tied.extended(solutions)

    def gradients(
        self, point: Point, adjoints: Array, state_duals: Array, which: Sequence[int] | None = None
    ) -> list[Array]:
        """-(∂F/∂m)ᵀ λ for several λ, and what boundary values collect from ``state_duals`` - (∂F/∂u)ᵀ λ.

        Args:
            point: what the registers hold.
            adjoints: (k, owned) the λ.
            state_duals: (k, owned) B'(u)ᵀ dy, not yet zeroed at clamped values.
            which: the controls that are asked for; others get zeros.

        Returns:
            For each control (k, owned of the field) or (k, entries of the constant).
        """
        residual = self._residual
        asked = self._all if which is None else tuple(which)
        by_matrix = tuple(i for i in self._by_matrix(point, len(adjoints)) if i in asked)
        by_form = tuple(i for i in asked if i not in by_matrix)
        k = len(adjoints)
        result: list[Array] = [np.zeros((k, self._length(i))) for i in self._all]
        boundary = residual.boundary.has_controls
        if by_form or boundary:
            for row in range(k):
                residual.registers.install_adjoint(adjoints[row])
                collected = residual.operator_adjoint_action() - state_duals[row] if boundary else None
                for i, part in enumerate(residual.gradient(collected, point, by_form)):
                    result[i][row] -= part
        for i in by_matrix:
            self._current(i, point)
            C, columns = self._matrices[i], self._constants[i]
            if C is not None:
                result[i] -= self._product(i, C, adjoints, transposed=True)
            elif columns is not None:
                result[i] -= parallel.sum_over_ranks(residual.comm, adjoints @ columns.T)
        return result

    def _product(self, i: int, C: PETSc.Mat, rows: Array, *, transposed: bool) -> Array:
        """C x, or Cᵀ x, for the matrix of control i: (k, owned) in and out. The next call overwrites it."""
        if len(rows) != 1:
            return _times(C, rows, transposed=transposed)
        right, left = self._work[i] or (C.createVecRight(), C.createVecLeft())
        self._work[i] = (right, left)
        x, y = (left, right) if transposed else (right, left)
        x.array[:] = rows[0]
        (C.multTranspose if transposed else C.mult)(x, y)
        return y.array_r[None, :]

    def _length(self, i: int) -> int:
        return present(self._residual.controls[i]).size

    def destroy(self) -> None:
        """Free the matrices."""
        for item in (*self._matrices, *(vector for pair in self._work for vector in pair or ())):
            if item is not None:
                item.destroy()
        self._work = [None] * len(self._all)
        self._matrices = [None] * len(self._all)
        self._created = [False] * len(self._all)
        self._stamps = [None] * len(self._all)


def solve_rows(factor: Factor, rhs: Array, *, adjoint: bool) -> Array:
    """(k, owned) right-hand sides to solutions; a single one without a block. Collective."""
    if len(rhs) != 1:
        return factor.solver.solve_many(rhs, adjoint=adjoint)
    factor.rhs.array[:] = rhs[0]
    (factor.solver.solve_adjoint if adjoint else factor.solver.solve)(factor.rhs, factor.solution)
    return factor.solution.array_r[None, :].copy()


def _times(C: PETSc.Mat, rows: Array, *, transposed: bool) -> Array:
    """C x, or Cᵀ x, for several rows x: (k, owned) in and out. Collective."""
    n_in, n_out = C.getLocalSize() if transposed else C.getLocalSize()[::-1]
    if not transposed and 0 in np.diff(C.getOwnershipRangesColumn()):
        # A rank that has none of a field on a part of the mesh: PETSc 3.25 ends in a segmentation fault there.
        return _one_by_one(C, rows, n_out)
    N_in = C.getSize()[0 if transposed else 1]
    k = len(rows)
    X = PETSc.Mat().createDense(((n_in, N_in), (None, k)), array=np.asfortranarray(rows.T), comm=C.comm)
    X.assemble()
    Y = C.transposeMatMult(X) if transposed else C.matMult(X)
    try:
        return Y.getDenseArray().T.copy()
    finally:
        X.destroy()
        Y.destroy()


def _one_by_one(C: PETSc.Mat, rows: Array, num_owned: int) -> Array:
    """C x, a row after the other: (k, owned) in, (k, num_owned) out. Collective."""
    x, y = C.createVecs()
    result = np.empty((len(rows), num_owned))
    for row, into in zip(rows, result, strict=True):
        x.array[:] = row
        C.mult(x, y)
        into[:] = y.array_r
    x.destroy()
    y.destroy()
    return result
