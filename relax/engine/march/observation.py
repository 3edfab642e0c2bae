"""An observable along a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from relax.base.fem.forms import num_owned
from relax.base.types import Array
from relax.engine.explicit import ExplicitPart
from relax.engine.march.plan import looks_of
from relax.engine.march.system import StepSystem
from relax.errors import SolveFailed
from relax.observe.base import Look, Observable, by_step, observed

Parts = Sequence[Array]
#: Takes what a control collects: the place of its part, the row, the dual vector.
Collect = Callable[[int, int, Array], None]


class Observation:
    """y = Σ of the looks at the states u_n, and its derivatives. Collective, as are all methods.

    Each method takes the number n of a step and what the steps solve for there, installs it into the state's registers
    (by the substitution, where there is one), with the controls that are seen there, and adds what is seen at that
    step alone. ``parts`` are the run's expanded controls.

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
        self._looks = by_step(looks_of(observable, system.evolution))
        self._explicit = cache(self._explicit_part)
        holds_controls = any(observable.holds(c) for c in system.evolution.controls)
        self.is_linear = observable.is_linear and self._substitution is None and not holds_controls

    def looks(self, n: int) -> list[Look]:
        """What is looked at in u_n, with the weights that the map was made with. Local."""
        return self._looks.get(n, [])

    def _explicit_part(self, observable: Observable, n: int) -> ExplicitPart:
        """What it sees of the controls of the step that led to u_n; beside u_0 those of the first. Local."""
        places = self._system.plan.of_controls
        return ExplicitPart(observable, [(c, place.at(max(n - 1, 0))) for c, place in places])

    def _at(self, n: int, state: Array, parts: Parts) -> list[tuple[Look, ExplicitPart]]:
        looks = [(look, self._explicit(look.observable, n)) for look in self.looks(n)]
        if looks:
            self.show(n, state)
        for _, explicit in looks:
            explicit.install(parts)
        return looks

    def show(self, n: int, state: Array) -> None:
        """The state's register holds u_n, time and data are those of step n."""
        self._state.x.array[:] = state if self._substitution is None else self._substitution.state(state)
        self._system.tell(n)

    def _slope(self, state: Array) -> Array | float:
        """du_n by what the steps solve for, at each node."""
        return 1.0 if self._substitution is None else self._substitution.state_slope(state)

    def add_value(self, n: int, state: Array, parts: Parts, value: Array) -> None:
        """Add to y, (size,).

        Raises:
            SolveFailed: naming the step, when the observation is not finite.
        """
        for look, _ in self._at(n, state, parts):
            try:
                seen = observed(look.observable, self._state)
            except SolveFailed as failure:
                evolution = self._system.evolution
                raise SolveFailed(f"{evolution.name}: {evolution.place(n)}: {failure}") from failure
            value[look.part] += look.weight * seen

    def add_tangents(
        self, n: int, state: Array, parts: Parts, tangents: Array, changes: Array, directions: Sequence[Parts] = ()
    ) -> None:
        """Add ∂B/∂u_n du_n for each row of local du_n to dy, (k, size); with directions, dm for each, ∂B/∂m dm, too."""
        for look, explicit in self._at(n, state, parts):
            slope = self._slope(state)
            for i in range(len(tangents)):
                self._tangent.x.array[:] = slope * tangents[i]
                changes[i, look.part] += look.weight * look.observable.tangent(self._state, self._tangent)
            for i, direction in enumerate(directions):
                changes[i, look.part] += look.weight * explicit.tangent(self._state, direction)

    def add_adjoints(
        self, n: int, state: Array, parts: Parts, seeds: Array, duals: Array, collect: Collect | None = None
    ) -> None:
        """Add (∂B/∂u_n)ᵀ dy for each seed, (k, size), to duals, (k, owned); ``collect`` takes what controls collect."""
        for look, explicit in self._at(n, state, parts):
            slope = self._owned(self._slope(state))
            for i in range(len(seeds)):
                seed = look.weight * seeds[i, look.part]
                duals[i] += slope * look.observable.adjoint(self._state, seed)
                if collect is not None:
                    for place, gradient in explicit.gradients(self._state, seed):
                        collect(place, i, gradient)

    def add_seconds(
        self,
        n: int,
        state: Array,
        parts: Parts,
        seeds: Array,
        tangents: Array,
        directions: Sequence[Parts],
        duals: Array,
        collect: Collect,
    ) -> None:
        """Add the derivatives of ``add_adjoints`` along the du_n and dm of the same row to duals, (k, owned)."""
        for look, explicit in self._at(n, state, parts):
            slope = self._slope(state)
            for i in range(len(seeds)):
                self._tangent.x.array[:] = slope * tangents[i]
                seed = look.weight * seeds[i, look.part]
                at = self._state, seed, self._tangent
                seen = look.observable.second(*at) + explicit.second_state(*at, directions[i])
                duals[i] += self._owned(slope) * seen
                for place, gradient in explicit.second_gradients(*at, directions[i]):
                    collect(place, i, gradient)
                if self._substitution is not None:
                    bent = self._substitution.state_curvature(state) * tangents[i]
                    duals[i] += self._owned(bent) * look.observable.adjoint(self._state, seed)

    def _owned(self, values: Array | float) -> Array | float:
        return values if isinstance(values, float) else values[: self._num_owned]
