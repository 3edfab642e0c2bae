"""One step as algebra: which of its matrices last for how long, and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import ufl
from dolfinx import fem
from petsc4py import PETSc

from relax.base.fem.forms import Control, assembled, holds, jumps_with
from relax.base.la.factors import Key
from relax.base.la.options import Options
from relax.base.types import Array
from relax.engine.march.affine import AffineMatrix, scalars_in, slopes
from relax.engine.march.plan import Plan, Run
from relax.engine.residual.registers import Point
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator
from relax.engine.solve.newton import Newton
from relax.engine.solve.sensitivity import Sensitivity
from relax.engine.solve.state import ForwardSolver
from relax.errors import BadProblem, SolveFailed
from relax.observe import Observable
from relax.problem.evolution import Evolution


class StepSystem:
    """The compiled step, F(u_n, u_{n-1}, m_n) = 0. Collective, as is every method unless it says "Local".

    Its residual has ``previous`` as first control, so a tangent and an adjoint through time are those of one step after
    the other. What does not change from step to step is assembled, and factored, once:

    - ∂F/∂u and ∂F/∂m that hold nothing that changes within a run last for the run, or for the map where they hold no
      control at all;
    - where the only thing that changes in them are scalar controls, in which they are affine, their terms last so long,
      and are combined for each step.

    Args:
        evolution: the equation.
        observable: what is seen of it.
        settings: Newton's tolerances; memory for factors.
        options: PETSc options or the name of a preset.
    """

    def __init__(
        self,
        evolution: Evolution,
        observable: Observable,
        settings: Newton,
        options: Options | str | None,
    ) -> None:
        self.evolution = evolution
        self.plan = Plan(evolution)
        problem = evolution.single_step
        # An initial state that is a control is none of the step's.
        observed = [p for p in observable.parameters if not any(p is c for c in evolution.controls)]
        self.residual = Residual(problem, observed, evolution.clock.registers)
        self.registers = self.residual.registers
        self._constants = [c for c in problem.controls if isinstance(c, fem.Constant)]
        weak = self.residual.weak
        sensitivity_forms = [
            weak.sensitivities[i] if isinstance(c, fem.Function) else weak.in_direction(weak.F, i)
            for i, c in enumerate(problem.controls)
        ]
        self._operator_affine = self._affine(
            weak.J, self.residual.create_matrix, self.residual.assemble_matrix, problem.bcs
        )
        affine: dict[int, AffineMatrix | None] = {}
        for i, form in enumerate(sensitivity_forms):
            if form is not None and isinstance(problem.controls[i], fem.Function):
                create = partial(self.residual.create_sensitivity, i)
                affine[i] = self._affine(form, create, partial(self.residual.assemble_sensitivity, i))
        self._sensitivity_affine = {i: a for i, a in affine.items() if a is not None}
        self._holdings = [self._lasts(form, affine.get(i) is not None) for i, form in enumerate(sensitivity_forms)]
        self._operator_lasts = self._lasts(weak.J, self._operator_affine is not None)
        self._stamp = Key()
        self._current: Run | None = None
        if weak.is_linear and jumps_with(weak.F, evolution.state):
            raise BadProblem(
                "step: a condition in its residual depends on the state, which is not differentiable there; smooth it"
            )
        self._source = self._source_of_linear_steps()
        self.residual.expect_gradients(
            [lasts is not None for lasts in self._holdings], from_zero=weak.is_linear and self._source is None
        )
        self.operators = FactoredOperator(
            self.residual, evolution.name, settings.factor_memory, options,
            None if self._operator_affine is None else self._write_operator,
        )  # fmt: skip
        self.sensitivity = Sensitivity(
            self.residual, {i: partial(self._write_sensitivity, i) for i in self._sensitivity_affine}
        )
        self._forward = ForwardSolver(self.residual, self.operators, settings)

    # -- what changes, and when ----------------------------------------------------------------------------------------

    def _changes(self, form: ufl.Form, *, but: Sequence[Control] = ()) -> bool:
        """Whether a form holds anything, but for these, that differs between the steps of a run. Local."""
        evolution = self.evolution
        registers = [evolution.state, evolution.previous, *evolution.per_step, *evolution.clock.registers]
        return any(holds(form, r) for r in registers if not any(r is c for c in but))

    def _affine(
        self,
        form: ufl.Form,
        create: Callable[[], PETSc.Mat],
        assemble: Callable[[PETSc.Mat], None],
        bcs: object = (),
    ) -> AffineMatrix | None:
        """The matrix of a form as one that is affine in scalar controls, where it is and these are all that changes."""
        scalars = scalars_in(form, self.residual.registers, self._constants)
        if not scalars or self._changes(form, but=self._constants):
            return None
        terms = slopes(self.residual.weak, form, scalars)
        return None if terms is None else AffineMatrix(assemble, create, scalars, terms, self.residual.together, bcs)  # type: ignore[arg-type]

    def _lasts(self, form: ufl.Form | None, affine: bool) -> Callable[[Run, int], Key] | None:
        """How to name the values of a form in a step of a run; None where they are made anew each time they are used.

        Local.
        """
        if form is None:
            return lambda run, n: run.everything_key
        if self._changes(form):
            if affine:
                return lambda run, n: run.step_keys[n]
            constants = self.evolution.clock.constants
            if self._changes(form, but=constants):
                return None
            standing = [id(c) for c in constants if holds(form, c)]
            whole = self._lasts_whole(form)
            return lambda run, n: whole(run, n).part(b"".join(run.constants[c][n + 1] for c in standing))
        return self._lasts_whole(form)

    def _lasts_whole(self, form: ufl.Form) -> Callable[[Run, int], Key]:
        """How to name the values of a form that holds nothing that differs between the steps. Local."""
        if any(holds(form, c) for c in self.residual.controls):
            return lambda run, n: run.key
        if form is self.residual.weak.J:
            return lambda run, n: run.operator_key
        return lambda run, n: run.everything_key

    def operator_key(self, run: Run, n: int) -> Key:
        """Names ∂F/∂u in the step from u_n to u_{n+1}. Local."""
        return run.step_keys[n] if self._operator_lasts is None else self._operator_lasts(run, n)

    def _write_operator(self, matrix: PETSc.Mat) -> None:
        assert self._operator_affine is not None
        self._operator_affine.write(matrix, self._stamp)

    def _write_sensitivity(self, i: int, matrix: PETSc.Mat) -> None:
        self._sensitivity_affine[i].write(matrix, self._stamp)

    # -- runs and steps ------------------------------------------------------------------------------------------------

    def initial_unknown(self, parts: list[Array]) -> Array:
        """What the steps start from with these expanded controls: u_0, or its unknown. Local."""
        place, substitution = self.plan.initial, self.evolution.substitution
        state: Array = self.evolution.initial_state.x.array if place is None else parts[place]
        return np.array(state) if substitution is None else substitution.unknown(state)

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
            initial: what the steps start from, where it is not what the controls say.
        """
        N = self.evolution.num_steps
        is_base = initial is not None
        if initial is None:
            initial = self.initial_unknown(parts)
            self.check(initial, 0)
        parameters = self.residual.parameters
        values = parameters.snapshot()
        keys = parameters.operator_key, parameters.everything_key, Key(), [Key() for _ in range(N)]
        grid = self.evolution.clock.grid()
        constants = self.evolution.clock.constants_of(grid)
        return Run(initial, grid, constants, parts, values, *keys, is_base)

    def begin(self, run: Run) -> None:
        """The parameters of a run are installed, if another run's were: before any step of it is. Local."""
        if self._current is run:
            return
        self._current = run
        self.registers.install_parameters(run.parameters)
        # What terms hold besides scalars is parameters, where no field that all steps share stands in them.
        shared = [
            c for c, place in zip(self.residual.controls[1:], self.plan.places, strict=True) if not place.per_step
        ]
        fields = any(isinstance(c, fem.Function) for c in shared)
        self._stamp = run.key if fields else run.everything_key
        if self.plan.initial is not None:
            self.evolution.initial_state.x.array[:] = run.parts[self.plan.initial]

    def end(self, run: Run | None = None) -> None:
        """Parameters are the user's again: the next step of any run installs its own. Local.

        Args:
            run: only if it is this one that is under way.
        """
        if run is None or self._current is run:
            self._current = None

    def tell(self, n: int) -> None:
        """Time and data are those of u_n of the present run. Collective for data."""
        if self._current is not None:
            self.evolution.clock.set(n, self._current.grid)

    def install(self, run: Run, n: int, before: Array, after: Array | None = None) -> Point:
        """The registers hold the step from u_n to u_{n+1}, and u_{n+1} where it is given. Collective for data."""
        self.begin(run)
        parts = [before, *self.plan.of_step(run.parts, n)]
        self.registers.install_controls(parts)
        self.tell(n + 1)
        if after is not None:
            self.registers.state.x.array[:] = after
        lasting = tuple(None if lasts is None else lasts(run, n) for lasts in self._holdings)
        state = before if after is None else after
        return Point(state, parts, run.parameters, self.operator_key(run, n), lasting, run.step_keys[n])

    def solve(self, run: Run, n: int, before: Array) -> Array:
        """u_{n+1} from u_n: local values with ghosts.

        Raises:
            SolveFailed: naming the step.
        """
        point = self.install(run, n, before)
        residual = self.residual
        try:
            if residual.is_linear:
                self._forward.linear(point.key, None if self._source is None else self._source.at(run, point))
            else:
                self._forward.nonlinear(before)
        except SolveFailed as failure:
            raise SolveFailed(f"{self.evolution.name}: {self.evolution.place(n + 1)}: {failure}") from failure
        return residual.state.x.array.copy()

    def _source_of_linear_steps(self) -> LinearSource | None:
        """F(0, u_{n-1}, m_n) by matrices, where ``previous`` goes through one. Local."""
        weak, previous = self.residual.weak, self.evolution.previous
        if not weak.is_linear or self._holdings[0] is None or holds(weak.J, previous) or jumps_with(weak.F, previous):
            return None
        by_matrix = [0]
        for i, (control, lasts) in enumerate(zip(self.residual.controls, self._holdings, strict=True)):
            # Affine in the control: a source. What is the same in all steps is assembled once, with the rest.
            form = weak.sensitivities[i]
            is_field = i > 0 and isinstance(control, fem.Function) and self.evolution.is_per_step(control)
            if is_field and lasts is not None and form is not None and not jumps_with(weak.F, control):
                if not any(holds(form, c) for c in self.residual.controls):
                    by_matrix.append(i)
        zeroed = [self.evolution.state, *(self.residual.controls[i] for i in by_matrix)]
        rest = weak.at_zero(zeroed)
        return LinearSource(self, tuple(by_matrix), rest, rest is not None and self._changes(rest))

    def close(self) -> None:
        """Free the factors and matrices."""
        self._forward.close()
        self.operators.close()
        self.sensitivity.destroy()
        for affine in (self._operator_affine, *self._sensitivity_affine.values()):
            if affine is not None:
                affine.destroy()


class LinearSource:
    """F(0, u_{n-1}, m_n) of a step that is affine in both states: a product with a matrix, and a remainder.

    Args:
        system: the step.
        by_matrix: the controls that go through matrices, ``previous`` first.
        rest: F with the state and these controls replaced by zero.
        changes: whether the remainder differs between the steps of a run.
    """

    def __init__(self, system: StepSystem, by_matrix: tuple[int, ...], rest: ufl.Form | None, changes: bool) -> None:
        self._system = system
        self._by_matrix = by_matrix
        self._form = system.residual.together.add(lambda: rest)
        self._changes = changes
        self._dual = fem.Function(system.evolution.state.function_space)
        self._source = self._dual.x.array
        self._run: Run | None = None

    def at(self, run: Run, point: Point) -> Array:
        """(owned,) for the installed step. Collective."""
        total = self._system.sensitivity.products(point, [point.controls], self._by_matrix)[0]
        form = self._form()
        if form is not None:
            if self._changes or self._run is not run:
                self._source = assembled(form, self._dual)
                self._run = run
            total += self._source
        return total
