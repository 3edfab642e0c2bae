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
from relax.engine.solve.newton import Newton, NewtonSolver, steps_are_chosen
from relax.errors import BadInput, BadProblem, SolveFailed
from relax.problem.continuation import Continuation

# Far above what a linear solver may leave, far below what a term leaves that was overlooked.
_NOT_LINEAR = 1e-2
# The logarithm of the ratio between stages of a continuation: at first, and when to give up.
_STAGE = float(np.log(4.0))
_SHORTEST = 0.02
# Stages of a growing residual, as parts of it: at first, and when to give up; and how many full steps one may take.
_PART, _SMALLEST_PART = 0.25, 0.01
_STEPS_OF_A_PART = 15


class _NoLength(SolveFailed):
    """Newton's method failed with a line search and with full steps, and not for want of steps alone."""


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
        self._another_length_may_help = self._ran_out = False
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
        with self._operators.factor_here(key) as factor:
            factor.rhs.array[:] = self.source(factor, at_zero)
            factor.solver.solve(factor.rhs, factor.solution)
            self.accept(factor.solution.array_r, factor.rhs.array_r)

    def source(self, factor: Factor, at_zero: Array | None = None) -> Array:
        """F(u_0, m), b of A x = b: (owned,), where u_0 is the given values and zero elsewhere. The state is u_0 - x.

        Args:
            factor: of the operator, which may be that of another residual with the same one.
            at_zero: as ``linear`` has it.

        Raises:
            SolveFailed: where no state makes the residual zero.
        """
        residual, u = self._residual, self._residual.state.x
        u.array[:] = 0.0
        residual.tied.install_given(residual.state)
        rhs = residual.residual_of_lifting(at_zero).copy()
        self._operators.check_compatible(rhs, factor)
        return rhs

    def accept(self, solution: Array, rhs: Array) -> None:
        """Take x, (owned,), for the state, where its register holds what ``source`` has left there.

        Args:
            solution: x.
            rhs: b.

        Raises:
            BadProblem: when the residual only looks linear.
        """
        residual, u = self._residual, self._residual.state.x
        u.array[: residual.num_owned] -= residual.tied.extended(solution[None])[0]
        u.scatter_forward()
        if not self._known_linear:
            self._check_linear(rhs)

    def _check_linear(self, rhs: Array) -> None:
        """Refuse a residual that with all its terms is not small at the state just found.

        A jump of a coefficient in the state, ``conditional(gt(u, 1), 5, 1)``, has no derivative that UFL could see, and
        looks linear to it.
        """
        residual = self._residual
        left, size = residual.norm(residual.residual()), residual.norm(rhs)
        if left > _NOT_LINEAR * size:
            raise BadProblem(
                f"residual: it looks linear in the state {residual.state.name!r}, but the solution of the linear "
                f"equation leaves a residual of {left:.1e} (of {size:.1e} before). A coefficient that jumps with the "
                "state is not differentiable: smooth it"
            )
        # A right-hand side of zeros shows nothing.
        self._known_linear = size > 0.0

    def nonlinear(self, guess: Array) -> None:
        """The state by Newton's method, from local values; where that fails by the problem's continuation, or a path.

        Raises:
            SolveFailed: with all that was tried, in words.
        """
        try:
            self._by_newton(guess)
        except Unbalanced:
            raise
        except SolveFailed as failure:
            path = self._residual.problem.continuation
            if path is not None:
                self._continued(path, guess, failure)
            elif isinstance(failure, _NoLength):
                self._grown(guess, failure)
            else:
                raise self._advised(failure) from failure

    def _advised(self, failure: object) -> SolveFailed:
        return SolveFailed(f"{failure}. {snes_advice(self._operators.prefix)}, or a relax.Continuation")

    def _grown(self, guess: Array, first: SolveFailed) -> None:
        """The path F(u) = (1 - t) F(guess) from t = 0 to 1, by full steps; a stage that fails is cut in two.

        From a state at rest it is that of loads which grow from nothing.

        Raises:
            SolveFailed: where even short stages fail, with what was tried before, too.
        """
        residual, u = self._residual, self._residual.state.x
        most = min(_STEPS_OF_A_PART, self._settings.max_steps)
        options = {**self._operators.options, **FULL_STEPS, "snes_max_it": most}
        u.array[:] = guess
        residual.tied.install_given(residual.state)
        u.scatter_forward()
        at_first = residual.residual().copy()
        done, stage, state = 0.0, _PART, guess
        while done < 1.0:
            ahead = min(1.0, done + stage)
            try:
                self._newton_from(state, options, (1.0 - ahead) * at_first)
            except SolveFailed as failure:
                if isinstance(failure, Unbalanced):
                    raise
                if stage < _SMALLEST_PART:
                    raise self._advised(
                        f"{first}. Where the residual at the guess goes down, as if loads grew, there was a state with "
                        f"{done:.0%} of them and none soon after: {failure}"
                    ) from failure
                stage /= 2.0
            else:
                done, state = ahead, u.array.copy()
        self.close()
        self._tell(f"{first}. A state was found as if loads grew from nothing; a guess near it saves the detour")

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
            if not self._another_length_may_help or steps_are_chosen(operators.prefix, operators.options):
                raise
            too_few = self._ran_out
            option = f"-{operators.prefix}snes_linesearch_type basic"
            try:
                self._newton_from(guess, {**operators.options, **FULL_STEPS})
            except SolveFailed as second:
                words = f"{failure}. With full steps ({option}): {second}"
                # Who allows few steps is not to wait for those of a path.
                raise (SolveFailed if too_few and self._ran_out else _NoLength)(words) from second
            # The next solve begins with the line search: what it finds is not to depend on what was solved before.
            self.close()
            self._tell(f"{failure}. Full steps found the state; {option} saves the detour")

    def _tell(self, words: str) -> None:
        if not self._has_told:
            self._has_told = True
            warn(words)

    def _newton_from(self, guess: Array, options: Options, shift: Array | float = 0.0) -> None:
        operators = self._operators
        if self._newton is None:
            self._newton = NewtonSolver(self._residual, self._settings, operators, options)
        factor = operators.factors.take()
        try:
            self._newton.solve(factor, guess, shift)
            if self._newton.has_operator:
                factor.solver.tell_unread()
                operators.check_constants(factor)
            self._finish(factor, self._newton)
        except (SolveFailed, BadProblem) as failure:
            newton = self._newton
            reason = self._reason(factor, newton) if newton.failed_together else ""
            self._ran_out = newton.ran_out
            self._another_length_may_help = newton.failed_together and newton.has_stepped and not reason
            operators.factors.discard(factor)
            self.close()
            if reason:
                raise SolveFailed(f"{failure}. {reason}") from failure
            raise

    def _finish(self, factor: Factor, newton: NewtonSolver) -> None:
        """Refuse a root of all but what no step changes; take out of the state what nothing tells of."""
        if factor.solver.deflation is None:
            return
        residual, u = self._residual, self._residual.state.x
        loose = max(1.0, self._settings.rtol / Newton.rtol)
        self._operators.check_steps(newton.left(), newton.size * loose, factor)
        u.array[: residual.num_owned] = self._operators.in_gauge(u.array[: residual.num_owned])
        u.scatter_forward()

    def _reason(self, factor: Factor, newton: NewtonSolver) -> str:
        """Why the last iterate may have been the last: a constant that nothing holds, rows of zeros. Collective."""
        if not np.isfinite(newton.first_norm):
            return (
                "At the first guess the residual is not finite: look for coefficients that are not, and for what is "
                "divided by zero there, such as the gradient of the state in a p-Laplacian with p below 2"
            )
        if not newton.has_operator:
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
