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
        return self._runs.system.is_affine and self._runs.observation.is_linear

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
        runs, observation, run = self._runs, self._runs.observation, self._run
        with self._parameters():
            duals: Array = np.zeros((len(seeds), runs.system.records.num_owned))
            total = _Total(runs, len(seeds))
            for n, before, after in self._told(self._walk.backward()):
                observation.add_adjoints(n + 1, after, run.parts, seeds, duals, total.put_row)
                with self._at(n):
                    duals = self._backwards.back(run, n, before, after, duals, total.put)
            observation.add_adjoints(0, run.initial, run.parts, seeds, duals, total.put_row)
            with self._at(-1):
                self._backwards.back_to_start(run, duals, total.put)
            runs.note(self._walk)
            return total.joined()

    # -- second order --------------------------------------------------------------------------------------------------

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """d/dε of the gradients along directions[which]: (k, size_out), (l, size_in), (k,) -> (k, size_in)."""
        runs, observation, run, steps = self._runs, self._runs.observation, self._run, self._backwards
        is_curved = not runs.system.is_affine
        with self._parameters():
            parts = [runs.layout.split(row) for row in directions]
            along, here = [parts[k] for k in which], run.parts
            walk = self._walk_with_tangents(parts)
            duals: Array = np.zeros((len(seeds), runs.system.records.num_owned))
            second: Array = np.zeros_like(duals)
            total = _Total(runs, len(seeds))
            for n, before, after in self._told(walk.backward()):
                observation.add_seconds(n + 1, after[0], here, seeds, after[1:][which], along, second, total.put_row)
                # Looks take the state's register for themselves: all of them come before the step is installed.
                if is_curved:
                    observation.add_adjoints(n + 1, after[0], here, seeds, duals)
                with self._at(n):
                    if is_curved:
                        at = run, n, before, after
                        duals, second = steps.back_second(*at, duals, second, parts, which, total.put)
                    else:
                        # The steps have no curvature: only that of the observation is carried back.
                        second = steps.back(run, n, before[0], after[0], second, total.put)
            first = walk.first
            observation.add_seconds(0, first[0], here, seeds, first[1:][which], along, second, total.put_row)
            with self._at(-1):
                if is_curved:
                    observation.add_adjoints(0, first[0], here, seeds, duals)
                    steps.back_to_start_second(run, first, duals, second, parts, which, total.put)
                else:
                    steps.back_to_start(run, second, total.put)
            runs.note(walk)
            return total.joined()

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

    def put(self, place: int, part: Array) -> None:
        """What a control collects, for all rows."""
        known = self._parts[place]
        self._parts[place] = np.array(part) if known is None else known + part

    def put_row(self, place: int, row: int, part: Array) -> None:
        """What a control collects of what is seen, for one row."""
        known = self._parts[place]
        whole = np.zeros((self._rows, part.size)) if known is None else known
        whole[row] += part
        self._parts[place] = whole

    def joined(self) -> Array:
        """(k, size_in)."""
        parts = [p for p in self._parts if p is not None]
        assert len(parts) == len(self._parts)
        return self._runs.layout.join(parts).reshape(self._rows, self._runs.layout.size)
