"""One step as algebra: its equations one after the other, and what each hands on to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from relax.base.fem.blocks import hand_out, registers_of
from relax.base.la.options import Options
from relax.base.log import warn
from relax.base.types import Array
from relax.engine.march.plan import Plan, Run
from relax.engine.march.records import Records
from relax.engine.march.stage import StageSystem
from relax.engine.residual.registers import Point
from relax.engine.solve.newton import Newton
from relax.errors import BadInput, SolveFailed
from relax.observe import Observable
from relax.problem.evolution import Evolution
from relax.problem.stages import Input, Stage, Sum, stands_in

AnyOptions = Options | str | Sequence[Options | str | None] | None


class StepSystem:
    """The compiled steps of an evolution. Collective, as is every method unless it says "Local".

    What a step begins with, and what it gives, are records (:class:`Records`); those of tangents and dual vectors are
    alike. The equations F_i(u_i; x, m) = 0 take states x of this step, known already, and of earlier ones: a tangent
    goes through them in their order.

    Args:
        evolution: the equation.
        observable: what is seen of it.
        settings: Newton's tolerances; memory for factors.
        options: PETSc options or the name of a preset; for several equations also a list of one for each.
        counts: of solves, added to.

    Attributes:
        residual: of the first equation.
        systems: the equations, those of a step before those at the start.
        steps: what a step consists of: numbers of equations, and sums.
        starts: numbers of the equations at the start.
    """

    def __init__(
        self,
        evolution: Evolution,
        observable: Observable,
        settings: Newton,
        options: AnyOptions,
        counts: dict[str, int],
    ) -> None:
        self.evolution = evolution
        self.plan = Plan(evolution)
        self.records = Records(evolution.components)
        self.counts = counts
        equations = [s for s in (*evolution.stages, *evolution.starting) if isinstance(s, Stage)]
        registers = [f for c in evolution.components for f in (*registers_of(c.state), *c.earlier)]
        # An initial state that is a control is none of the step's.
        own = [*evolution.controls, *registers]
        observed = [p for p in observable.parameters if not any(p is c for c in own)]
        systems = []
        chosen = _of_each(options, len([s for s in evolution.stages if isinstance(s, Stage)]), len(equations))
        for i, (equation, name) in enumerate(zip(equations, _names(equations), strict=True)):
            # What an observable holds beside is a parameter of the first equation.
            seen = observed if i == 0 else []
            systems.append(
                StageSystem(evolution, equation, self.plan.places(equation), seen, name, settings, chosen[i])
            )
        self.systems = systems
        for f in evolution.data:
            if not any(stands_in(f, e.problem.residual, e.problem.bcs) for e in equations) and not observable.holds(f):
                warn(f"data[{f}]: stands neither in the steps of {evolution.name!r} nor in what is seen of them")
        self.residual = systems[0].residual
        by_stage = {id(equation): i for i, equation in enumerate(equations)}
        self.steps: list[int | Sum] = [s if isinstance(s, Sum) else by_stage[id(s)] for s in evolution.stages]
        self.starts = [by_stage[id(s)] for s in evolution.starting]
        self._current: Run | None = None

    @property
    def is_affine(self) -> bool:
        """Whether states are affine in what they start from and in the controls together. Local."""
        return all(s.residual.is_affine for s in self.systems) and self.evolution.substitution is None

    @property
    def goes_in_blocks(self) -> bool:
        """Whether states of several controls may be solved for together, as sums. Local."""
        return all(s.residual.goes_in_blocks for s in self.systems)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _initial(self, parts: Sequence[Array]) -> Array:
        """The record at the start with these expanded controls, but for what is solved for there. Local."""
        substitution = self.evolution.substitution
        states = []
        for place, given in zip(self.plan.initials, self.evolution.initial_states, strict=True):
            state = given.x.array if place is None else parts[place]
            states.append(state if substitution is None else substitution.unknown(state))
        return self.records.started(states)

    def check(self, unknown: Array, n: int) -> None:
        """Refuse an unknown at step n from which the state cannot be had.

        Raises:
            SolveFailed: naming the step.
        """
        evolution = self.evolution
        if evolution.substitution is not None:
            place = f"{evolution.name}: {evolution.place(n)}"
            evolution.substitution.check(evolution.mesh.comm, unknown, place)

    def run(self, parts: list[Array], initial: Array | None = None) -> Run:
        """A run with these expanded controls and the parameters as they are now.

        Args:
            parts: the controls.
            initial: the record that the steps start from, where it is not what the controls say.
        """
        clock, is_base = self.evolution.clock, initial is not None
        if initial is None:
            initial = self._initial(parts)
            self.check(initial, 0)
        grid = clock.grid()
        constants = clock.constants_of(grid)
        run = Run(initial, grid, clock.lengths(), constants, parts, [s.run() for s in self.systems], is_base)
        if self.starts and not is_base:
            self.begin(run)
            for i in self.starts:
                self._put_start(initial, self.systems[i].stage, self._solved(run, i, -1, initial, initial))
        return run

    def _put_start(self, record: Array, stage: Stage, values: Array) -> None:
        for age in self.records.local[stage.component]:
            record[..., age] = values

    def begin(self, run: Run) -> None:
        """The parameters of a run are installed, if another run's were: before any step of it is. Local."""
        if self._current is run:
            return
        self._current = run
        for system, mine in zip(self.systems, run.stages, strict=True):
            system.begin(mine)
        for place, initial in zip(self.plan.initials, self.evolution.initial_states, strict=True):
            if place is not None:
                initial.x.array[:] = run.parts[place]

    def end(self, run: Run | None = None) -> None:
        """Parameters are the user's again: the next step of any run installs its own. Local.

        Args:
            run: only if it is this one that is under way.
        """
        if run is None or self._current is run:
            self._current = None

    @contextmanager
    def lent(self) -> Iterator[None]:
        """The registers may be written within the block; parameters are the user's again after it."""
        with ExitStack() as stack:
            for system in self.systems:
                stack.enter_context(system.registers.lent())
            yield

    def tell(self, n: int) -> None:
        """Time and data are those of u_n of the present run. Collective for data."""
        if self._current is not None:
            self.evolution.clock.set(n, self._current.grid)

    def show(self, record: Array) -> None:
        """The registers of the states hold those of a record, of what the steps solve for. Local."""
        for state, ages in zip(self.evolution.states, self.records.local, strict=True):
            state.x.array[:] = record[ages[0]]
            hand_out(state)

    # -- a step forwards -----------------------------------------------------------------------------------------------

    def install(self, run: Run, n: int, before: Array, after: Array) -> None:
        """The registers hold the step from u_n to u_{n+1}. Collective for data."""
        self.told(run, n)
        for i in self.steps:
            if isinstance(i, int):
                self.point(run, i, n, before, after)

    def told(self, run: Run, n: int) -> None:
        """A run is under way, time and data are those of u_{n+1}. Collective for data."""
        self.begin(run)
        self.tell(n + 1)

    def point(self, run: Run, i: int, n: int, before: Array, after: Array, *, solved: bool = True) -> Point:
        """Equation i of the step from u_n to u_{n+1} is installed, which is told. Local."""
        system, stage = self.systems[i], self.systems[i].stage
        state = self.records.taken(Input(stage.component, 0 if solved else 1), before, after)
        taken = [self.records.taken(x, before, after) for x in stage.inputs]
        return system.install(run, run.stages[i], n, taken, state, solved=solved)

    def _solved(self, run: Run, i: int, n: int, before: Array, after: Array) -> Array:
        self.told(run, n)
        point = self.point(run, i, n, before, after, solved=False)
        self.counts["forward"] += 1
        return self.systems[i].solve(point, run.stages[i])

    def solve(self, run: Run, n: int, before: Array) -> Array:
        """The record at u_{n+1} from that at u_n.

        Raises:
            SolveFailed: naming the step.
        """
        after = self.records.aged(before)
        for i in self.steps:
            if isinstance(i, Sum):
                self._add_up(i, run, n, before, after)
                continue
            try:
                state = self._solved(run, i, n, before, after)
            except SolveFailed as failure:
                raise SolveFailed(f"{self.evolution.name}: {self.evolution.place(n + 1)}: {failure}") from failure
            after[self.records.local[self.systems[i].stage.component][0]] = state
        return after

    def _add_up(self, combination: Sum, run: Run, n: int, before: Array, after: Array) -> None:
        """Set the state of a combination: of records, or of their tangents, (..., local). Local."""
        into = after[..., self.records.local[combination.component][0]]
        for place, weight in zip(combination.inputs, combination.at(run.length(n)), strict=True):
            into += weight * self.records.taken(place, before, after)

    # -- tangents ------------------------------------------------------------------------------------------------------

    def initial_tangents(self, run: Run, parts: list[list[Array]]) -> Array:
        """The change of the record at the start for each direction: (k, local)."""
        substitution, states = self.evolution.substitution, list[Array]()
        for place, given in zip(self.plan.initials, self.evolution.initial_states, strict=True):
            if place is None:
                states.append(np.zeros((len(parts), len(given.x.array))))
                continue
            changes = np.array([p[place] for p in parts]).reshape(len(parts), -1)
            states.append(changes if substitution is None else changes * substitution.unknown_slope(run.parts[place]))
        du = self.records.started(states)
        for i in self.starts:
            changed = self._tangent(run, i, -1, run.initial, run.initial, du, du, parts, counted_as="tangent")
            self._put_start(du, self.systems[i].stage, changed)
        return du

    def tangents(
        self, run: Run, n: int, before: Array, after: Array, du: Array, parts: list[list[Array]], *, counted_as: str
    ) -> Array:
        """The change of the record at u_{n+1} from that at u_n, (k, local)."""
        changes = self.records.aged(du)
        for i in self.steps:
            if isinstance(i, Sum):
                self._add_up(i, run, n, du, changes)
            else:
                changed = self._tangent(run, i, n, before, after, du, changes, parts, counted_as=counted_as)
                changes[:, self.records.local[self.systems[i].stage.component][0]] = changed
        return changes

    def _tangent(
        self, run: Run, i: int, n: int, before: Array, after: Array, du: Array, changes: Array,
        parts: list[list[Array]], *, counted_as: str,
    ) -> Array:  # fmt: skip
        """The change of the state of equation i: (k, local with ghosts)."""
        system = self.systems[i]
        self.told(run, n)
        point = self.point(run, i, n, before, after)
        with system.operators.factor_here(point.key, derivatives=True) as factor:
            directions = self.directions(i, n, du, changes, parts)
            owned = system.sensitivity.state_tangents(point, directions, factor)
        self.counts[counted_as] += len(du)
        register = system.registers.tangent_state.x.array
        result = np.empty((len(du), len(register)))
        for k in range(len(du)):
            system.registers.install_state_tangent(owned[k])
            result[k] = register
        return result

    def directions(self, i: int, n: int, du: Array, changes: Array, parts: list[list[Array]]) -> list[list[Array]]:
        """dm of equation i for each direction: the changes of the states that it takes first. Local."""
        system = self.systems[i]
        taken = [self.records.taken(x, du, changes) for x in system.stage.inputs]
        return [[*(x[k] for x in taken), *system.of_step(p, n)] for k, p in enumerate(parts)]

    def close(self) -> None:
        """Free the factors and matrices."""
        for system in self.systems:
            system.close()


def _names(equations: Sequence[Stage]) -> list[str]:
    """Names of PETSc's options, one for each equation. Local."""
    names = [equation.problem.name for equation in equations]
    alike: Mapping[str, int] = {name: names.count(name) for name in names}
    return [name if alike[name] == 1 else f"{name}_{i}" for i, name in enumerate(names, 1)]


def _of_each(options: AnyOptions, steps: int, equations: int) -> list[Options | str | None]:
    """Options for each equation of a step, then for those at the start. Local.

    Raises:
        BadInput: for a list of another length.
    """
    if not isinstance(options, list | tuple):
        return [options] * equations  # type: ignore[list-item]
    if len(options) != steps:
        raise BadInput(f"options: expected one for each of the {steps} equations of a step, got {len(options)}")
    return [*options, *[None] * (equations - steps)]
