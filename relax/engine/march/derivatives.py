"""Tangents, adjoints and Hessian actions through time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.base.log import LongRun
from relax.base.types import Array
from relax.engine.march.plan import Run, expanded
from relax.engine.march.runs import Runs
from relax.engine.march.storage import Walk
from relax.engine.residual.registers import Point
from relax.errors import SolveFailed


class MarchDerivatives:
    """Derivatives at one run. Collective.

    With A_n = ∂F/∂u_n, C_n = ∂F/∂u_{n-1} and M_n = ∂F/∂m in step n, and B_n what is seen at step n:

    - tangent: A_n du_n = -C_n du_{n-1} - M_n dm, forwards from du_0;
    - adjoint: A_nᵀ λ_n = b_n, b_n = B_n'ᵀ dy - C_{n+1}ᵀ λ_{n+1}, backwards; the gradient is -Σ M_nᵀ λ_n, b_0 in u_0;
    - second order: the derivative of the adjoint along (du_n, dm), on a walk that carries du_n with u_n.
    """

    #: Tangents are held along the whole trajectory.
    hessian_block = 8

    def __init__(self, runs: Runs, run: Run, walk: Walk | None = None) -> None:
        self._runs = runs
        self._run = run
        self._given = walk

    @property
    def _walk(self) -> Walk:
        assert self._given is not None, "without a walk there are tangents along a run, step by step, alone"
        return self._given

    @property
    def is_everywhere_the_same(self) -> bool:
        """Whether the derivative is the same at every control: affine steps seen linearly. Local."""
        return self._runs.residual.is_affine and self._runs.observation.is_linear

    # -- first order ---------------------------------------------------------------------------------------------------

    def tangents(self, directions: Array) -> Array:
        """G'(m) dm: (k, size_in) -> (k, size_out)."""
        runs, observation = self._runs, self._runs.observation
        changes = np.zeros((len(directions), observation.size))
        with self._parameters():
            parts = [runs.layout.split(row) for row in directions]
            du = self.initial_tangents(parts)
            before = self._run.initial
            for n, state in self._walk.records():
                if n > 0:
                    du = self.advance(n - 1, before, state, du, parts)
                observation.add_tangents(n, state, du, changes)
                before = state
        return changes

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (k, size_out) -> (k, size_in)."""
        runs, observation = self._runs, self._runs.observation
        with self._parameters():
            duals: Array = np.zeros((len(seeds), runs.residual.num_owned))
            total = _Total(runs, len(seeds))
            for n, before, after in self._told(self._walk.backward()):
                observation.add_adjoints(n + 1, after, seeds, duals)
                with self._step(n, before, after) as point:
                    adjoints = self._adjoints(point, duals)
                    gradients = runs.system.sensitivity.gradients(point, adjoints, duals)
                duals = gradients[0]
                total.add(n, gradients)
            observation.add_adjoints(0, self._run.initial, seeds, duals)
            total.add_initial(self._of_initial(duals))
            runs.note(self._walk)
            return total.joined()

    def initial_tangents(self, parts: list[list[Array]]) -> Array:
        """du_0 for each direction: (k, local)."""
        place = self._runs.system.plan.initial
        if place is None:
            return np.zeros((len(parts), len(self._run.initial)))
        changes = np.array([of_direction[place] for of_direction in parts]).reshape(len(parts), -1)
        substitution = self._runs.evolution.substitution
        return changes if substitution is None else changes * substitution.unknown_slope(self._run.parts[place])

    def _of_initial(self, duals: Array) -> Array:
        """What arrives at the start as dual vectors of the initial state that is given: (k, owned). Local."""
        place, substitution = self._runs.system.plan.initial, self._runs.evolution.substitution
        if place is None or substitution is None:
            return duals
        return duals * substitution.unknown_slope(self._run.parts[place])[: duals.shape[1]]

    def _bent_initial(self, duals: Array, parts: list[list[Array]], which: npt.NDArray[np.int64]) -> Array | float:
        """What the curvature of a substitution at the start adds, along directions[which]: (k, owned). Local."""
        place, substitution = self._runs.system.plan.initial, self._runs.evolution.substitution
        if place is None or substitution is None:
            return 0.0
        directions = np.array([parts[k][place] for k in which])
        bent: Array = (directions * substitution.unknown_curvature(self._run.parts[place]))[:, : duals.shape[1]]
        return duals * bent

    def advance(
        self,
        n: int,
        before: Array,
        after: Array,
        du: Array,
        parts: list[list[Array]],
        *,
        counted_as: str = "tangent",
    ) -> Array:
        """du_{n+1} from du_n, (k, local), at a step whose two states are known."""
        runs = self._runs
        plan = runs.system.plan
        with self._step(n, before, after) as point:
            directions: list[list[Array]] = [[du[i], *plan.of_step(p, n)] for i, p in enumerate(parts)]
            with runs.system.operators.factor_here(point.key, derivatives=True) as factor:
                owned = runs.system.sensitivity.state_tangents(point, directions, factor)
        runs.counts[counted_as] += len(du)
        result = np.empty((len(du), len(after)))
        registers = runs.system.registers
        for i in range(len(du)):
            registers.install_state_tangent(owned[i])
            result[i] = registers.tangent_state.x.array
        return result

    def _adjoints(self, point: Point, duals: Array) -> Array:
        """λ_n for each dual vector of u_n: (k, owned)."""
        runs = self._runs
        with runs.system.operators.factor_here(point.key, derivatives=True) as factor:
            adjoints = runs.system.sensitivity.adjoints(duals, factor)
        runs.counts["adjoint"] += len(duals)
        return adjoints

    # -- the adjoint state itself --------------------------------------------------------------------------------------

    def momenta(self, seed: Array) -> Iterator[tuple[int, Array]]:
        """(n, d(dy · y)/du_n) for n = N, ..., 0, as ``Linearization.momenta``."""
        runs, observation = self._runs, self._runs.observation
        whole = SpaceLayout(runs.evolution.state.function_space).gather if runs.layout.kind == "replicated" else np.copy
        seeds = seed[None, :]
        duals: Array = np.zeros((1, runs.residual.num_owned))
        steps = self._walk.backward()
        while True:
            # The parameters are the user's while he looks at a momentum.
            with self._parameters():
                step = next(steps, None)
                if step is None:
                    break
                n, before, after = step
                observation.add_adjoints(n + 1, after, seeds, duals)
            yield n + 1, whole(self._of_state(duals[0], after))
            with self._parameters(), self._step(n, before, after) as point:
                duals = runs.system.sensitivity.gradients(point, self._adjoints(point, duals), duals, which=(0,))[0]
        with self._parameters():
            observation.add_adjoints(0, self._run.initial, seeds, duals)
        runs.note(self._walk)
        yield 0, whole(self._of_state(duals[0], self._run.initial))

    def _of_state(self, dual: Array, unknown: Array) -> Array:
        """A dual vector of what the steps solve for as one of the state: (owned,). Local."""
        substitution = self._runs.evolution.substitution
        if substitution is None:
            return dual
        return dual * substitution.unknown_slope(substitution.state(unknown))[: len(dual)]

    def momentum_gaps(self, seed: Array, direction: Array) -> Array:
        """How far p_n · du_n is, at each step, from what the step before and the controls make of it: (N + 1,).

        The discrete adjoint has p_{n+1} · du_{n+1} = (p_n - b_n) · du_n + g_n · dm, with b_n what is seen at step n and
        g_n the gradient in the controls of the step; and b_n · du_n is the tangent of what is seen. Relative to the
        largest |p_n| |du_n|.
        """
        runs, observation = self._runs, self._runs.observation
        seeds, N, comm = seed[None, :], runs.evolution.num_steps, runs.residual.comm
        duals: Array = np.zeros((1, runs.residual.num_owned))
        # Sums over ranks, taken at the end: of the step, of what is seen; |p|², |du|².
        terms = np.zeros((N + 1, 4))
        shown = np.zeros(N + 1)

        def see(n: int, record: Array) -> None:
            without = duals[0].copy()
            observation.add_adjoints(n, record[0], seeds, duals)
            change = np.zeros((1, observation.size))
            observation.add_tangents(n, record[0], record[1:], change)
            du = record[1][: duals.shape[1]]
            terms[n, 1] = (duals[0] - without) @ du
            shown[n] = seed @ change[0]
            terms[n, 2:] = duals[0] @ duals[0], du @ du

        with self._parameters():
            parts = [runs.layout.split(direction)]
            walk = self._walk_with_tangents(parts)
            for n, before, after in walk.backward():
                see(n + 1, after)
                with self._step(n, before[0], after[0]) as point:
                    gradients = runs.system.sensitivity.gradients(point, self._adjoints(point, duals), duals)
                owned = duals.shape[1]
                terms[n + 1, 0] = duals[0] @ after[1][:owned] - gradients[0][0] @ before[1][:owned]
                controls = zip(runs.residual.controls[1:], gradients[1:], strict=True)
                for part, (control, gradient) in zip(runs.system.plan.of_step(parts[0], n), controls, strict=True):
                    # A number's gradient is whole on every rank.
                    if isinstance(control, fem.Function) or comm.rank == 0:
                        terms[n + 1, 0] -= gradient[0] @ part[: gradient.shape[1]]
                duals = gradients[0]
            see(0, walk.first)
        summed = parallel.sum_over_ranks(comm, terms)
        sizes = np.sqrt(summed[:, 2] * summed[:, 3])
        gaps = np.abs(summed[:, 0]) + np.abs(summed[:, 1] - shown)
        return gaps / max(float(sizes.max()), 1e-300)

    # -- second order --------------------------------------------------------------------------------------------------

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (k, size_out), (l, size_in), (k,) -> (k, size_in)."""
        runs, observation = self._runs, self._runs.observation
        sensitivity = runs.system.sensitivity
        is_curved = not runs.residual.is_affine or runs.evolution.substitution is not None
        with self._parameters():
            parts = [runs.layout.split(row) for row in directions]
            walk = self._walk_with_tangents(parts)
            duals: Array = np.zeros((len(seeds), runs.residual.num_owned))
            second: Array = np.zeros_like(duals)
            total = _Total(runs, len(seeds))
            for n, before, after in self._told(walk.backward()):
                observation.add_seconds(n + 1, after[0], seeds, after[1:][which], second)
                # Looks take the state's register for themselves: all of them come before the step is installed.
                if is_curved:
                    observation.add_adjoints(n + 1, after[0], seeds, duals)
                with self._step(n, before[0], after[0]) as point:
                    if not is_curved:
                        # The steps have no curvature: only that of the observation is carried back.
                        gradients = sensitivity.gradients(point, self._adjoints(point, second), second)
                    else:
                        adjoints = self._adjoints(point, duals)
                        steps = [[before[1 + i], *runs.system.plan.of_step(p, n)] for i, p in enumerate(parts)]
                        gradients = self._second_step(point, adjoints, duals, second, after[1:], steps, which)
                        duals = sensitivity.gradients(point, adjoints, duals, which=(0,))[0]
                second = gradients[0]
                total.add(n, gradients)
            first = walk.first
            observation.add_seconds(0, first[0], seeds, first[1:][which], second)
            observation.add_adjoints(0, first[0], seeds, duals)
            total.add_initial(self._of_initial(second) + self._bent_initial(duals, parts, which))
            runs.note(walk)
            return total.joined()

    def _walk_with_tangents(self, parts: list[list[Array]]) -> Walk:
        """A walk whose records are a state and its tangents, (1 + l, local), gone forwards once."""
        runs, run = self._runs, self._run

        def advance(n: int, record: Array) -> Array:
            state = self._walk.held(n + 1)
            if state is None:
                state = runs.advance(run, n, record[0])
            return np.vstack([state[None, :], self.advance(n, record[0], state, record[1:], parts)])

        first = np.vstack([run.initial[None, :], self.initial_tangents(parts)])
        walk = runs.storage.walk(first, advance)
        walk.forward(lambda n, record: None)
        return walk

    def _second_step(
        self,
        point: Point,
        adjoints: Array,
        duals: Array,
        second: Array,
        tangents: Array,
        steps: list[list[Array]],
        which: npt.NDArray[np.int64],
    ) -> list[Array]:
        """The derivative of one step's gradients: a part per control of the step, ``previous`` first, (k, ·) each.

        Args:
            point: the step.
            adjoints: λ, (k, owned).
            duals: the dual vectors behind λ, (k, owned).
            second: their derivatives, (k, owned).
            tangents: du, (l, local).
            steps: dm of this step, ``previous`` first, for each of the l directions.
            which: the direction of each row.
        """
        runs = self._runs
        residual = runs.residual
        rhs = second.copy()
        for i, k in enumerate(which):
            self._install_second(adjoints[i], tangents[k], steps[k])
            rhs[i] -= residual.second_state_source()
        changes = self._adjoints(point, rhs)
        rows = []
        for i, k in enumerate(which):
            self._install_second(adjoints[i], tangents[k], steps[k])
            residual.registers.install_second_adjoint(changes[i])
            rows.append(residual.second_gradient(duals[i], second[i]))
        return [-np.array(of_control) for of_control in zip(*rows, strict=True)]

    def _install_second(self, adjoint: Array, du: Array, dm: list[Array]) -> None:
        registers = self._runs.system.registers
        registers.install_tangent(dm)
        registers.tangent_state.x.array[:] = du
        registers.install_adjoint(adjoint)

    # -- where we are --------------------------------------------------------------------------------------------------

    def _told(self, steps: Iterator[tuple[int, Array, Array]]) -> Iterator[tuple[int, Array, Array]]:
        """The steps of a walk backwards, with a word now and then about how far it has come."""
        evolution = self._runs.evolution
        with LongRun(f"{evolution.name}: adjoint steps", evolution.num_steps) as progress:
            for n, before, after in steps:
                yield n, before, after
                progress.reached(evolution.num_steps - n)

    @contextmanager
    def _parameters(self) -> Iterator[None]:
        """Parameters are those of the run within the block, and the user's again after it."""
        system = self._runs.system
        with system.registers.lent():
            system.begin(self._run)
            try:
                yield
            finally:
                system.end()

    @contextmanager
    def _step(self, n: int, before: Array, after: Array) -> Iterator[Point]:
        """Registers hold the step from u_n to u_{n+1}; a solve that fails within the block says where."""
        evolution = self._runs.evolution
        try:
            yield self._runs.system.install(self._run, n, before, after)
        except SolveFailed as failure:
            raise SolveFailed(f"{evolution.name}: derivatives at {evolution.place(n + 1)}: {failure}") from failure


class _Total:
    """Gradients of all steps, summed up by control."""

    def __init__(self, runs: Runs, rows: int) -> None:
        self._runs = runs
        self._rows = rows
        self._parts: list[Array | None] = [None] * len(expanded(runs.evolution))

    def _put(self, place: int, part: Array) -> None:
        known = self._parts[place]
        self._parts[place] = part if known is None else known + part

    def add(self, n: int, gradients: list[Array]) -> None:
        """The parts of the step from u_n to u_{n+1}, ``previous`` first, which goes on to the step before."""
        for place, part in zip(self._runs.system.plan.places, gradients[1:], strict=True):
            self._put(place.at(n), part)

    def add_initial(self, duals: Array) -> None:
        """What arrives at the initial state."""
        place = self._runs.system.plan.initial
        if place is not None:
            self._put(place, duals)

    def joined(self) -> Array:
        """(k, size_in)."""
        parts = [p for p in self._parts if p is not None]
        assert len(parts) == len(self._parts)
        return self._runs.layout.join(parts).reshape(self._rows, self._runs.layout.size)
