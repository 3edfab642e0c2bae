"""The solution of a stationary problem, F(u, m) = 0, and derivatives at the points where it was solved."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from relax.base.fem.blocks import hand_out, take_in
from relax.base.fem.expansion import held
from relax.base.fem.layout import ControlLayout
from relax.base.la.factors import Key
from relax.base.la.options import Options
from relax.base.types import Array
from relax.engine.explicit import ExplicitPart
from relax.engine.linearization import BLOCK, Derivatives
from relax.engine.residual.registers import Point
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator
from relax.engine.solve.newton import Newton
from relax.engine.solve.sensitivity import Sensitivity, solve_rows
from relax.engine.solve.state import ForwardSolver
from relax.errors import BadProblem
from relax.observe.base import Look, Observable, observed
from relax.problem.problem import Problem

Made = TypeVar("Made")
# A computation that asks for solutions, (k, owned), of right-hand sides (k, owned), of Aᵀ x = b or of A x = b.
Asking: TypeAlias = Generator[tuple[Array, bool], Array, Made]


class Stationary:
    """Solves a problem at control vectors. Collective, as are all methods.

    Args:
        problem: the PDE.
        observable: what is seen of the state.
        layout: of control vectors.
        counts: of solves, added to.
        settings: tolerances of Newton's method; memory for factors.
        options: PETSc options or the name of a preset.
    """

    def __init__(
        self,
        problem: Problem,
        observable: Observable,
        layout: ControlLayout,
        counts: dict[str, int],
        settings: Newton,
        options: Options | str | None,
    ) -> None:
        if observable.needs_steps:
            raise BadProblem("the observable looks at steps in time, and this problem has none: pass an Evolution")
        self.observable = observable
        self.layout = layout
        self.counts = counts
        self.explicit = ExplicitPart(observable, [(c, i) for i, c in enumerate(problem.controls)])
        self.residual = Residual(problem, observable.parameters)
        # Of an affine problem ∂F/∂m is the same everywhere: it is kept as matrices.
        self.residual.expect_gradients(
            [self.residual.is_affine] * len(problem.controls), from_zero=self.residual.is_linear
        )
        self.operators = FactoredOperator(self.residual, problem.name, settings.factor_memory, options)
        self.sensitivity = Sensitivity(self.residual)
        take_in(problem.state)
        self._guess = problem.state.x.array.copy()
        self.forward = ForwardSolver(self.residual, self.operators, settings)

    def values(self, rows: Array) -> Array:
        """Observations at several controls: (k, size_in) -> (k, size_out)."""
        if len(rows) > 1 and self.residual.goes_in_blocks:
            values = [value for _, value in self._affine_batch(rows)]
        else:
            values = []
            for row in rows:
                self._solve(row)
                values.append(self.observe())
        return np.array(values).reshape(len(rows), self.observable.size)

    def linearize(self, rows: Array) -> list[tuple[Derivatives, Array]]:
        """Derivatives and observations at several controls; one block solve where the residual is affine."""
        if len(rows) > 1 and self.residual.goes_in_blocks:
            return [(StationaryDerivatives(self, point), value) for point, value in self._affine_batch(rows)]
        return [(StationaryDerivatives(self, self._solve(row)), self.observe()) for row in rows]

    def present_parts(self) -> list[Array]:
        """What the controls hold now: owned values of a field, the entries of others. Collective."""
        return [held(control) for control in self.residual.controls]

    def observe(self) -> Array:
        hand_out(self.residual.state)
        return observed(self.observable, self.residual.state)

    def _solve(self, control: Array) -> Point:
        """Solve for the state; its register and the controls' hold the point afterwards."""
        residual = self.residual
        parts = self.layout.split(control)
        residual.registers.install_controls(parts)
        parameters = residual.parameters.snapshot()
        key = residual.parameters.operator_key if residual.operator_is_constant else Key()
        if residual.is_linear:
            self.forward.linear(key)
        else:
            self.forward.nonlinear(self._guess)
        self.counts["forward"] += 1
        # Of an affine problem ∂F/∂m is the same everywhere.
        lasting = (residual.parameters.everything_key,) * len(parts) if residual.is_affine else ()
        return Point(residual.state.x.array.copy(), parts, parameters, key, lasting)

    def _affine_batch(self, rows: Array) -> Iterator[tuple[Point, Array]]:
        """Points and values at several controls of an affine problem: u(m) = u(0) + u'(0) m, in block solves."""
        residual = self.residual
        base = self._solve(np.zeros(self.layout.size))
        for start in range(0, len(rows), BLOCK):
            block = [self.layout.split(row) for row in rows[start : start + BLOCK]]
            residual.state.x.array[:] = base.state
            with self.operators.factor_here(base.key) as factor:
                changes = self.sensitivity.state_tangents(base, block, factor)
            self.counts["forward"] += len(block)
            for parts, change in zip(block, changes, strict=True):
                residual.registers.install_controls(parts)
                u = residual.state.x
                u.array[: residual.num_owned] = base.state[: residual.num_owned] + change
                u.scatter_forward()
                yield Point(u.array.copy(), parts, base.parameters, base.key, base.lasting), self.observe()

    def close(self) -> None:
        """Free the factors and matrices."""
        self.forward.close()
        self.operators.close()
        self.sensitivity.destroy()
        self.residual.tied.destroy()


