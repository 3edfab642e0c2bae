"""States from installed registers: a linear solve with a kept factor, or Newton's method."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from relax.continuation import Continuation
from relax.errors import SolveFailed
from relax.factors import Key
from relax.forms import values_of
from relax.operators import Operators
from relax.residual import Residual
from relax.solver import Newton, NewtonSolver, check_linear, solve_linear

Array = npt.NDArray[np.float64]

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

    def __init__(self, residual: Residual, operators: Operators, settings: Newton) -> None:
        self._residual = residual
        self._operators = operators
        self._settings = settings
        self._newton: NewtonSolver | None = None
        self._known_linear = False

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
            solve_linear(self._residual, factor, at_zero)
            if not self._known_linear:
                self._known_linear = check_linear(self._residual, factor)

    def nonlinear(self, guess: Array) -> None:
        """The state by Newton's method, from local values; by the problem's continuation where that fails.

        Raises:
            SolveFailed: with the reason in words.
        """
        try:
            self._by_newton(guess)
        except SolveFailed as failure:
            path = self._residual.problem.continuation
            if path is None:
                raise
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
                f"{failure}"
            ) from failure
        finally:
            register[...] = wanted

    def _by_newton(self, guess: Array) -> None:
        operators = self._operators
        operators.check_open()
        if self._newton is None:
            self._newton = NewtonSolver(self._residual, self._settings, operators.prefix, operators.options)
        factor = operators.factors.take()
        try:
            self._newton.solve(factor, guess)
        except SolveFailed:
            operators.factors.discard(factor)
            self.close()
            raise

    def close(self) -> None:
        """Free what PETSc holds. Before the operators: SNES holds a factor's matrix, whose communicator may go."""
        if self._newton is not None:
            self._newton.destroy()
            self._newton = None
