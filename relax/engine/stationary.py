"""The solution of a stationary problem, F(u, m) = 0, and derivatives at the points where it was solved."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from relax.base.fem.blocks import hand_out, take_in
from relax.base.fem.expansion import held
from relax.base.fem.layout import ControlLayout
from relax.base.la.factors import Factor, Key
from relax.base.la.options import Options
from relax.base.types import Array
from relax.engine.explicit import ExplicitPart
from relax.engine.linearization import BLOCK, Derivatives
from relax.engine.residual.registers import Point
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator
from relax.engine.solve.newton import Newton
from relax.engine.solve.sensitivity import Sensitivity
from relax.engine.solve.state import ForwardSolver
from relax.errors import BadProblem
from relax.observe.base import Look, Observable, observed
from relax.problem.problem import Problem


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
        self._forward = ForwardSolver(self.residual, self.operators, settings)

    def values(self, rows: Array) -> Array:
        """Observations at several controls: (k, size_in) -> (k, size_out)."""
        if len(rows) > 1 and self.residual.goes_in_blocks:
            values = [value for _, value in self._affine_batch(rows)]
        else:
            values = []
            for row in rows:
                self._solve(row)
                values.append(self._observe())
        return np.array(values).reshape(len(rows), self.observable.size)

    def linearize(self, rows: Array) -> list[tuple[Derivatives, Array]]:
        """Derivatives and observations at several controls; one block solve where the residual is affine."""
        if len(rows) > 1 and self.residual.goes_in_blocks:
            return [(StationaryDerivatives(self, point), value) for point, value in self._affine_batch(rows)]
        return [(StationaryDerivatives(self, self._solve(row)), self._observe()) for row in rows]

    def present_parts(self) -> list[Array]:
        """What the controls hold now: owned values of a field, the entries of others. Collective."""
        return [held(control) for control in self.residual.controls]

    def _observe(self) -> Array:
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
            self._forward.linear(key)
        else:
            self._forward.nonlinear(self._guess)
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
                yield Point(u.array.copy(), parts, base.parameters, base.key, base.lasting), self._observe()

    def close(self) -> None:
        """Free the factors and matrices."""
        self._forward.close()
        self.operators.close()
        self.sensitivity.destroy()
        self.residual.tied.destroy()


class StationaryDerivatives:
    """Derivatives at one solved point. Collective.

    With u the state, A = ∂F/∂u, B(u, m) the observable:

    - tangent: A du = -∂F/∂m dm, dy = ∂B/∂u du + ∂B/∂m dm;
    - adjoint: Aᵀ λ = (∂B/∂u)ᵀ dy, dm = (∂B/∂m)ᵀ dy - (∂F/∂m)ᵀ λ;
    - second-order adjoint: the derivative of the adjoint equation along (dm, du).
    """

    hessian_block = BLOCK

    def __init__(self, solution: Stationary, point: Point) -> None:
        self._solution = solution
        self._point = point
        # Adjoints by seed: the latest of a gradient, and the one that Hessian actions go on using.
        self._last_adjoint: tuple[Array, Array] | None = None
        self._hessian_adjoint: tuple[Array, Array] | None = None

    @property
    def is_everywhere_the_same(self) -> bool:
        """Whether the derivative is the same at every control: an affine problem seen linearly. Local."""
        solution = self._solution
        return solution.residual.is_affine and solution.observable.is_linear and not solution.explicit

    def tangents(self, directions: Array) -> Array:
        """G'(m) dm: (k, size_in) -> (k, size_out)."""
        solution = self._solution
        registers = solution.residual.registers
        with self._installed() as factor:
            parts = [solution.layout.split(row) for row in directions]
            changes = solution.sensitivity.state_tangents(self._point, parts, factor)
            result = np.empty((len(directions), solution.observable.size))
            for i in range(len(changes)):
                registers.install_state_tangent(changes[i])
                result[i] = solution.observable.tangent(registers.state, registers.tangent_state)
                result[i] += solution.explicit.tangent(registers.state, parts[i])
        solution.counts["tangent"] += len(directions)
        return result

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (k, size_out) -> (k, size_in)."""
        solution = self._solution
        with self._installed() as factor:
            state = solution.residual.state
            duals = np.array([solution.observable.adjoint(state, row) for row in seeds])
            adjoints = self._adjoints(seeds, duals, factor)
            parts = solution.sensitivity.gradients(self._point, adjoints, duals)
            for i in range(len(seeds)):
                for place, gradient in solution.explicit.gradients(state, seeds[i]):
                    parts[place][i] += gradient
            return solution.layout.join(parts)

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (k, size_out), (l, size_in), (k,) -> (k, size_in).

        One tangent a direction, in one block solve, however many seeds share it.
        """
        solution = self._solution
        result = np.empty((len(seeds), solution.layout.size))
        with self._installed() as factor:
            parts = [solution.layout.split(row) for row in directions]
            tangents = solution.sensitivity.state_tangents(self._point, parts, factor)
            solution.counts["tangent"] += len(parts)
            for i, k in enumerate(which):
                result[i] = self._hessian_action(factor, seeds[i], parts[k], tangents[k])
        return result

    def points(self) -> Generator[tuple[int, Key, list[Look]]]:
        """As ``PointsInSteps.points``."""
        with self._solution.residual.registers.holding(self._point):
            yield 1, self._point.key, self._solution.observable.looks(1)

    @contextmanager
    def _installed(self) -> Iterator[Factor]:
        """Registers hold this point within the block, and its operator is factored."""
        point, solution = self._point, self._solution
        with (
            solution.residual.registers.holding(point),
            solution.operators.factor_here(point.key, derivatives=True) as factor,
        ):
            yield factor

    def _adjoints(self, seeds: Array, duals: Array, factor: Factor) -> Array:
        """λ for each seed; the latest single one is remembered, for Hessian actions with the same seed."""
        adjoints = self._solution.sensitivity.adjoints(duals, factor)
        self._solution.counts["adjoint"] += len(seeds)
        if len(seeds) == 1:
            self._last_adjoint = (seeds[0].copy(), adjoints[0].copy())
        return adjoints

    def _adjoint_of(self, seed: Array, factor: Factor) -> Array:
        # Seeds are rank 0's on every rank, so that all ranks agree whether this one is known.
        for known in (self._hessian_adjoint, self._last_adjoint):
            if known is not None and np.array_equal(known[0], seed):
                self._hessian_adjoint = known
                return known[1]
        dual = self._solution.observable.adjoint(self._solution.residual.state, seed)
        self._hessian_adjoint = (seed.copy(), self._adjoints(seed[None, :], dual[None, :], factor)[0])
        return self._hessian_adjoint[1]

    def _hessian_action(self, factor: Factor, seed: Array, direction: list[Array], du: Array) -> Array:
        solution = self._solution
        residual = solution.residual
        lam = self._adjoint_of(seed, factor)
        registers = residual.registers
        registers.install_tangent(direction)
        registers.install_state_tangent(du)
        registers.install_adjoint(lam)
        explicit, at = solution.explicit, (residual.state, seed, registers.tangent_state)
        curved = solution.observable.second(*at) + explicit.second_state(*at, direction)
        rhs = curved - residual.second_state_source()
        registers.install_second_adjoint(solution.sensitivity.adjoints(rhs[None, :], factor)[0])
        solution.counts["adjoint"] += 1
        dual = None if residual.boundary.is_affine else solution.observable.adjoint(residual.state, seed)
        parts = [-part for part in residual.second_gradient(dual, curved)]
        for place, gradient in explicit.second_gradients(*at, direction):
            parts[place] += gradient
        return solution.layout.join(parts)
