"""An observable along a trajectory."""

from __future__ import annotations

from relax.base.fem.forms import num_owned
from relax.base.types import Array
from relax.engine.march.system import StepSystem
from relax.errors import SolveFailed
from relax.observe.base import Look, Observable, by_step, observed


class Observation:
    """y = Σ of the looks at the states u_n, and its derivatives. Collective, as are all methods.

    Each method takes the number n of a step and what the steps solve for there, installs it into the state's registers
    (by the substitution, where there is one), and adds what is seen at that step alone.

    Args:
        observable: what is seen.
        system: the steps, whose registers are used.
    """

    def __init__(self, observable: Observable, system: StepSystem) -> None:
        self._system = system
        self._state = system.registers.state
        self._tangent = system.registers.tangent_state
        self._num_owned = num_owned(self._state.function_space)
        self.size = observable.size
        self._substitution = system.evolution.substitution
        self.is_linear = observable.is_linear and self._substitution is None
        self._looks = by_step(observable.looks(system.evolution.num_steps))

    def looks(self, n: int) -> list[Look]:
        """What is looked at in u_n, with the weights that the map was made with. Local."""
        return self._looks.get(n, [])

    def _at(self, n: int, state: Array) -> list[Look]:
        looks = self.looks(n)
        if looks:
            self.show(n, state)
        return looks

    def show(self, n: int, state: Array) -> None:
        """The state's register holds u_n, the time is that of step n."""
        self._state.x.array[:] = state if self._substitution is None else self._substitution.state(state)
        self._system.tell_time(n)

    def _slope(self, state: Array) -> Array | float:
        """du_n by what the steps solve for, at each node."""
        return 1.0 if self._substitution is None else self._substitution.state_slope(state)

    def add_value(self, n: int, state: Array, value: Array) -> None:
        """Add to y, (size,).

        Raises:
            SolveFailed: naming the step, when the observation is not finite.
        """
        for look in self._at(n, state):
            try:
                seen = observed(look.observable, self._state)
            except SolveFailed as failure:
                evolution = self._system.evolution
                raise SolveFailed(f"{evolution.name}: {evolution.place(n)}: {failure}") from failure
            value[look.part] += look.weight * seen

    def add_tangents(self, n: int, state: Array, tangents: Array, changes: Array) -> None:
        """Add B'(u_n) du_n for each row of local du_n to dy, (k, size)."""
        for look in self._at(n, state):
            slope = self._slope(state)
            for i in range(len(tangents)):
                self._tangent.x.array[:] = slope * tangents[i]
                changes[i, look.part] += look.weight * look.observable.tangent(self._state, self._tangent)

    def add_adjoints(self, n: int, state: Array, seeds: Array, duals: Array) -> None:
        """Add B'(u_n)ᵀ dy for each seed, (k, size), to duals, (k, owned)."""
        for look in self._at(n, state):
            slope = self._owned(self._slope(state))
            for i in range(len(seeds)):
                duals[i] += slope * look.observable.adjoint(self._state, look.weight * seeds[i, look.part])

    def add_seconds(self, n: int, state: Array, seeds: Array, tangents: Array, duals: Array) -> None:
        """Add B''(u_n)[du_n]ᵀ dy for each seed and the du_n of the same row to duals, (k, owned)."""
        for look in self._at(n, state):
            slope = self._slope(state)
            for i in range(len(seeds)):
                self._tangent.x.array[:] = slope * tangents[i]
                seed = look.weight * seeds[i, look.part]
                duals[i] += self._owned(slope) * look.observable.second(self._state, seed, self._tangent)
                if self._substitution is not None:
                    bent = self._substitution.state_curvature(state) * tangents[i]
                    duals[i] += self._owned(bent) * look.observable.adjoint(self._state, seed)

    def _owned(self, values: Array | float) -> Array | float:
        return values if isinstance(values, float) else values[: self._num_owned]
