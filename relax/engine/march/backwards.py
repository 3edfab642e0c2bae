"""One step backwards: dual vectors of what it gives become those of what it takes, and what controls collect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from relax.base.types import Array
from relax.engine.march.plan import Run
from relax.engine.march.system import StepSystem
from relax.engine.residual.registers import Point
from relax.problem.stages import Input, Sum

#: Takes what a control collects: the place of its part, (k, owned) of a field or (k, entries) of a Constant.
Collect = Callable[[int, Array], None]


class Backwards:
    """The transpose of steps, and its derivative. Collective, as is every method unless it says "Local".

    An adjoint goes through the equations of a step against their order: each hands its dual vectors on to the states
    that it has taken, of this step or of earlier ones.

    Args:
        system: the steps.
    """

    def __init__(self, system: StepSystem) -> None:
        self._system = system
        self._records = system.records

    # -- first order ---------------------------------------------------------------------------------------------------

    def back(self, run: Run, n: int, before: Array, after: Array, duals: Array, collect: Collect | None) -> Array:
        """From dual vectors of the record at u_{n+1} to those of the record at u_n: (k, owned).

        Args:
            run: under way.
            n: the step.
            before: the record at u_n.
            after: the record at u_{n+1}.
            duals: (k, owned).
            collect: takes what controls collect; left out, they are not asked for.
        """
        here, earlier = duals.copy(), self._records.aged_duals(duals)
        for i in reversed(self._system.steps):
            if isinstance(i, Sum):
                self._hand_on(i, run, n, earlier, here)
            else:
                self._adjoint(run, i, n, before, after, earlier, here, collect)
        return earlier

    def _hand_on(self, combination: Sum, run: Run, n: int, earlier: Array, here: Array) -> None:
        """The transpose of ``_add_up``. Local."""
        dual = here[..., self._records.owned[combination.component][0]]
        for place, weight in zip(combination.inputs, combination.at(run.length(n)), strict=True):
            into = self._records.dual(place, earlier, here)
            into += weight * dual

    def _adjoint(
        self, run: Run, i: int, n: int, before: Array, after: Array, earlier: Array, here: Array,
        collect: Collect | None,
    ) -> None:  # fmt: skip
        """Equation i hands on its dual vectors."""
        system = self._system.systems[i]
        self._system.told(run, n)
        point = self._system.point(run, i, n, before, after)
        dual = here[:, self._records.owned[system.stage.component][0]]
        asked = None if collect is not None else range(system.num_inputs)
        gradients = system.sensitivity.gradients(point, self._adjoints(i, point, dual), dual, which=asked)
        self._spread(i, n, gradients, earlier, here, collect)

    def _adjoints(self, i: int, point: Point, duals: Array) -> Array:
        """λ of equation i for each of its dual vectors: (k, owned)."""
        with self._system.systems[i].operators.factor_here(point.key, derivatives=True) as factor:
            adjoints = self._system.systems[i].sensitivity.adjoints(duals, factor)
        self._system.counts["adjoint"] += len(duals)
        return adjoints

    def _spread(
        self, i: int, n: int, gradients: Sequence[Array], earlier: Array, here: Array, collect: Collect | None
    ) -> None:
        """Gradients of equation i, the states that it takes first, to where they belong. Local."""
        system = self._system.systems[i]
        for place, gradient in zip(system.stage.inputs, gradients, strict=False):
            into = self._records.dual(place, earlier, here)
            into += gradient
        if collect is not None:
            for of_control, gradient in zip(system.places, gradients[system.num_inputs :], strict=True):
                collect(of_control.at(n), gradient)

    def back_to_start(self, run: Run, duals: Array, collect: Collect) -> None:
        """From dual vectors of the record at the start, (k, owned), to what controls collect."""
        states = self._at_start(duals)
        for i in reversed(self._system.starts):
            self._adjoint(run, i, -1, run.initial, run.initial, states, states, collect)
        self._to_initials(states, run, collect)

    def _at_start(self, duals: Array) -> Array:
        """Dual vectors of the states at the start, whose past is the same: those of a record with u_0 alone. Local."""
        result = np.zeros_like(duals)
        for ages, dual in zip(self._records.owned, self._records.started_duals(duals), strict=True):
            result[:, ages[0]] = dual
        return result

    def _to_initials(self, duals: Array, run: Run, collect: Collect) -> None:
        substitution = self._system.evolution.substitution
        for place, ages in zip(self._system.plan.initials, self._records.owned, strict=True):
            if place is not None:
                dual = duals[:, ages[0]]
                slope = 1.0 if substitution is None else substitution.unknown_slope(run.parts[place])[: dual.shape[1]]
                collect(place, dual * slope)

    # -- second order --------------------------------------------------------------------------------------------------

    def back_second(
        self, run: Run, n: int, before: Array, after: Array, duals: Array, second: Array,
        parts: list[list[Array]], which: npt.NDArray[np.int64], collect: Collect,
    ) -> tuple[Array, Array]:  # fmt: skip
        """``back`` of dual vectors, and of their derivatives along (du, dm)[which]: both (k, owned).

        Args:
            run: under way.
            n: the step.
            before: the record at u_n with its tangents, (1 + l, local).
            after: the one at u_{n+1}.
            duals: (k, owned).
            second: their derivatives.
            parts: dm, for each of the l directions.
            which: the direction of each row.
            collect: takes the derivatives of what controls collect.
        """
        here, earlier = duals.copy(), self._records.aged_duals(duals)
        here_2, earlier_2 = second.copy(), self._records.aged_duals(second)
        for i in reversed(self._system.steps):
            if isinstance(i, Sum):
                self._hand_on(i, run, n, earlier, here)
                self._hand_on(i, run, n, earlier_2, here_2)
            else:
                self._second(run, i, n, before, after, (earlier, here), (earlier_2, here_2), parts, which, collect)
        return earlier, earlier_2

    def back_to_start_second(
        self, run: Run, record: Array, duals: Array, second: Array, parts: list[list[Array]],
        which: npt.NDArray[np.int64], collect: Collect,
    ) -> None:  # fmt: skip
        """``back_to_start`` of the derivatives of dual vectors, with a record and its tangents."""
        first, states = self._at_start(duals), self._at_start(second)
        for i in reversed(self._system.starts):
            self._second(run, i, -1, record, record, (first, first), (states, states), parts, which, collect)
        self._to_initials(states, run, collect)
        substitution, place = self._system.evolution.substitution, self._system.plan.initial
        if substitution is not None and place is not None:
            directions = np.array([parts[k][place] for k in which])
            bent = directions * substitution.unknown_curvature(run.parts[place])
            collect(place, duals * bent[:, : duals.shape[1]])

    def _second(
        self, run: Run, i: int, n: int, before: Array, after: Array, first: tuple[Array, Array],
        second: tuple[Array, Array], parts: list[list[Array]], which: npt.NDArray[np.int64], collect: Collect,
    ) -> None:  # fmt: skip
        """Equation i hands on its dual vectors, (earlier, here), and their derivatives."""
        system, residual = self._system.systems[i], self._system.systems[i].residual
        self._system.told(run, n)
        point = self._system.point(run, i, n, before[0], after[0])
        own = self._records.owned[system.stage.component][0]
        dual, change = first[1][:, own], second[1][:, own]
        tangents = self._records.taken(Input(system.stage.component, 0), before[1:], after[1:])
        steps = self._system.directions(i, n, before[1:], after[1:], parts)
        adjoints = self._adjoints(i, point, dual)
        rhs = change.copy()
        for row, k in enumerate(which):
            self._install_second(i, adjoints[row], tangents[k], steps[k])
            rhs[row] -= residual.second_state_source()
        changes = self._adjoints(i, point, rhs)
        rows = []
        for row, k in enumerate(which):
            self._install_second(i, adjoints[row], tangents[k], steps[k])
            residual.registers.install_second_adjoint(changes[row])
            rows.append(residual.second_gradient(dual[row], change[row]))
        gradients = [-np.array(of_control) for of_control in zip(*rows, strict=True)]
        passed = system.sensitivity.gradients(point, adjoints, dual, which=range(system.num_inputs))
        self._spread(i, n, gradients, *second, collect)
        self._spread(i, n, passed, *first, None)

    def _install_second(self, i: int, adjoint: Array, du: Array, dm: list[Array]) -> None:
        registers = self._system.systems[i].registers
        registers.install_tangent(dm)
        registers.tangent_state.x.array[:] = du
        registers.install_adjoint(adjoint)
