"""Tangents and adjoints of the state for many directions at once, through ∂F/∂m as sparse matrices."""

from __future__ import annotations

import weakref

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from petsc4py import PETSc

from relax import parallel
from relax.factors import Factor, Key
from relax.forms import num_owned
from relax.point import Point
from relax.residual import Residual

Array = npt.NDArray[np.float64]

# Assembling ∂F/∂m as a matrix costs about as much as a few vector assemblies.
_FEW = 3


class Sensitivity:
    """∂F/∂m at one point, as an operator on several directions at once. Collective.

    Args:
        residual: its registers hold the point whenever a method is called.
    """

    def __init__(self, residual: Residual) -> None:
        self._residual = residual
        self._key: weakref.ref[Key] | None = None
        self._parameters: list[Array] = []
        self._matrices: list[PETSc.Mat | None] | None = None
        self._constants: list[Array | None] = []

    def _at(self, key: Key) -> list[PETSc.Mat | None]:
        """The matrices at the registers' point, named by ``key``."""
        if self._matrices is None:
            self._matrices = self._residual.create_sensitivities()
        # Points with one operator share their key, but ∂F/∂m can still differ between them (a source exp(m)).
        known = self._key is not None and self._key() is key
        if known and self._residual.operator_is_constant:
            known = self._residual.is_affine and not self._parameters_changed()
        if not known:
            self._residual.assemble_sensitivities(self._matrices)
            self._constants = self._residual.constant_sensitivities()
            self._key = weakref.ref(key)
            self._parameters = self._residual.parameter_values()
        return self._matrices

    def _parameters_changed(self) -> bool:
        now = self._residual.parameter_values()
        changed = any(not np.array_equal(a, b) for a, b in zip(now, self._parameters, strict=True))
        return bool(now) and parallel.any_rank(self._residual.comm, changed)

    def state_tangents(self, key: Key, directions: list[list[Array]], factor: Factor) -> Array:
        """du with A du = -∂F/∂m dm, clamped values included.

        Args:
            key: names the registers' point.
            directions: for each direction a part per control: owned and ghost values, or the entries of a constant.
            factor: of the operator at that point.

        Returns:
            (num_directions, owned).
        """
        residual = self._residual
        n = residual.num_owned
        use_matrices = len(directions) > _FEW
        rhs = self._sources(key, directions) if use_matrices else np.empty((len(directions), n))
        lifts = np.zeros_like(rhs)
        for i, parts in enumerate(directions):
            if not use_matrices:
                residual.install_tangent(parts)
                rhs[i] = residual.tangent_source()
            if residual.boundary.has_controls:
                lift = residual.tangent_state.x.array
                lift[:] = 0.0
                residual.boundary.lift(parts, lift)
                lifts[i] = lift[:n]
                rhs[i] += residual.operator_action()
        rhs[:, residual.boundary.owned] = 0.0
        return lifts - _solve(factor, rhs, adjoint=False)

    def _sources(self, key: Key, directions: list[list[Array]]) -> Array:
        residual = self._residual
        matrices = self._at(key)
        total = np.zeros((len(directions), residual.num_owned))
        for i, (C, columns) in enumerate(zip(matrices, self._constants, strict=True)):
            if C is not None:
                owned = num_owned(residual.controls[i].function_space)
                total += _times(C, np.array([parts[i][:owned] for parts in directions]), transposed=False)
            if columns is not None:
                total += np.array([parts[i] for parts in directions]) @ columns
        return total

    def gradients(self, point: Point, adjoints: Array, state_duals: Array) -> list[Array]:
        """-(∂F/∂m)ᵀ λ for several λ, and what boundary values collect from ``state_duals`` - (∂F/∂u)ᵀ λ.

        Args:
            point: what the registers hold.
            adjoints: (k, owned) the λ.
            state_duals: (k, owned) B'(u)ᵀ dy, not yet zeroed at clamped values.

        Returns:
            For each control (k, owned of the field) or (k, entries of the constant).
        """
        residual = self._residual
        if len(adjoints) > _FEW and not residual.boundary.has_controls:
            return self._gradients_by_matrix(point.key, adjoints)
        rows = []
        for lam, dual in zip(adjoints, state_duals, strict=True):
            residual.adjoint.x.array[: residual.num_owned] = lam
            residual.adjoint.x.scatter_forward()
            boundary = residual.operator_adjoint_action() - dual if residual.boundary.has_controls else None
            rows.append(residual.gradient(boundary, point))
        return [-np.array(parts) for parts in zip(*rows, strict=True)]

    def _gradients_by_matrix(self, key: Key, adjoints: Array) -> list[Array]:
        residual = self._residual
        matrices = self._at(key)
        result = []
        for control, C, columns in zip(residual.controls, matrices, self._constants, strict=True):
            if C is not None:
                result.append(-_times(C, adjoints, transposed=True))
            elif columns is not None:
                result.append(-parallel.sum_over_ranks(residual.comm, adjoints @ columns.T))
            else:
                is_field = isinstance(control, fem.Function)
                length = (
                    num_owned(control.function_space) if is_field else int(np.prod(control.ufl_shape, dtype=np.int64))
                )
                result.append(np.zeros((len(adjoints), length)))
        return result

    def destroy(self) -> None:
        """Free the matrices."""
        for matrix in self._matrices or []:
            if matrix is not None:
                matrix.destroy()
        self._matrices = None
        self._key = None


def _solve(factor: Factor, rhs: Array, *, adjoint: bool) -> Array:
    """(k, owned) right-hand sides to solutions; a single one without a block."""
    if len(rhs) != 1:
        return factor.solver.solve_many(rhs, adjoint=adjoint)
    factor.rhs.array[:] = rhs[0]
    (factor.solver.solve_adjoint if adjoint else factor.solver.solve)(factor.rhs, factor.solution)
    return factor.solution.array_r[None, :].copy()


def solve_adjoints(factor: Factor, rhs: Array) -> Array:
    """λ with Aᵀ λ = rhs, for each row: (k, owned). Collective."""
    return _solve(factor, rhs, adjoint=True)


def _times(C: PETSc.Mat, rows: Array, *, transposed: bool) -> Array:
    """C x, or Cᵀ x, for each row x: a sparse-dense product, (k, owned) in and out. Collective."""
    n_in, n_out = C.getLocalSize() if transposed else C.getLocalSize()[::-1]
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
