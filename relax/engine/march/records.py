"""What a step begins with, several states and their past, as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from relax.base.fem.forms import num_owned
from relax.base.types import Array
from relax.problem.stages import Component, Input


class Records:
    """Where the states lie in a record: u_n of each component, and u_{n-1}, ... where a later step holds them.

    Local, as is every method. Records are (..., local values with ghosts); their dual vectors are (..., owned values).

    Args:
        components: of the evolution.

    Attributes:
        local, owned: for each component the parts of u_n, u_{n-1}, ...
        num_local, num_owned: the lengths.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        self.local: list[list[slice]] = []
        self.owned: list[list[slice]] = []
        self.num_local = self.num_owned = 0
        for component in components:
            here, mine = len(component.state.x.array), num_owned(component.state.function_space)
            ages = range(component.depth)
            self.local.append([slice(self.num_local + a * here, self.num_local + (a + 1) * here) for a in ages])
            self.owned.append([slice(self.num_owned + a * mine, self.num_owned + (a + 1) * mine) for a in ages])
            self.num_local += component.depth * here
            self.num_owned += component.depth * mine

    def taken(self, place: Input, before: Array, after: Array) -> Array:
        """A state that a step takes, from the records before and after it: (..., local)."""
        record, age = (after, 0) if place.back == 0 else (before, place.back - 1)
        return record[..., self.local[place.component][age]]

    def dual(self, place: Input, before: Array, after: Array) -> Array:
        """The part of dual vectors of the records that belongs to a state that a step takes: a view, (..., owned)."""
        record, age = (after, 0) if place.back == 0 else (before, place.back - 1)
        return record[..., self.owned[place.component][age]]

    def owned_of(self, record: Array) -> Array:
        """The owned values of a record, as its dual vectors have them: (owned,)."""
        values = np.empty(self.num_owned)
        for here, mine in zip(self.local, self.owned, strict=True):
            for age, owned in zip(here, mine, strict=True):
                values[owned] = record[age][: owned.stop - owned.start]
        return values

    def aged(self, before: Array) -> Array:
        """The record after a step with the past alone in it, its new states zero: (..., local)."""
        after = np.zeros_like(before)
        for ages in self.local:
            for older, newer in zip(ages[1:], ages, strict=False):
                after[..., older] = before[..., newer]
        return after

    def aged_duals(self, after: Array) -> Array:
        """The transpose of ``aged``: (..., owned)."""
        before = np.zeros_like(after)
        for ages in self.owned:
            for older, newer in zip(ages[1:], ages, strict=False):
                before[..., newer] = after[..., older]
        return before

    def started(self, states: Sequence[Array]) -> Array:
        """A record at the start: the past of each state is what it is there."""
        return np.concatenate([np.tile(u, len(ages)) for u, ages in zip(states, self.local, strict=True)], axis=-1)

    def started_duals(self, duals: Array) -> list[Array]:
        """The transpose of ``started``: for each component (..., owned)."""
        return [sum((duals[..., age] for age in ages[1:]), start=duals[..., ages[0]].copy()) for ages in self.owned]
