"""An observable along a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from dolfinx import fem

from relax.base.types import Array
from relax.engine.explicit import ExplicitPart
from relax.engine.march.plan import looks_of
from relax.engine.march.records import Records
from relax.engine.march.system import StepSystem
from relax.errors import SolveFailed
from relax.observe.base import Look, Observable, by_step, observed
from relax.observe.blocks import states_seen
from relax.problem.stages import Stage

Parts = Sequence[Array]
#: Takes what a control collects: the place of its part, the row, the dual vector.
Collect = Callable[[int, int, Array], None]


class Observation:
    """y = Σ of the looks at the states u_n, and its derivatives. Collective, as are all methods.

    Each method takes the number n of a step and the record there, installs it into the registers of the states (by the
    substitution, where there is one), with the controls that are seen there, and adds what is seen at that step alone.
    Where a step has several states, an observable takes one of them as its state; others that it holds are to it what
    controls are. ``parts`` are the run's expanded controls.

    Args:
        observable: what is seen.
        system: the steps, whose registers are used.
    """

    def __init__(self, observable: Observable, system: StepSystem) -> None:
        self._system = system
        self._records = system.records
        self.size = observable.size
        evolution = system.evolution
        self._substitution = evolution.substitution
        self._tangents = [fem.Function(state.function_space) for state in evolution.states]
        self._looks = by_step(looks_of(observable, evolution))
        self._states_of = cache(self._seen_by)
        self._seen = cache(self._look_at)
        holds_controls = any(observable.holds(c) for c in evolution.controls)
        sees_several = any(
            len(self._states_of(look.observable)) > 1 for of_step in self._looks.values() for look in of_step
        )
        is_direct = self._substitution is None and not holds_controls and not sees_several
        self.is_linear = observable.is_linear and is_direct

    def looks(self, n: int) -> list[Look]:
        """What is looked at in u_n, with the weights that the map was made with. Local."""
        return self._looks.get(n, [])

    def _seen_by(self, observable: Observable) -> list[int]:
        """Which states an observable sees: the one that it takes as its state, then those that it holds beside. Local.

        Raises:
            BadProblem: where it sees none, or names a space that is that of several.
        """
        evolution = self._system.evolution
        if len(evolution.states) == 1:
            observable.check_state(evolution.states[0])
            return [0]
        solved = [j for j, stage in enumerate(evolution.stages) if isinstance(stage, Stage)]
        return states_seen(observable, evolution.states, solved)

    def _look_at(self, observable: Observable, n: int) -> _View:
        """How it sees u_n, and the controls of the step that led there; beside u_0 those of the first. Local."""
        first, *rest = self._states_of(observable)
        others = [(self._system.evolution.states[j], -1 - j) for j in rest]
        controls = [(c, place.at(max(n - 1, 0))) for c, place in self._system.plan.of_controls]
        explicit = [ExplicitPart(observable, places) for places in (others, controls, [*others, *controls])]
        return _View(first, self._system.evolution.states[first], self._tangents[first], *explicit)

    def _at(self, n: int, record: Array, parts: Parts) -> list[tuple[Look, _View]]:
        looks = [(look, self._seen(look.observable, n)) for look in self.looks(n)]
        if looks:
            self.show(n, record)
        for _, seen in looks:
            seen.controls.install(parts)
        return looks

    def show(self, n: int, record: Array) -> None:
        """The registers of the states hold those of u_n, time and data are those of step n."""
        self._system.show(record if self._substitution is None else self._substitution.state(record))
        self._system.tell(n)

    def _slope(self, record: Array) -> Array | float:
        """du_n by what the steps solve for, at each node."""
        return 1.0 if self._substitution is None else self._substitution.state_slope(record)

    def add_value(self, n: int, record: Array, parts: Parts, value: Array) -> None:
        """Add to y, (size,).

        Raises:
            SolveFailed: naming the step, when the observation is not finite.
        """
        for look, seen in self._at(n, record, parts):
            try:
                y = observed(look.observable, seen.state)
            except SolveFailed as failure:
                evolution = self._system.evolution
                raise SolveFailed(f"{evolution.name}: {evolution.place(n)}: {failure}") from failure
            value[look.part] += look.weight * y

    def add_tangents(
        self, n: int, record: Array, parts: Parts, tangents: Array, changes: Array, directions: Sequence[Parts] = ()
    ) -> None:
        """Add ∂B/∂u_n du_n for each change of the record to dy, (k, size), and ∂B/∂m dm for each of the directions."""
        for look, seen in self._at(n, record, parts):
            for i in range(len(tangents)):
                self._move(seen, record, tangents[i])
                change = look.observable.tangent(seen.state, seen.tangent)
                change = change + seen.others.tangent(seen.state, _Beside(self._records, tangents[i], ()))
                changes[i, look.part] += look.weight * change
            for i, direction in enumerate(directions):
                changes[i, look.part] += look.weight * seen.controls.tangent(seen.state, direction)

    def add_adjoints(
        self, n: int, record: Array, parts: Parts, seeds: Array, duals: Array, collect: Collect | None = None
    ) -> None:
        """Add (∂B/∂u_n)ᵀ dy for each seed, (k, size), to duals, (k, owned); ``collect`` takes what controls collect."""
        for look, seen in self._at(n, record, parts):
            explicit = seen.others if collect is None else seen.both
            own = self._records.owned[seen.place][0]
            slope = self._owned(self._slope(record))
            for i in range(len(seeds)):
                seed = look.weight * seeds[i, look.part]
                duals[i, own] += slope * look.observable.adjoint(seen.state, seed)
                self._put(explicit.gradients(seen.state, seed), i, duals, collect)

    def add_seconds(
        self,
        n: int,
        record: Array,
        parts: Parts,
        seeds: Array,
        tangents: Array,
        directions: Sequence[Parts],
        duals: Array,
        collect: Collect,
    ) -> None:
        """Add the derivatives of ``add_adjoints`` along the du_n and dm of the same row to duals, (k, owned)."""
        for look, seen in self._at(n, record, parts):
            own = self._records.owned[seen.place][0]
            slope = self._slope(record)
            for i in range(len(seeds)):
                self._move(seen, record, tangents[i])
                seed = look.weight * seeds[i, look.part]
                at = seen.state, seed, seen.tangent
                beside = _Beside(self._records, tangents[i], directions[i])
                second = look.observable.second(*at) + seen.both.second_state(*at, beside)
                duals[i, own] += self._owned(slope) * second
                self._put(seen.both.second_gradients(*at, beside), i, duals, collect)
                if self._substitution is not None:
                    bent = self._substitution.state_curvature(record) * tangents[i]
                    duals[i] += self._owned(bent) * look.observable.adjoint(seen.state, seed)

    def _move(self, seen: _View, record: Array, tangent: Array) -> None:
        """The register of the state's change holds it. Local."""
        seen.tangent.x.array[:] = self._slope(record) * tangent[self._records.local[seen.place][0]]

    def _put(self, gradients: Iterable[tuple[int, Array]], row: int, duals: Array, collect: Collect | None) -> None:
        for place, gradient in gradients:
            if place < 0:
                duals[row, self._records.owned[-1 - place][0]] += gradient
            elif collect is not None:
                collect(place, row, gradient)

    def _owned(self, values: Array | float) -> Array | float:
        return values if isinstance(values, float) else values[: self._records.num_owned]


@dataclass(frozen=True, eq=False)
class _View:
    """How an observable sees a step: its own state, and what it holds beside, by places: those of states are negative.

    Attributes:
        place: which of the states is its own.
        state, tangent: the registers of that.
        others: other states.
        controls: controls.
        both: all of these.
    """

    place: int
    state: fem.Function
    tangent: fem.Function
    others: ExplicitPart
    controls: ExplicitPart
    both: ExplicitPart


class _Beside:
    """Parts of controls by their place, and of a record's states by -1, -2, ..."""

    def __init__(self, records: Records, record: Array, parts: Parts) -> None:
        self._records = records
        self._record = record
        self._parts = parts

    def __getitem__(self, place: int) -> Array:
        return self._parts[place] if place >= 0 else self._record[self._records.local[-1 - place][0]]
