"""From a control to a state: one linear solve, or Newton's method by PETSc's SNES."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from petsc4py import PETSc

from relax import _petsc
from relax.errors import SolveFailed
from relax.factors import Factor
from relax.residual import Residual


@dataclass(frozen=True, kw_only=True)
class Newton:
    """How a state is found, and how much memory kept factors may take.

    Linear problems take one linear solve and only ``factor_memory`` matters. PETSc options on the command line
    (``-relax_<name>_snes_rtol`` and so on) stand above these.

    Args:
        rtol: the residual norm falls by this factor. Derivatives are those of the exact root, so keep it small.
        atol: or the residual norm falls below this.
        max_steps: Newton steps before ``SolveFailed``.
        factor_memory: bytes on each rank for the factors of linearisation points that are still in use. Beyond it the
            factor that was used longest ago is given up, and made again when its point is asked for a derivative.
    """

    rtol: float = 1e-10
    atol: float = 1e-13
    max_steps: int = 50
    factor_memory: float = 2e9


def solve_linear(residual: Residual, factor: Factor) -> None:
    """The state of a residual that is affine in it, with the operator that ``factor`` holds.

    Collective. The controls are installed; the state's register holds the solution afterwards.

    Raises:
        SolveFailed: with the reason in words.
    """
    u = residual.state.x
    u.array[:] = 0.0
    residual.boundary.apply(u.array)
    factor.rhs.array[:] = residual.residual_of_lifting()
    factor.solver.solve(factor.rhs, factor.solution)
    u.array[: residual.num_owned] -= factor.solution.array_r
    u.scatter_forward()


class NewtonSolver:
    """SNES on a compiled residual. Collective.

    Args:
        residual: the residual.
        settings: tolerances.
        prefix: PETSc options prefix.
        options: PETSc options below those of the command line.
        guess: the state's local values from which each solve starts: no solve depends on the one before.
    """

    def __init__(
        self, residual: Residual, settings: Newton, prefix: str, options: _petsc.Options, guess: np.ndarray
    ) -> None:
        self._residual = residual
        self._prefix = prefix
        self._options = options
        self._guess = guess
        self._factor: Factor | None = None
        self._error: Exception | None = None
        snes_options = {
            **_petsc.NEWTON,
            "snes_rtol": settings.rtol,
            "snes_atol": settings.atol,
            "snes_stol": 1e-14,
            "snes_max_it": settings.max_steps,
            **{k: v for k, v in options.items() if k.startswith("snes_")},
        }
        self._snes = PETSc.SNES().create(residual.comm)
        self._snes.setOptionsPrefix(prefix)
        with _petsc.inserted(prefix, snes_options):
            self._snes.setFromOptions()
        self._snes.setErrorIfNotConverged(False)
        self._x: PETSc.Vec | None = None
        self._f: PETSc.Vec | None = None

    def solve(self, factor: Factor) -> None:
        """The state for the installed controls, using the matrix and linear solver of ``factor``.

        Raises:
            SolveFailed: with the reason in words; the state's register is then of no use.
        """
        u = self._residual.state.x
        u.array[:] = self._guess
        self._residual.boundary.apply(u.array)
        u.scatter_forward()
        if self._x is None or self._f is None:
            self._x, self._f = factor.matrix.createVecRight(), factor.matrix.createVecLeft()
            self._snes.setFunction(self._evaluate, self._f)
        self._factor = factor
        self._snes.setKSP(factor.solver.ksp)
        self._snes.setJacobian(self._linearise, factor.matrix)
        self._x.array[:] = u.array[: self._residual.num_owned]
        try:
            # MUMPS reads its own options when it factors, which is inside the first step.
            with _petsc.inserted(self._prefix, self._options):
                self._snes.solve(None, self._x)
        except PETSc.Error as error:
            raise SolveFailed(f"Newton's method ({self._prefix}) failed inside PETSc: {error}") from error
        if self._snes.getConvergedReason() < 0:
            raise SolveFailed(_petsc.snes_failure(self._snes, self._prefix))
        self._write(self._x)

    def _write(self, x: PETSc.Vec) -> None:
        u = self._residual.state.x
        u.array[: self._residual.num_owned] = x.array_r
        u.scatter_forward()

    def _evaluate(self, snes: PETSc.SNES, x: PETSc.Vec, f: PETSc.Vec) -> None:
        self._write(x)
        f.array[:] = self._residual.residual()

    def _linearise(self, snes: PETSc.SNES, x: PETSc.Vec, J: PETSc.Mat, P: PETSc.Mat) -> None:
        self._write(x)
        self._residual.assemble_matrix(P)

    def destroy(self) -> None:
        """Free what PETSc holds."""
        for item in (self._snes, self._x, self._f):
            if item is not None:
                item.destroy()
