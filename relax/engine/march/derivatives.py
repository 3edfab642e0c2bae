"""Tangents, adjoints and Hessian actions through time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from relax.base.log import LongRun
from relax.base.types import Array
from relax.engine.march.momenta import Momenta
from relax.engine.march.plan import expanded
from relax.engine.march.runs import Runs
from relax.engine.residual.registers import Point


class MarchDerivatives(Momenta):
    """Derivatives at one run. Collective.

    With A_n = ∂F/∂u_n, C_n = ∂F/∂u_{n-1} and M_n = ∂F/∂m in step n, and B_n what is seen at step n:

    - tangent: A_n du_n = -C_n du_{n-1} - M_n dm, forwards from du_0;
    - adjoint: A_nᵀ λ_n = b_n, b_n = B_n'ᵀ dy - C_{n+1}ᵀ λ_{n+1}, backwards; the gradient is -Σ M_nᵀ λ_n, b_0 in u_0,
      and (∂B_n/∂m)ᵀ dy of what is seen of the controls themselves;
    - second order: the derivative of the adjoint along (du_n, dm), on a walk that carries du_n with u_n.
    """

    #: Tangents are held along the whole trajectory.
    hessian_block = 8

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
                observation.add_tangents(n, state, self._run.parts, du, changes, parts)
                before = state
        return changes

    def gradients(self, seeds: Array) -> Array:
        """G'(m)ᵀ dy: (k, size_out) -> (k, size_in)."""
        runs, observation = self._runs, self._runs.observation
        with self._parameters():
            duals: Array = np.zeros((len(seeds), runs.residual.num_owned))
            total = _Total(runs, len(seeds))
            for n, before, after in self._told(self._walk.backward()):
                observation.add_adjoints(n + 1, after, self._run.parts, seeds, duals, total.put_row)
                with self._step(n, before, after) as point:
                    adjoints = self._adjoints(point, duals)
                    gradients = runs.system.sensitivity.gradients(point, adjoints, duals)
                duals = gradients[0]
                total.add(n, gradients)
            observation.add_adjoints(0, self._run.initial, self._run.parts, seeds, duals, total.put_row)
            total.add_initial(self._of_initial(duals))
            runs.note(self._walk)
            return total.joined()

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

    # -- second order --------------------------------------------------------------------------------------------------

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (k, size_out), (l, size_in), (k,) -> (k, size_in)."""
        runs, observation = self._runs, self._runs.observation
        sensitivity = runs.system.sensitivity
        is_curved = not runs.residual.is_affine or runs.evolution.substitution is not None
        with self._parameters():
            parts = [runs.layout.split(row) for row in directions]
            along, here = [parts[k] for k in which], self._run.parts
            walk = self._walk_with_tangents(parts)
            duals: Array = np.zeros((len(seeds), runs.residual.num_owned))
            second: Array = np.zeros_like(duals)
            total = _Total(runs, len(seeds))
            for n, before, after in self._told(walk.backward()):
                observation.add_seconds(n + 1, after[0], here, seeds, after[1:][which], along, second, total.put_row)
                # Looks take the state's register for themselves: all of them come before the step is installed.
                if is_curved:
                    observation.add_adjoints(n + 1, after[0], here, seeds, duals)
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
            observation.add_seconds(0, first[0], here, seeds, first[1:][which], along, second, total.put_row)
            observation.add_adjoints(0, first[0], here, seeds, duals)
            total.add_initial(self._of_initial(second) + self._bent_initial(duals, parts, which))
            runs.note(walk)
            return total.joined()

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

    def _told(self, steps: Iterator[tuple[int, Array, Array]]) -> Iterator[tuple[int, Array, Array]]:
        """The steps of a walk backwards, with a word now and then about how far it has come."""
        evolution = self._runs.evolution
        with LongRun(f"{evolution.name}: adjoint steps", evolution.num_steps) as progress:
            for n, before, after in steps:
                yield n, before, after
                progress.reached(evolution.num_steps - n)


class _Total:
    """Gradients of all steps, summed up by control."""

    def __init__(self, runs: Runs, rows: int) -> None:
        self._runs = runs
        self._rows = rows
        self._parts: list[Array | None] = [None] * len(expanded(runs.evolution))

    def _put(self, place: int, part: Array) -> None:
        known = self._parts[place]
        self._parts[place] = part if known is None else known + part

    def put_row(self, place: int, row: int, part: Array) -> None:
        """What a control collects of what is seen, for one row."""
        known = self._parts[place]
        whole = np.zeros((self._rows, part.size)) if known is None else known
        whole[row] += part
        self._parts[place] = whole

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
