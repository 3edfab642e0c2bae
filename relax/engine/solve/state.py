"""From a control to a state: one linear solve, or Newton's method by PETSc's SNES."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from petsc4py import PETSc

from relax.base.checks import AT_LEAST_0, FRACTION, at_least, number_in
from relax.base.fem.forms import values_of
from relax.base.la.factors import Factor, Key
from relax.base.la.options import (
    FULL_STEPS,
    NEWTON,
    Options,
    inserted,
    refused_options,
    snes_advice,
    snes_failure,
    user_options,
)
from relax.base.log import warn
from relax.base.types import Array
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator
from relax.engine.solve.kernel import flat_rows
from relax.errors import BadInput, BadProblem, SolveFailed
from relax.problem.continuation import Continuation

# What a Newton iteration that has stopped moving may leave of the residual, relative to where it began.
_STALLED = 1e-6
# A Newton step is the error of the state to first order: one of this size beside the state, after which the residual
# does not fall by half, has met what rounding leaves of the residual, and not what the equation does.
_NO_STEP, _NO_FALL = 1e-8, 0.5
# Far above what a linear solver may leave, far below what a term leaves that was overlooked.
_NOT_LINEAR = 1e-2


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


class NewtonSolver:
    """SNES on a compiled residual. Collective.

    Args:
        residual: the residual.
        settings: tolerances.
        operators: whose prefix options have.
        options: PETSc options below those of the command line.

    Raises:
        BadInput: for options that PETSc refuses, or that ask for what is not there.
    """

    def __init__(self, residual: Residual, settings: Newton, operators: FactoredOperator, options: Options) -> None:
        self._residual = residual
        self._operators = operators
        self._prefix = prefix = operators.prefix
        self._options = options
        self._settings = settings
        self._allowed = self._last_norm = 0.0
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
        if (kind := self._snes.getType()).startswith("vi"):
            self._snes.destroy()
            raise BadInput(
                f"options: -{prefix}snes_type {kind} solves for a state between bounds, and a Problem has none: "
                "expected newtonls or another method for equations; for bounds add a penalty to the residual"
            )
        self._snes.setErrorIfNotConverged(False)
        self._snes.setMonitor(self._stop_at_rounding)
        self._x: PETSc.Vec = None
        self._f: PETSc.Vec = None
        #: Whether the last solve has failed on all ranks alike, and not by an error of one.
        self.failed_together = False
        #: Whether the last solve took the first Newton step, in whatever length: another length may help then.
        self.has_stepped = False

    def solve(self, factor: Factor, guess: np.ndarray) -> None:
        """The state for the installed controls, using the matrix and linear solver of ``factor``.

        Args:
            factor: to be filled; it holds the Jacobian of the last iterate afterwards.
            guess: the state's local values to start from: no solve depends on what the register holds.

        Raises:
            SolveFailed: with the reason in words; the state's register is then of no use.
        """
        u = self._residual.state.x
        self.failed_together = self.has_stepped = False
        scale = self._norm_at(np.zeros_like(guess))
        self.first_norm = self._norm_at(guess)
        if self.first_norm == 0.0:
            return
        self.size = max(self.first_norm, scale)
        self._allowed = _STALLED * self.size
        if self._x is None:
            self._x, self._f = factor.matrix.createVecRight(), factor.matrix.createVecLeft()
            self._snes.setFunction(self._evaluate, self._f)
        self._factor = factor
        if self._residual.problem.nullspace is not None and factor.solver.deflation is None:
            # The first residual is to be without what no step changes, too.
            self._residual.assemble_matrix(factor.matrix)
            self._operators.deflate(factor)
        self._snes.setKSP(factor.solver.ksp)
        self._snes.setJacobian(self._linearise, factor.matrix)
        self._x.array[:] = u.array[: self._residual.num_owned]
        if np.isfinite(scale) and not user_options(self._prefix, ("snes_atol",)):
            self._snes.atol = max(self._settings.atol, self._settings.rtol * scale)
        try:
            # MUMPS reads its own options when it factors, which is inside the first step.
            with inserted(self._prefix, self._options):
                self._snes.solve(None, self._x)
        except PETSc.Error as error:
            raise SolveFailed(f"Newton's method ({self._prefix}) failed inside PETSc: {error}") from error
        reason = int(self._snes.getConvergedReason())
        norm, rounding = float(self._snes.getFunctionNorm()), False
        found_no_fall = reason == PETSc.SNES.ConvergedReason.DIVERGED_LINE_SEARCH
        self.has_stepped = found_no_fall or self._snes.getIterationNumber() > 0
        if found_no_fall and norm <= self._allowed:
            rounding = self._step_is_nothing()
        if reason < 0 and not rounding:
            self.failed_together = True
            raise SolveFailed(snes_failure(self._snes, self._prefix))
        # A step of no length also counts as convergence for SNES, wherever it stands.
        if not norm <= max(self._allowed, self._snes.atol):
            self.failed_together = True
            raise SolveFailed(
                f"Newton's method ({self._prefix}) stopped moving with the residual norm at {norm:.3e}, expected at "
                f"most {self._allowed:.1e}"
            )
        self._write(self._x)

    def _stop_at_rounding(self, snes: PETSc.SNES, step: int, norm: float) -> None:
        """A monitor: after it PETSc looks whether there is a reason to stop."""
        falls = norm <= _NO_FALL * self._last_norm
        self._last_norm = norm
        if step > 0 and norm <= self._allowed and not falls and self._step_is_nothing():
            snes.setConvergedReason(PETSc.SNES.ConvergedReason.CONVERGED_SNORM_RELATIVE)

    def _step_is_nothing(self) -> bool:
        """Whether the last Newton step, in its full length, is nothing beside the state. Collective."""
        snes = self._snes
        return bool(snes.getSolutionUpdate().norm() <= _NO_STEP * snes.getSolution().norm())

    def _norm_at(self, state: np.ndarray) -> float:
        """The residual's norm at local values with the given ones written in; the state's register holds them then."""
        u = self._residual.state.x
        u.array[:] = state
        self._residual.boundary.apply(u.array)
        u.scatter_forward()
        return self._residual.norm(self._residual.residual())

    def _write(self, x: PETSc.Vec) -> None:
        u = self._residual.state.x
        u.array[: self._residual.num_owned] = x.array_r
        u.scatter_forward()

    def _evaluate(self, snes: PETSc.SNES, x: PETSc.Vec, f: PETSc.Vec) -> None:
        self._write(x)
        values = self._residual.residual()
        if self._factor is not None and self._factor.solver.deflation is not None:
            self._factor.solver.deflation.restrict(values)
        f.array[:] = values

    def _linearise(self, snes: PETSc.SNES, x: PETSc.Vec, J: PETSc.Mat, P: PETSc.Mat) -> None:
        self._write(x)
        self._residual.assemble_matrix(P)
        assert self._factor is not None
        self._operators.deflate(self._factor)

    def destroy(self) -> None:
        """Free what PETSc holds."""
        for item in (self._snes, self._x, self._f):
            if item is not None:
                item.destroy()


# The logarithm of the ratio between stages of a continuation: at first, and when to give up.
_STAGE = float(np.log(4.0))
_SHORTEST = 0.02


class ForwardSolver:
    """Solves F(u, m) = 0 for the controls that the registers hold. Collective, as are all methods.

    Args:
        residual: the residual; its state's register holds the solution afterwards.
        operators: the factors.
        settings: of Newton's method.
    """

    def __init__(self, residual: Residual, operators: FactoredOperator, settings: Newton) -> None:
        self._residual = residual
        self._operators = operators
        self._settings = settings
        self._newton: NewtonSolver | None = None
        self._known_linear = False
        self._another_length_may_help = False
        self._has_told = False

    def linear(self, key: Key, at_zero: Array | None = None) -> None:
        """The state of a residual that is affine in it.

        Args:
            key: names the operator.
            at_zero: F(0, m), (owned,), where it is known already.

        Raises:
            SolveFailed: with the reason in words.
            BadProblem: when the residual only looks linear.
        """
        residual, u = self._residual, self._residual.state.x
        with self._operators.factor_here(key) as factor:
            u.array[:] = 0.0
            residual.boundary.apply(u.array)
            factor.rhs.array[:] = residual.residual_of_lifting(at_zero)
            self._operators.check_compatible(factor.rhs.array_r, factor)
            factor.solver.solve(factor.rhs, factor.solution)
            u.array[: residual.num_owned] -= factor.solution.array_r
            u.scatter_forward()
            if not self._known_linear:
                self._check_linear(factor)

    def _check_linear(self, factor: Factor) -> None:
        """Refuse a residual that with all its terms is not small at the state just found.

        A jump of a coefficient in the state, ``conditional(gt(u, 1), 5, 1)``, has no derivative that UFL could see, and
        looks linear to it.
        """
        residual = self._residual
        left, size = residual.norm(residual.residual()), residual.norm(factor.rhs.array_r)
        if left > _NOT_LINEAR * size:
            raise BadProblem(
                f"residual: it looks linear in the state {residual.state.name!r}, but the solution of the linear "
                f"equation leaves a residual of {left:.1e} (of {size:.1e} before). A coefficient that jumps with the "
                "state is not differentiable: smooth it"
            )
        # A right-hand side of zeros shows nothing.
        self._known_linear = size > 0.0

    def nonlinear(self, guess: Array) -> None:
        """The state by Newton's method, from local values; by the problem's continuation where that fails.

        Raises:
            SolveFailed: with all that was tried, in words.
        """
        try:
            self._by_newton(guess)
        except SolveFailed as failure:
            path, prefix = self._residual.problem.continuation, self._operators.prefix
            if path is None:
                raise SolveFailed(f"{failure}. {snes_advice(prefix)}, or a relax.Continuation") from failure
            self._continued(path, guess, failure)

    def _continued(self, path: Continuation, guess: Array, first: SolveFailed) -> None:
        """Stages of a geometric path; one that fails is cut in two.

        Raises:
            SolveFailed: where even short stages fail, with what the direct way failed of, too.
        """
        register = values_of(path.constant)
        wanted = float(register)
        length = np.log(wanted / path.easy)
        done, stage = 0.0, 1.0 / max(1.0, np.ceil(abs(length) / _STAGE))
        try:
            register[...] = path.easy
            self._by_newton(guess)
            state = self._residual.state.x.array.copy()
            while done < 1.0:
                ahead = min(1.0, done + stage)
                register[...] = wanted if ahead == 1.0 else path.easy * np.exp(ahead * length)
                try:
                    self._by_newton(state)
                except SolveFailed:
                    if abs(length) * stage < _SHORTEST:
                        raise
                    stage /= 2.0
                else:
                    done, state = ahead, self._residual.state.x.array.copy()
        except SolveFailed as failure:
            raise SolveFailed(
                f"{first}. Continuation from {path.easy:g} towards {wanted:g} failed, too, at {float(register):g}: "
                f"{failure}. {snes_advice(self._operators.prefix)}"
            ) from failure
        finally:
            register[...] = wanted

    def _by_newton(self, guess: Array) -> None:
        """With the line search; where that fails by full steps, unless the user has said how long steps are.

        A residual can have to grow before it falls: a beam that bends stretches first, and a penalty is far larger
        beside the root than at the guess.
        """
        operators = self._operators
        operators.check_open()
        try:
            self._newton_from(guess, operators.options)
        except SolveFailed as failure:
            if not self._another_length_may_help or self._steps_are_the_users():
                raise
            option = f"-{operators.prefix}snes_linesearch_type basic"
            try:
                self._newton_from(guess, {**operators.options, **FULL_STEPS})
            except SolveFailed as second:
                raise SolveFailed(f"{failure}. With full steps ({option}): {second}") from second
            # The next solve begins with the line search: what it finds is not to depend on what was solved before.
            self.close()
            if not self._has_told:
                self._has_told = True
                warn(f"{failure}. Full steps found the state; {option} saves the detour")

    def _steps_are_the_users(self) -> bool:
        keys = ("snes_type", "snes_linesearch_type")
        return any(key in self._operators.options for key in keys) or bool(user_options(self._operators.prefix, keys))

    def _newton_from(self, guess: Array, options: Options) -> None:
        operators = self._operators
        if self._newton is None:
            self._newton = NewtonSolver(self._residual, self._settings, operators, options)
        factor = operators.factors.take()
        try:
            self._newton.solve(factor, guess)
            factor.solver.tell_unread()
            if factor.matrix.assembled:
                operators.check_constants(factor)
            self._finish(factor, self._newton.size)
        except (SolveFailed, BadProblem) as failure:
            newton = self._newton
            reason = self._reason(factor, newton) if newton.failed_together else ""
            self._another_length_may_help = newton.failed_together and newton.has_stepped and not reason
            operators.factors.discard(factor)
            self.close()
            if reason:
                raise SolveFailed(f"{failure}. {reason}") from failure
            raise

    def _finish(self, factor: Factor, size: float) -> None:
        """Refuse a root of all but what no step changes; take out of the state what nothing tells of."""
        if factor.solver.deflation is None:
            return
        residual, u = self._residual, self._residual.state.x
        loose = max(1.0, self._settings.rtol / Newton.rtol)
        self._operators.check_steps(residual.residual(), size * loose, factor)
        u.array[: residual.num_owned] = self._operators.in_gauge(u.array[: residual.num_owned])
        u.scatter_forward()

    def _reason(self, factor: Factor, newton: NewtonSolver) -> str:
        """Why the last iterate may have been the last: a constant that nothing holds, rows of zeros. Collective."""
        if not np.isfinite(newton.first_norm):
            return (
                "At the first guess the residual is not finite: look for coefficients that are not, and for what is "
                "divided by zero there, such as the gradient of the state in a p-Laplacian with p below 2"
            )
        if not factor.matrix.assembled:
            return ""
        try:
            self._operators.check_constants(factor)
        except BadProblem as found:
            return f"At the last iterate, {found}"
        return "" if newton.has_stepped else flat_rows(factor.matrix)

    def close(self) -> None:
        """Free what PETSc holds. Before the operators: SNES holds a factor's matrix, whose communicator may go."""
        if self._newton is not None:
            self._newton.destroy()
            self._newton = None
