"""The adjoint state of each step: the momentum conjugate to the state."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.base.la.factors import Key
from relax.base.types import Array
from relax.engine.march.plan import expanded
from relax.engine.march.sweeps import Sweeps
from relax.observe.base import Look


class Momenta(Sweeps):
    """Adjoint states of a run. Collective, as are all methods."""

    def momenta(self, seed: Array) -> Iterator[tuple[int, Array]]:
        """(n, d(dy · y)/du_n) for n = N, ..., 0, as ``Linearization.momenta``."""
        runs, observation = self._runs, self._runs.observation
        V = runs.evolution.plain_step.state.function_space
        whole: Callable[[Array], Array] = np.copy
        if runs.layout.kind == "replicated":
            whole = partial(SpaceLayout(V).gather, dual=True)
        seeds = seed[None, :]
        duals: Array = np.zeros((1, runs.system.records.num_owned))
        steps = self._walk.backward()
        while True:
            # The parameters are the user's while he looks at a momentum.
            with self._parameters():
                step = next(steps, None)
                if step is None:
                    break
                n, before, after = step
                observation.add_adjoints(n + 1, after, self._run.parts, seeds, duals)
            yield n + 1, whole(self._of_state(duals[0], after))
            with self._parameters(), self._at(n):
                duals = self._backwards.back(self._run, n, before, after, duals, None)
        with self._parameters():
            observation.add_adjoints(0, self._run.initial, self._run.parts, seeds, duals)
        runs.note(self._walk)
        yield 0, whole(self._of_state(duals[0], self._run.initial))

    def points(self) -> Generator[tuple[int, Key, list[Look]]]:
        """As ``PointsInSteps.points``, of steps that are one equation."""
        runs, observation = self._runs, self._runs.observation
        with self._parameters():
            for n, before, after in self._walk.backward():
                runs.system.told(self._run, n)
                point = runs.system.point(self._run, 0, n, before, after)
                yield n + 1, point.key, observation.looks(n + 1)
            runs.note(self._walk)
            observation.show(0, self._run.initial)
            yield 0, Key(), observation.looks(0)

    def hamiltonians(self, seed: Array) -> Array:
        """p_n · (u_{n+1} - u_{n-1})/2 for n = 1, ..., N - 1, of what the steps solve for: (N - 1,).

        Along autonomous steps this is dt p_n · du/dt, the conserved Hamiltonian of Ruseckas (arXiv:1909.03767), as far
        as steps of the length dt tell it; of linear ones it is constant up to rounding.
        """
        runs, observation = self._runs, self._runs.observation
        duals: Array = np.zeros((1, runs.system.records.num_owned))
        values = np.zeros(runs.evolution.num_steps + 1)
        with self._parameters():
            later: Array | None = None
            for n, before, after in self._walk.backward():
                observation.add_adjoints(n + 1, after, self._run.parts, seed[None, :], duals)
                if later is not None:
                    values[n + 1] = 0.5 * (duals[0] @ runs.system.records.owned_of(later - before))
                later = after
                with self._at(n):
                    duals = self._backwards.back(self._run, n, before, after, duals, None)
            runs.note(self._walk)
        return parallel.sum_over_ranks(runs.residual.comm, values)[1:-1]

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
        duals: Array = np.zeros((1, runs.system.records.num_owned))
        owned, controls = runs.system.records.owned_of, expanded(runs.evolution)
        # Sums over ranks, taken at the end: of the step, of what is seen; |p|², |du|².
        terms = np.zeros((N + 1, 4))
        shown = np.zeros(N + 1)

        def see(n: int, record: Array) -> None:
            without = duals[0].copy()
            observation.add_adjoints(n, record[0], self._run.parts, seeds, duals)
            change = np.zeros((1, observation.size))
            observation.add_tangents(n, record[0], self._run.parts, record[1:], change)
            du = owned(record[1])
            terms[n, 1] = (duals[0] - without) @ du
            shown[n] = seed @ change[0]
            terms[n, 2:] = duals[0] @ duals[0], du @ du

        with self._parameters():
            parts = [runs.layout.split(direction)]
            walk = self._walk_with_tangents(parts)
            for n, before, after in walk.backward():
                see(n + 1, after)

                def collect(place: int, gradient: Array, step: int = n + 1) -> None:
                    # A number's gradient is whole on every rank.
                    if isinstance(controls[place], fem.Function) or comm.rank == 0:
                        terms[step, 0] -= gradient[0] @ parts[0][place][: gradient.shape[1]]

                with self._at(n):
                    earlier = self._backwards.back(self._run, n, before[0], after[0], duals, collect)
                terms[n + 1, 0] += duals[0] @ owned(after[1]) - earlier[0] @ owned(before[1])
                duals = earlier
            see(0, walk.first)
        summed = parallel.sum_over_ranks(comm, terms)
        sizes = np.sqrt(summed[:, 2] * summed[:, 3])
        gaps = np.abs(summed[:, 0]) + np.abs(summed[:, 1] - shown)
        return gaps / max(float(sizes.max()), 1e-300)
