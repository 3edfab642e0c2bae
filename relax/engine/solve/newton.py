"""Newton's method by PETSc's SNES: what may be set, and a solver whose roots are checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from petsc4py import PETSc

from relax.base.checks import AT_LEAST_0, FRACTION, at_least, number_in
from relax.base.la.factors import Factor
from relax.base.la.options import NEWTON, Options, inserted, refused_options, snes_failure, user_options
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator
from relax.errors import RelaxError, SolveFailed

# What a Newton iteration that has stopped moving may leave of the residual, relative to where it began.
_STALLED = 1e-6
# A Newton step is the error of the state to first order: one of this size beside the state, after which the residual
# does not fall by half, has met what rounding leaves of the residual, and not what the equation does.
_NO_STEP, _NO_FALL = 1e-8, 0.5
# A line search that takes less than this off the residual's norm in so many steps does not get there in those it has.
_CRAWLS, _CRAWLED = 0.01, 10


@dataclass(frozen=True, kw_only=True)
class Newton:
    """How a state is found, and how much memory kept factors may take.

    Linear problems take one linear solve and only ``factor_memory`` matters. PETSc options on the command line
    (``-relax_<name>_snes_rtol`` and so on) stand above these.

    Args:
        rtol: the residual norm falls to this fraction of what it is at the first guess, or, where the guess is good
            already, of what it is at the state zero. Derivatives are those of the exact root, so keep it small.
        atol: or the residual norm falls below this, which has the units of your residual; 0 leaves it to ``rtol``.
        max_steps: Newton steps before ``SolveFailed``, at least 1.
        factor_memory: bytes on each rank for the factors of linearisation points that are still in use. Beyond it the
            factor that was used longest ago is given up, and made again when its point is asked for a derivative.

    Raises:
        BadInput: for one that is out of bounds.
    """

    rtol: float = 1e-10
    atol: float = 0.0
    max_steps: int = 50
    factor_memory: float = 2e9

    def __post_init__(self) -> None:
        number_in(self.rtol, FRACTION, "Newton: rtol")
        number_in(self.atol, AT_LEAST_0, "Newton: atol")
        at_least(self.max_steps, 1, "Newton: max_steps")
        number_in(self.factor_memory, AT_LEAST_0, "Newton: factor_memory")


def steps_are_chosen(prefix: str, options: Options) -> bool:
    """Whether options or the command line say how long Newton's steps are. Local."""
    keys = ("snes_type", "snes_linesearch_type")
    return any(key in options for key in keys) or bool(user_options(prefix, keys))


