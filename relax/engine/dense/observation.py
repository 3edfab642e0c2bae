"""What is seen of many states at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from dolfinx import fem

from relax.base.fem.forms import Control, given_back, values_of
from relax.base.types import Array, Indices
from relax.engine.explicit import ExplicitPart
from relax.engine.reduced import ReducedMap
from relax.errors import SolveFailed
from relax.observe.base import Look, Observable, by_step
from relax.problem.evolution import Evolution

#: A linear or affine observable at the parameters of one moment: M and the offset of y = M u + offset.
_Matrix: TypeAlias = tuple[Array, Array]


class DenseObservation:
    """The looks at the states u_n of all samples, and their derivatives. Local.

    Linear observables of the state alone are matrices, made here. The others are asked state by state, with the
    parameters of the moment at which this was made. Rows m, and directions dm, are (S, size_in) and (S, K, size_in).

    Args:
        G: the map; the present values of its parameters count.
        looks: the looks, as they were when the map was made.
        index: where each control that u_n is seen beside lies in a row: a function of n.
    """

    def __init__(
        self, G: ReducedMap, looks: Sequence[Look], index: Callable[[int], list[tuple[Control, Indices]]]
    ) -> None:
        problem = G.problem
        self._evolution = problem if isinstance(problem, Evolution) else None
        self._state: fem.Function = problem.state
        self._tangent = fem.Function(problem.state.function_space)
        self._times = [] if self._evolution is None or self._evolution.time is None else [self._evolution.time]
        self._registers = G.residual.registers
        self._values = self._registers.present_parameters()
        self.size = G.size_out
        self._looks = by_step(looks)
        self._explicit = {
            n: [ExplicitPart(look.observable, index(n)) for look in here] for n, here in self._looks.items()
        }
        self._matrices: dict[int, _Matrix] = {}
        self._has_asked = False
        for n, here in self._looks.items():
            with self._at(n):
                for look, explicit in zip(here, self._explicit[n], strict=True):
                    self._make_matrix(look.observable, bool(explicit))

    def _make_matrix(self, observable: Observable, holds_controls: bool) -> None:
        if holds_controls or not observable.is_linear:
            self._has_asked = True
        elif id(observable) not in self._matrices:
            u = self._tangent
            u.x.array[:] = 0.0
            self._matrices[id(observable)] = _jacobian(observable, u), np.array(observable.value(u))

    @property
    def is_linear(self) -> bool:
        """Whether everything is a matrix."""
        return not self._has_asked

    def looks_at(self, n: int) -> bool:
        """Whether anything is seen of u_n."""
        return n in self._looks

    @contextmanager
    def at_parameters(self) -> Iterator[None]:
        """A block in which parameters and time may be those of the moment; they are the user's again after it."""
        if self.is_linear:
            yield
            return
        with self._registers.lent(), given_back(self._times):
            self._registers.install_parameters(self._values)
            yield

    @contextmanager
    def _at(self, n: int) -> Iterator[None]:
        with given_back(self._times):
            if self._evolution is not None:
                for time in self._times:
                    values_of(time)[...] = self._evolution.time_at(n)
            yield

    def _each(self, n: int) -> Iterator[tuple[Look, slice, _Matrix | None, ExplicitPart]]:
        with self._at(n):
            for look, explicit in zip(self._looks.get(n, []), self._explicit.get(n, []), strict=True):
                yield look, look.part, self._matrices.get(id(look.observable)), explicit

    def _show(self, state: Array, explicit: ExplicitPart, row: Array) -> fem.Function:
        explicit.install(row)
        self._state.x.array[:] = state
        return self._state

    def _show_tangent(self, tangent: Array) -> fem.Function:
        self._tangent.x.array[:] = tangent
        return self._tangent

    # -- values and derivatives at one step ----------------------------------------------------------------------------

    def add_values(self, n: int, states: Array, m: Array, values: Array) -> None:
        """y of states (S, n_state), added to (S, size).

        Raises:
            SolveFailed: naming the step, when the observation is not finite.
        """
        for look, part, matrix, explicit in self._each(n):
            if matrix is not None:
                seen = states @ matrix[0].T + matrix[1]
            else:
                each = [look.observable.value(self._show(states[i], explicit, m[i])) for i in range(len(states))]
                seen = np.array(each).reshape(len(states), look.observable.size)
            if not np.isfinite(seen).all():
                where = "" if self._evolution is None else f"{self._evolution.name}: {self._evolution.place(n)}: "
                raise SolveFailed(f"{where}the observation is not finite: the state overflowed")
            values[:, part] += look.weight * seen

    def add_tangents(
        self, n: int, states: Array, m: Array, changes: Array, into: Array, dm: Array | None = None
    ) -> None:
        """∂B/∂u_n du_n for du_n (S, K, n_state), added to (S, K, size); with directions ∂B/∂m dm, too."""
        for look, part, matrix, explicit in self._each(n):
            if matrix is not None:
                into[..., part] += look.weight * (changes @ matrix[0].T)
                continue
            for i in range(len(states)):
                u = self._show(states[i], explicit, m[i])
                if changes.shape[1] > look.observable.size:
                    into[i, :, part] += look.weight * (changes[i] @ _jacobian(look.observable, u).T)
                else:
                    for k in range(changes.shape[1]):
                        change = look.observable.tangent(u, self._show_tangent(changes[i, k]))
                        into[i, k, part] += look.weight * change
                if dm is not None and explicit:
                    into[i, :, part] += look.weight * np.array([explicit.tangent(u, direction) for direction in dm[i]])

    def adjoints(self, n: int, states: Array, m: Array, seeds: Array, into: Array | None) -> Array:
        """(∂B/∂u_n)ᵀ dy for dy (S, K, size): (S, K, n_state); what controls collect is added to (S, K, size_in)."""
        total = np.zeros((*seeds.shape[:2], states.shape[1]))
        for look, part, matrix, explicit in self._each(n):
            if matrix is not None:
                total += look.weight * (seeds[..., part] @ matrix[0])
                continue
            for i in range(len(states)):
                u, weighed = self._show(states[i], explicit, m[i]), look.weight * seeds[i, :, part]
                if seeds.shape[1] > look.observable.size:
                    total[i] += weighed @ _jacobian(look.observable, u)
                else:
                    for k in range(seeds.shape[1]):
                        total[i, k] += look.observable.adjoint(u, np.ascontiguousarray(weighed[k]))
                if into is not None:
                    for k in range(seeds.shape[1]):
                        for place, gradient in explicit.gradients(u, np.ascontiguousarray(weighed[k])):
                            into[i, k, place] += gradient
        return total

    def seconds(self, n: int, states: Array, m: Array, seeds: Array, changes: Array, dm: Array, into: Array) -> Array:
        """The derivatives of ``adjoints`` along pairs du_n (S, K, n_state), dm."""
        total = np.zeros_like(changes)
        for look, part, matrix, explicit in self._each(n):
            if matrix is not None:
                continue
            for i, k in np.ndindex(changes.shape[:2]):
                seed = look.weight * np.ascontiguousarray(seeds[i, k, part])
                at = self._show(states[i], explicit, m[i]), seed, self._show_tangent(changes[i, k])
                total[i, k] += look.observable.second(*at) + explicit.second_state(*at, dm[i, k])
                for place, gradient in explicit.second_gradients(*at, dm[i, k]):
                    into[i, k, place] += gradient
        return total

    def add_curvature(
        self, n: int, states: Array, m: Array, one: Array, dm: Array, other: Array, other_dm: Array, into: Array
    ) -> None:
        """B''[(a, dm_a), (b, dm_b)] for pairs (S, K, n_state), added to (S, K, size): a Hessian an entry of y."""
        seeds = np.zeros((*one.shape[:2], self.size))
        for j in range(self.size):
            seeds[..., j] = 1.0
            in_controls = np.zeros_like(dm)
            in_state = self.seconds(n, states, m, seeds, one, dm, in_controls)
            into[..., j] += (in_state * other).sum(axis=-1) + (in_controls * other_dm).sum(axis=-1)
            seeds[..., j] = 0.0


def _jacobian(observable: Observable, u: fem.Function) -> Array:
    """∂B/∂u, (size, n_state)."""
    rows = [np.array(observable.adjoint(u, row)) for row in np.eye(observable.size)]
    return np.array(rows).reshape(observable.size, len(u.x.array))
