"""One equation of a step as algebra: which of its matrices last for how long, and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import ufl
from dolfinx import fem
from petsc4py import PETSc

from relax.base.fem.forms import Control, assembled, holds, jumps_with
from relax.base.fem.pointwise import PointLaw
from relax.base.la.factors import Key
from relax.base.la.options import Options
from relax.base.types import Array
from relax.engine.march.affine import AffineMatrix, scalars_in, slopes
from relax.engine.march.plan import Place, Run, StageRun
from relax.engine.residual.registers import Point
from relax.engine.residual.residual import Residual
from relax.engine.solve.factored import FactoredOperator
from relax.engine.solve.newton import Newton
from relax.engine.solve.sensitivity import Sensitivity
from relax.engine.solve.state import ForwardSolver
from relax.errors import BadProblem
from relax.problem.evolution import Evolution
from relax.problem.stages import Stage


class StageSystem:
    """A compiled equation of the steps, F(u_n, x, m_n) = 0. Collective, as is every method unless it says "Local".

    Its residual has the states x that it takes as first controls, so a tangent and an adjoint through time are those of
    one equation after the other. What does not change from step to step is assembled, and factored, once:

    - ∂F/∂u and ∂F/∂m that hold nothing that changes within a run last for the run, or for the map where they hold no
      control at all;
    - where the only thing that changes in them is what steps set Constants to, the length of a step, for each value;
    - where the only thing that changes in them are scalar controls, in which they are affine, their terms last so long,
      and are combined for each step.

    Args:
        evolution: the steps.
        stage: the equation.
        places: where its controls lie.
        observed: Functions and Constants of the observable, which are parameters.
        name: of its PETSc options.
        settings: Newton's tolerances; memory for factors.
        options: PETSc options or the name of a preset.
    """

    def __init__(
        self,
        evolution: Evolution,
        stage: Stage,
        places: Sequence[Place],
        observed: Sequence[Control],
        name: str,
        settings: Newton,
        options: Options | str | None,
    ) -> None:
        self.evolution = evolution
        self.stage = stage
        self.places = places
        problem = stage.problem
        self.num_inputs = len(stage.inputs)
        self.residual = Residual(problem, observed, evolution.clock.registers)
        self.registers = self.residual.registers
        self._moving = [c for c in problem.controls[: self.num_inputs] if isinstance(c, fem.Function)]
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
        self._holdings = [
            None if isinstance(problem.controls[i], PointLaw) else self._lasts(form, affine.get(i) is not None)
            for i, form in enumerate(sensitivity_forms)
        ]
        self._operator_lasts = self._lasts(weak.J, self._operator_affine is not None)
        self._stamp = Key()
        if weak.is_linear and jumps_with(weak.F, problem.state):
            raise BadProblem(
                "step: a condition in its residual depends on the state, which is not differentiable there; smooth it"
            )
        self._source = self._source_of_linear_steps()
        self.residual.expect_gradients(
            [lasts is not None for lasts in self._holdings], from_zero=weak.is_linear and self._source is None
        )
        self.operators = FactoredOperator(
            self.residual, name, settings.factor_memory, options,
            None if self._operator_affine is None else self._write_operator,
        )  # fmt: skip
        self.sensitivity = Sensitivity(
            self.residual, {i: partial(self._write_sensitivity, i) for i in self._sensitivity_affine}
        )
        self._forward = ForwardSolver(self.residual, self.operators, settings)

    # -- what changes, and when ----------------------------------------------------------------------------------------

    def _changes(self, form: ufl.Form, *, but: Sequence[Control] = ()) -> bool:
        """Whether a form holds anything, but for these, that differs between the steps of a run. Local."""
        evolution, problem = self.evolution, self.stage.problem
        registers = [problem.state, *self._moving, *evolution.per_step, *evolution.clock.registers]
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
        if form is self.residual.weak.J and self.residual.tied:
            return None  # its terms are those of the whole state
        if not scalars or self._changes(form, but=self._constants):
            return None
        terms = slopes(self.residual.weak, form, scalars)
        return None if terms is None else AffineMatrix(assemble, create, scalars, terms, self.residual.together, bcs)  # type: ignore[arg-type]

    def _lasts(self, form: ufl.Form | None, affine: bool) -> Callable[[Run, StageRun, int], Key] | None:
        """How to name the values of a form in a step of a run; None where they are made anew each time they are used.

        Local.
        """
        if form is None:
            return lambda run, mine, n: mine.everything_key
        if self._changes(form):
            if affine:
                return lambda run, mine, n: mine.step_keys[n]
            constants = self.evolution.clock.constants
            if self._changes(form, but=constants):
                return None
            standing = [id(c) for c in constants if holds(form, c)]
            whole = self._lasts_whole(form)
            return lambda run, mine, n: whole(run, mine, n).part(b"".join(run.constants[c][n + 1] for c in standing))
        return self._lasts_whole(form)

    def _lasts_whole(self, form: ufl.Form) -> Callable[[Run, StageRun, int], Key]:
        """How to name the values of a form that holds nothing that differs between the steps. Local."""
        if any(holds(form, c) for c in self.residual.controls):
            return lambda run, mine, n: mine.key
        if form is self.residual.weak.J:
            return lambda run, mine, n: mine.operator_key
        return lambda run, mine, n: mine.everything_key

    def _write_operator(self, matrix: PETSc.Mat) -> None:
        assert self._operator_affine is not None
        self._operator_affine.write(matrix, self._stamp)

    def _write_sensitivity(self, i: int, matrix: PETSc.Mat) -> None:
        self._sensitivity_affine[i].write(matrix, self._stamp)

    # -- runs and steps ------------------------------------------------------------------------------------------------

    def run(self) -> StageRun:
        """What it needs of a run with the parameters as they are now."""
        parameters = self.residual.parameters
        values = parameters.snapshot()
        keys = [Key() for _ in range(self.evolution.num_steps + 1)]
        return StageRun(values, parameters.operator_key, parameters.everything_key, Key(), keys)

    def begin(self, mine: StageRun) -> None:
        """The parameters of a run are installed. Local."""
        self.registers.install_parameters(mine.parameters)
        # What terms hold besides scalars is parameters, where no field or law that all steps share stands in them.
        own = self.residual.controls[self.num_inputs :]
        shared = [c for c, place in zip(own, self.places, strict=True) if not place.per_step]
        fields = any(isinstance(c, fem.Function | PointLaw) for c in shared)
        self._stamp = mine.key if fields else mine.everything_key

    def of_step(self, parts: Sequence[Array], n: int) -> list[Array]:
        """The parts of its controls but the states that it takes, for the step from u_n to u_{n+1}. Local."""
        return [parts[place.at(n)] for place in self.places]

    def install(
        self, run: Run, mine: StageRun, n: int, taken: Sequence[Array], state: Array, *, solved: bool = True
    ) -> Point:
        """The registers hold the step from u_n to u_{n+1}. Local, once the step's time and data are set.

        Args:
            run: under way.
            mine: what it means to this equation.
            n: the step; -1 is the start.
            taken: the states that the equation takes.
            state: u_{n+1}, or a guess of it.
            solved: whether it is u_{n+1}: then its register holds it, too.
        """
        parts = [*taken, *self.of_step(run.parts, n)]
        self.registers.install_controls(parts)
        if solved:
            self.registers.state.x.array[:] = state
        lasting = tuple(None if lasts is None else lasts(run, mine, n) for lasts in self._holdings)
        key = mine.step_keys[n] if self._operator_lasts is None else self._operator_lasts(run, mine, n)
        return Point(state, parts, mine.parameters, key, lasting, mine.step_keys[n])

    def solve(self, point: Point, mine: StageRun) -> Array:
        """The state at the installed point, from its guess: local values with ghosts.

        Raises:
            SolveFailed: in words.
        """
        residual = self.residual
        if residual.is_linear:
            self._forward.linear(point.key, None if self._source is None else self._source.at(mine, point))
        else:
            self._forward.nonlinear(point.state)
        return residual.state.x.array.copy()

    def _source_of_linear_steps(self) -> LinearSource | None:
        """F(0, x, m_n) by matrices, where a state that it takes goes through one. Local."""
        weak, controls = self.residual.weak, self.residual.controls
        if not weak.is_linear:
            return None
        by_matrix = []
        for i, (control, lasts) in enumerate(zip(controls, self._holdings, strict=True)):
            form = weak.sensitivities[i]
            if lasts is None or form is None or jumps_with(weak.F, control) or holds(weak.J, control):
                continue
            # Affine in the control: a source. What is the same in all steps is assembled once, with the rest.
            is_field = isinstance(control, fem.Function) and self.evolution.is_per_step(control)
            if i < self.num_inputs or (is_field and not any(holds(form, c) for c in controls)):
                by_matrix.append(i)
        if not any(i < self.num_inputs for i in by_matrix):
            return None
        zeroed = [self.stage.problem.state, *(controls[i] for i in by_matrix)]
        rest = weak.at_zero(zeroed)
        return LinearSource(self, tuple(by_matrix), rest, rest is not None and self._changes(rest))

    def close(self) -> None:
        """Free the factors and matrices."""
        self._forward.close()
        self.operators.close()
        self.sensitivity.destroy()
        self.residual.tied.destroy()
        for affine in (self._operator_affine, *self._sensitivity_affine.values()):
            if affine is not None:
                affine.destroy()


class LinearSource:
    """F(0, x, m_n) of an equation that is affine in all states: products with matrices, and a remainder.

    Args:
        system: the equation.
        by_matrix: the controls that go through matrices.
        rest: F with the state and these controls replaced by zero.
        changes: whether the remainder differs between the steps of a run.
    """

    def __init__(self, system: StageSystem, by_matrix: tuple[int, ...], rest: ufl.Form | None, changes: bool) -> None:
        self._system = system
        self._by_matrix = by_matrix
        self._form = system.residual.together.add(lambda: rest)
        self._changes = changes
        self._dual = fem.Function(system.stage.problem.state.function_space)
        self._source = self._dual.x.array
        self._run: StageRun | None = None

    def at(self, run: StageRun, point: Point) -> Array:
        """(owned,) for the installed step. Collective."""
        total = self._system.sensitivity.products(point, [point.controls], self._by_matrix)[0]
        form = self._form()
        if form is not None:
            if self._changes or self._run is not run:
                self._system.residual.laws.refresh()
                self._source = assembled(form, self._dual)
                self._run = run
            total += self._source
        return total
