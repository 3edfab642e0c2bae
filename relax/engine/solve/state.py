"""From a control to a state: one linear solve, or Newton's method."""

from __future__ import annotations

import numpy as np

from relax.base.fem.forms import values_of
from relax.base.la.factors import Factor, Key
from relax.base.la.options import (
    FULL_STEPS,
    Options,
    snes_advice,
    user_options,
)
from relax.base.log import warn
from relax.base.types import Array
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator, Unbalanced
from relax.engine.solve.kernel import flat_rows
from relax.engine.solve.newton import Newton, NewtonSolver
from relax.errors import BadInput, BadProblem, SolveFailed
from relax.problem.continuation import Continuation

# Far above what a linear solver may leave, far below what a term leaves that was overlooked.
_NOT_LINEAR = 1e-2
# The logarithm of the ratio between stages of a continuation: at first, and when to give up.
_STAGE = float(np.log(4.0))
_SHORTEST = 0.02


class ForwardSolver:
    """Solves F(u, m) = 0 for the controls that the registers hold. Collective, as are all methods.

    Args:
        residual: the residual; its state's register holds the solution afterwards.
        operators: the factors.
        settings: of Newton's method.

    Raises:
        BadInput: for options that ask for a state between bounds.
    """

    def __init__(self, residual: Residual, operators: FactoredOperator, settings: Newton) -> None:
        self._residual = residual
        self._operators = operators
        self._settings = settings
        self._newton: NewtonSolver | None = None
        self._known_linear = False
        self._another_length_may_help = False
        self._has_told = False
        # A linear equation is solved without SNES, which would not be asked.
        asked = {**operators.options, **user_options(operators.prefix, ("snes_type",))}
        if (kind := str(asked.get("snes_type"))).startswith("vi"):
            raise BadInput(
                f"options: -{operators.prefix}snes_type {kind} solves for a state between bounds (a variational "
                "inequality), and a Problem has none: expected newtonls or another method for equations; for bounds "
                "add a penalty to the residual"
            )

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
        except Unbalanced:
            raise
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