class StationaryDerivatives:
    """Derivatives at one solved point. Collective.

    With u the state, A = ∂F/∂u, B(u, m) the observable:

    - tangent: A du = -∂F/∂m dm, dy = ∂B/∂u du + ∂B/∂m dm;
    - adjoint: Aᵀ λ = (∂B/∂u)ᵀ dy, dm = (∂B/∂m)ᵀ dy - (∂F/∂m)ᵀ λ;
    - second-order adjoint: the derivative of the adjoint equation along (dm, du).

    Each is also there as a generator that hands out what is to be solved for and takes the solutions, so that others
    at the same operator can be solved for beside it. The registers hold the point whenever it goes on.
    """

    hessian_block = BLOCK

    def __init__(self, solution: Stationary, point: Point) -> None:
        self.solution = solution
        self.point = point
        # Adjoints by seed: the latest of a gradient, and the one that Hessian actions go on using.
        self._last_adjoint: tuple[Array, Array] | None = None
        self._hessian_adjoint: tuple[Array, Array] | None = None

    @property
    def is_everywhere_the_same(self) -> bool:
        """Whether the derivative is the same at every control: an affine problem seen linearly. Local."""
        solution = self.solution
        return solution.residual.is_affine and solution.observable.is_linear and not solution.explicit

    def tangents(self, directions: Array) -> Array:
        """G'(m) dm: (k, size_in) -> (k, size_out)."""
        return self._solved(self.asking_tangents([self.solution.layout.split(row) for row in directions]))

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (k, size_out) -> (k, size_in)."""
        return self.solution.layout.join(self._solved(self.asking_gradients(seeds)))

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (k, size_out), (l, size_in), (k,) -> (k, size_in).

        One tangent a direction, in one block solve, however many seeds share it.
        """
        layout = self.solution.layout
        parts = [layout.split(row) for row in directions]
        return layout.join(self._solved(self.asking_hessian_actions(seeds, parts, which)))

    def points(self) -> Generator[tuple[int, Key, list[Look]]]:
        """As ``PointsInSteps.points``."""
        with self.held():
            yield 1, self.point.key, self.solution.observable.looks(1)

    def held(self) -> AbstractContextManager[None]:
        """A block in which the registers hold this point."""
        return self.solution.residual.registers.holding(self.point)

    def _solved(self, asking: Asking[Made]) -> Made:
        """What a product makes, its questions answered by a factor of this point's own."""
        answers: Array | None = None
        with self.held(), self.solution.operators.factor_here(self.point.key, derivatives=True) as factor:
            while True:
                try:
                    rhs, adjoint = next(asking) if answers is None else asking.send(answers)
                except StopIteration as done:
                    made: Made = done.value
                    return made
                answers = solve_rows(factor, rhs, adjoint=adjoint)

    # -- generators ----------------------------------------------------------------------------------------------------

    def asking_tangents(self, directions: list[list[Array]]) -> Asking[Array]:
        """``tangents`` of directions in parts."""
        solution = self.solution
        registers = solution.residual.registers
        changes = yield from self._state_tangents(directions)
        result = np.empty((len(directions), solution.observable.size))
        for i in range(len(changes)):
            registers.install_state_tangent(changes[i])
            result[i] = solution.observable.tangent(registers.state, registers.tangent_state)
            result[i] += solution.explicit.tangent(registers.state, directions[i])
        return result

    def asking_gradients(self, seeds: Array) -> Asking[list[Array]]:
        """``gradients``, a part per control."""
        solution = self.solution
        state = solution.residual.state
        duals = np.array([solution.observable.adjoint(state, row) for row in seeds])
        adjoints = yield from self._adjoints(seeds, duals)
        parts = solution.sensitivity.gradients(self.point, adjoints, duals)
        for i in range(len(seeds)):
            for place, gradient in solution.explicit.gradients(state, seeds[i]):
                parts[place][i] += gradient
        return parts

    def asking_hessian_actions(
        self, seeds: Array, directions: list[list[Array]], which: npt.NDArray[np.int64]
    ) -> Asking[list[Array]]:
        """``hessian_actions`` of directions in parts, a part per control."""
        tangents = yield from self._state_tangents(directions)
        rows = []
        for i, k in enumerate(which):
            rows.append((yield from self._hessian_action(seeds[i], directions[k], tangents[k])))
        return [np.array(part) for part in zip(*rows, strict=True)]

    def _state_tangents(self, directions: list[list[Array]]) -> Asking[Array]:
        sensitivity = self.solution.sensitivity
        rhs, lifts = sensitivity.tangent_sources(self.point, directions)
        solutions = yield rhs, False
        self.solution.counts["tangent"] += len(directions)
        return sensitivity.tangents_of(solutions, lifts)

    def _adjoints(self, seeds: Array, duals: Array) -> Asking[Array]:
        """λ for each seed; the latest single one is remembered, for Hessian actions with the same seed."""
        sensitivity = self.solution.sensitivity
        adjoints = sensitivity.adjoints_of((yield sensitivity.adjoint_sources(duals), True))
        self.solution.counts["adjoint"] += len(seeds)
        if len(seeds) == 1:
            self._last_adjoint = (seeds[0].copy(), adjoints[0].copy())
        return adjoints

    def _adjoint_of(self, seed: Array) -> Asking[Array]:
        # Seeds are rank 0's on every rank, so that all ranks agree whether this one is known.
        for known in (self._hessian_adjoint, self._last_adjoint):
            if known is not None and np.array_equal(known[0], seed):
                self._hessian_adjoint = known
                return known[1]
        dual = self.solution.observable.adjoint(self.solution.residual.state, seed)
        adjoints = yield from self._adjoints(seed[None, :], dual[None, :])
        self._hessian_adjoint = (seed.copy(), adjoints[0])
        return self._hessian_adjoint[1]

    def _hessian_action(self, seed: Array, direction: list[Array], du: Array) -> Asking[list[Array]]:
        solution = self.solution
        residual, registers, sensitivity = solution.residual, solution.residual.registers, solution.sensitivity
        lam = yield from self._adjoint_of(seed)
        registers.install_tangent(direction)
        registers.install_state_tangent(du)
        registers.install_adjoint(lam)
        explicit, at = solution.explicit, (residual.state, seed, registers.tangent_state)
        curved = solution.observable.second(*at) + explicit.second_state(*at, direction)
        rhs = curved - residual.second_state_source()
        changes = sensitivity.adjoints_of((yield sensitivity.adjoint_sources(rhs[None, :]), True))
        registers.install_second_adjoint(changes[0])
        solution.counts["adjoint"] += 1
        dual = None if residual.boundary.is_affine else solution.observable.adjoint(residual.state, seed)
        parts = [-part for part in residual.second_gradient(dual, curved)]
        for place, gradient in explicit.second_gradients(*at, direction):
            parts[place] += gradient
        return parts