class NewtonSolver:
    """SNES on a compiled residual. Collective.

    Args:
        residual: the residual.
        settings: tolerances.
        operators: whose prefix options have.
        options: PETSc options below those of the command line.

    Raises:
        BadInput: for options that PETSc refuses.
    """

    def __init__(self, residual: Residual, settings: Newton, operators: FactoredOperator, options: Options) -> None:
        self._residual = residual
        self._operators = operators
        self._prefix = prefix = operators.prefix
        self._options = options
        self._settings = settings
        self._stops_crawling = not steps_are_chosen(prefix, options)
        self._allowed = 0.0
        self._norms: list[float] = []
        self._shift: np.ndarray | float = 0.0
        self._crawl = ""
        self._factor: Factor | None = None
        #: The residual's norm at the first guess; and there or at the state zero, the larger one.
        self.first_norm = self.size = 0.0
        snes_options = {
            **NEWTON,
            "snes_rtol": settings.rtol,
            "snes_atol": settings.atol,
            "snes_stol": 1e-14,
            "snes_max_it": settings.max_steps,
            **{k: v for k, v in options.items() if k.startswith("snes_")},
        }
        self._snes = PETSc.SNES().create(residual.comm)
        self._snes.setOptionsPrefix(prefix)
        with inserted(prefix, snes_options), refused_options(prefix):
            self._snes.setFromOptions()
        self._snes.setErrorIfNotConverged(False)
        self._snes.setMonitor(self._look)
        self._x: PETSc.Vec = None
        self._f: PETSc.Vec = None
        #: Whether the last solve has failed on all ranks alike, and not by an error of one.
        self.failed_together = False
        #: Whether the last solve took the first Newton step, in whatever length: another length may help then.
        self.has_stepped = False
        #: Whether it ended as no more steps were allowed.
        self.ran_out = False
        #: Whether the last solve has assembled an operator: a guess that is a root needs none.
        self.has_operator = False

    def solve(self, factor: Factor, guess: np.ndarray, shift: np.ndarray | float = 0.0) -> None:
        """The state with F(u) = ``shift`` for the installed controls, by the matrix and linear solver of ``factor``.

        Args:
            factor: to be filled; it holds the Jacobian of the last iterate afterwards.
            guess: the state's local values to start from: no solve depends on what the register holds.
            shift: (owned,) or 0; zero where values are clamped.

        Raises:
            SolveFailed: with the reason in words; the state's register is then of no use.
        """
        u = self._residual.state.x
        self.failed_together = self.has_stepped = self.ran_out = self.has_operator = False
        self._shift, self._norms, self._crawl = shift, [], ""
        scale = self._norm_at(np.zeros_like(guess))
        self.first_norm = self._norm_at(guess)
        if self._residual.problem.nullspace is not None and factor.solver.deflation is None:
            # A guess that is a root already is put into its gauge, and the first residual is to be without what no
            # step changes.
            self._residual.assemble_matrix(factor.matrix)
            self._operators.deflate(factor)
            self.has_operator = True
        if self.first_norm == 0.0:
            return
        self.size = max(self.first_norm, scale)
        self._allowed = _STALLED * self.size
        if self._x is None:
            self._x, self._f = factor.matrix.createVecRight(), factor.matrix.createVecLeft()
            self._snes.setFunction(self._evaluate, self._f)
        self._factor = factor
        self._snes.setKSP(factor.solver.ksp)
        self._snes.setJacobian(self._linearise, factor.matrix)
        # What no step changes would cost the residual its last digits.
        self._x.array[:] = self._operators.in_gauge(u.array[: self._residual.num_owned])
        if np.isfinite(scale) and not user_options(self._prefix, ("snes_atol",)):
            self._snes.atol = max(self._settings.atol, self._settings.rtol * scale)
        try:
            # MUMPS reads its own options when it factors, which is inside the first step.
            with inserted(self._prefix, self._options):
                self._snes.solve(None, self._x)
        except PETSc.Error as error:
            # What the residual itself has said comes out of PETSc as the cause of a number.
            inside = error.__cause__
            words = str(inside) if isinstance(inside, RelaxError) else f"it failed inside PETSc: {error}"
            raise SolveFailed(f"Newton's method ({self._prefix}): {words}") from error
        reason = int(self._snes.getConvergedReason())
        norm, rounding = float(self._snes.getFunctionNorm()), False
        found_no_fall = reason == PETSc.SNES.ConvergedReason.DIVERGED_LINE_SEARCH
        self.has_stepped = found_no_fall or self._snes.getIterationNumber() > 0
        if found_no_fall and norm <= self._allowed:
            rounding = self._step_is_nothing()
        if reason < 0 and not rounding:
            self.failed_together = True
            self.ran_out = reason == PETSc.SNES.ConvergedReason.DIVERGED_MAX_IT and not self._crawl
            raise SolveFailed(self._crawl or snes_failure(self._snes, self._prefix))
        # A step of no length also counts as convergence for SNES, wherever it stands.
        if not norm <= max(self._allowed, self._snes.atol):
            self.failed_together = True
            raise SolveFailed(
                f"Newton's method ({self._prefix}) stopped moving with the residual norm at {norm:.3e}, expected at "
                f"most {self._allowed:.1e}"
            )
        self._write(self._x)

    def _look(self, snes: PETSc.SNES, step: int, norm: float) -> None:
        """A monitor, after which PETSc looks whether there is a reason to stop: rounding, or a search that crawls."""
        self._norms.append(norm)
        if step > 0 and norm <= self._allowed and norm > _NO_FALL * self._norms[-2] and self._step_is_nothing():
            snes.setConvergedReason(PETSc.SNES.ConvergedReason.CONVERGED_SNORM_RELATIVE)
        elif self._stops_crawling and step >= _CRAWLED and (1.0 - _CRAWLS) * self._norms[-1 - _CRAWLED] < norm:
            self._crawl = (
                f"Newton's method ({self._prefix}) crawls: {_CRAWLED} steps of its line search took the residual norm "
                f"from {self._norms[-1 - _CRAWLED]:.4e} to {norm:.4e}"
            )
            snes.setConvergedReason(PETSc.SNES.ConvergedReason.DIVERGED_MAX_IT)

    def _step_is_nothing(self) -> bool:
        """Whether the last Newton step, in its full length, is nothing beside the state. Collective."""
        snes = self._snes
        return bool(snes.getSolutionUpdate().norm() <= _NO_STEP * snes.getSolution().norm())

    def _norm_at(self, state: np.ndarray) -> float:
        """The residual's norm at local values with the given ones written in; the state's register holds them then."""
        u = self._residual.state.x
        u.array[:] = state
        self._residual.tied.install_given(self._residual.state)
        u.scatter_forward()
        return self._residual.norm(self.left())

    def left(self) -> np.ndarray:
        """F(u) less the shift, (owned,), at what the state's register holds. Collective."""
        return self._residual.residual() - self._shift

    def _write(self, x: PETSc.Vec) -> None:
        u = self._residual.state.x
        u.array[: self._residual.num_owned] = x.array_r
        self._residual.tied.complete(self._residual.state)
        u.scatter_forward()

    def _evaluate(self, snes: PETSc.SNES, x: PETSc.Vec, f: PETSc.Vec) -> None:
        self._write(x)
        values = self.left()
        if self._factor is not None and self._factor.solver.deflation is not None:
            self._factor.solver.deflation.restrict(values)
        f.array[:] = values

    def _linearise(self, snes: PETSc.SNES, x: PETSc.Vec, J: PETSc.Mat, P: PETSc.Mat) -> None:
        self._write(x)
        self._residual.assemble_matrix(P)
        self.has_operator = True
        assert self._factor is not None
        self._operators.deflate(self._factor)
        self._factor.solver.prepare(self._factor.solver.ksp, P)

    def destroy(self) -> None:
        """Free what PETSc holds."""
        for item in (self._snes, self._x, self._f):
            if item is not None:
                item.destroy()
