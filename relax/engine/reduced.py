"""The reduced map m -> u(m) -> y = B(u(m), m) of a problem, stationary or in time, and an observable."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from petsc4py import PETSc

from relax.base import parallel
from relax.base.checkpoint import Checkpoint
from relax.base.checks import of_kind
from relax.base.fem.layout import ControlLayout, as_rows, control_layout
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.march import March, expanded
from relax.engine.march.system import AnyOptions
from relax.engine.protocols import Map, Solution, itself, not_pickled, shared
from relax.engine.solve.newton import Newton
from relax.engine.stationary import Stationary
from relax.engine.turn import turn
from relax.errors import BadInput, BadProblem
from relax.observe import Observable
from relax.observe.blocks import seen_of
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem

# Sums over ranks may differ by rounding; what a rank has left out does not.
_SAME = 1e-6


class ReducedMap(Map):
    """G(m) = B(u(m), m), where the state u(m) solves F(u, m; v) = 0.

    Collective: to make, to call, and every method but ``dot`` under ``layout="replicated"``.

    Control vectors string the problem's controls together. Under ``layout="replicated"`` every rank holds the whole
    vector, in an order that does not depend on the partition, and a script reads as if it were serial: copies that
    differ by rounding are rank 0's, others are refused. Under ``layout="owned"`` each rank holds the values it owns
    (DOLFINx's own order; constants, numbers of pieces and point sources, and weights of networks, on rank 0).
    Observations are whole on every rank in both.

    A deep copy, as that of a network, is the map itself; it cannot be pickled.

    After a call the problem's state and controls hold the point at which it last worked.

    Args:
        problem: the PDE: a ``Problem``, or an ``Evolution`` in time.
        observable: what is seen of the state, and of controls that stand in it; of an evolution, of its last state,
            unless ``AtSteps`` or ``TimeIntegral`` say otherwise. A control with a value in each step is seen beside u_n
            as the step that led to u_n had it, beside u_0 as the first step has it.
        solver: tolerances of Newton's method; memory for kept factors.
        options: PETSc options, under those of the command line and over the defaults, or the name of a preset
            ("direct", "direct_symmetric", "amg_cg", "amg_gmres"). Keys that start with ``lin_`` are for tangent and
            adjoint solves alone. Prefixes on the command line: ``-relax_<name>_`` and ``-relax_<name>_lin_``. Of an
            evolution of several equations these serve each of them, or a list has one for each; equations of the same
            name have the prefixes ``-relax_<name>_1_``, ``-relax_<name>_2_``, ...
        layout: "replicated" or "owned".
        storage: for equations in time: which states a linearisation point holds, and which it computes again, as a
            schedule of the package ``checkpoint_schedules`` that has not been used yet; it serves any number of points.
            Files go to a folder under ``TMPDIR``, each rank its own. None holds all states in memory. Derivatives are
            the same bit for bit (on one rank, where PETSc's solves are).

    Attributes:
        size_in: the length of the control vector that this rank hands over.
        size_out: the length of an observation.
        counts: how many states, tangents and adjoints have been solved for, each right-hand side counted, and each step
            of an evolution; of an evolution also ``stored``, the most states and tangents that a point held at once.

    Raises:
        BadProblem: when problem and observable do not fit together.
        SolveFailed: from any call that solves.
    """

    def __init__(
        self,
        problem: Problem | Evolution,
        observable: Observable,
        *,
        solver: Newton = Newton(),
        options: AnyOptions = None,
        layout: str = "replicated",
        storage: object = None,
    ) -> None:
        of_kind(problem, (Problem, Evolution), "a relax.Problem or a relax.Evolution", "problem")
        of_kind(observable, Observable, "a relax.Observable", "observable")
        of_kind(solver, Newton, "a relax.Newton", "solver")
        if options is not None:
            kinds: tuple[type, ...] = (str, Mapping)
            words = "PETSc options, a table of them or the name of a preset"
            if isinstance(problem, Evolution):
                words, kinds = f"{words}, or a list of one for each equation of a step", (*kinds, list, tuple)
            of_kind(options, kinds, words, "options")
        if not isinstance(problem, Evolution):
            observable = seen_of(observable, problem.state)
        self.problem: Problem | Evolution = problem
        self.observable = observable
        self.comm = problem.mesh.comm
        observable.check_controls(problem.controls)
        earlier: list[Any] = []
        if isinstance(problem, Evolution):
            earlier = [*(f for c in problem.components for f in c.earlier), *problem.earlier_blocks]
        if any(p is f for p in observable.parameters for f in earlier):
            raise BadProblem(
                "the observable depends on `previous`, which the steps overwrite; AtSteps looks at any step's state"
            )
        self.counts = {"forward": 0, "tangent": 0, "adjoint": 0}
        least, minus_most = parallel.smallest(self.comm, np.array([observable.size, -observable.size]))
        if least != -minus_most:
            raise BadProblem(
                f"{type(observable).__name__}.size: expected the same on every rank, got {observable.size} here; "
                "y is whole on each of them"
            )
        self._is_compared = False
        self.solution: Solution
        self._march: March | None = None
        if isinstance(problem, Evolution):
            self.layout: ControlLayout = control_layout(layout, self.comm, expanded(problem))
            self._march = March(problem, observable, self.layout, self.counts, solver, options, storage)
            self.solution = self._march
        elif storage is not None:
            raise BadInput("storage: a stationary problem has no trajectory to store; leave it None")
        else:
            self.layout = control_layout(layout, self.comm, problem.controls)
            chosen = options if isinstance(options, str | Mapping) else None
            self.solution = Stationary(problem, observable, self.layout, self.counts, solver, chosen)
        self.residual = self.solution.residual
        self.size_in = self.layout.size
        self.size_out = observable.size

    __copy__ = itself
    __deepcopy__ = shared
    __reduce_ex__ = not_pickled

    # -- values --------------------------------------------------------------------------------------------------------

    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m), shape (..., size_in) -> (..., size_out).

        Leading axes are samples. They cost one solve each, except where the residual is affine in state and controls
        together (a linear source): then all samples go through one block solve with one factor.
        """
        controls = self.layout.checked(m, "control")
        with turn(self.problem.state):
            values = self.solution.values(as_rows(controls))
        self.compare(values)
        return values.reshape(*controls.shape[:-1], self.size_out)

    def linearize_rows(self, rows: Array) -> list[Linearization]:
        """``linearize_each`` of rows that ``layout.checked`` has seen: they are not looked at again."""
        with turn(self.problem.state):
            points = self.solution.linearize(rows)
        self.compare(np.array([value for _, value in points]))
        return [Linearization(self, derivatives, value) for derivatives, value in points]

    def compare(self, values: Array) -> None:
        """See once that all ranks have seen the same: an observable of one's own may have left out a sum over them."""
        if self._is_compared or self.comm.size == 1:
            return
        gap, size = np.abs(values - parallel.from_rank_0(self.comm, values)), np.abs(values)
        # A state of zeros shows nothing.
        self._is_compared = parallel.any_rank(self.comm, bool(size.max(initial=0.0) > 0.0))
        if parallel.any_rank(self.comm, bool(gap.max(initial=0.0) > _SAME * size.max(initial=0.0))):
            raise BadProblem(
                f"{type(self.observable).__name__}.value: expected the same numbers on every rank, got others "
                "on some; what each rank has of an integral or a norm is to be added up, with comm.allreduce"
            )

    def trajectory(
        self, m: npt.ArrayLike, *, checkpoint: Checkpoint | None = None
    ) -> Iterator[tuple[int, float | None]]:
        """The states of an evolution, one after the other: (n, time) with ``problem.state`` holding u_n, n = 0, ..., N.

        Collective. The time is None where the evolution does not know the length of its steps. Nothing is stored.
        Other calls may come between two states. With a ``relax.Checkpoint`` of its own the run goes on, after its
        process has ended, from the last step that was kept, which is the first one given then.

        Raises:
            BadInput: for a stationary problem, a control of the wrong shape, or a checkpoint of another control.
            SolveFailed: naming the step.
        """
        control = self.layout.checked(m, "control")
        if self._march is None or control.ndim != 1:
            raise BadInput(f"trajectory: expected an Evolution and one control of shape ({self.size_in},)")
        return self._in_turn(self._march.trajectory(control, checkpoint))

    def _in_turn(self, states: Generator[tuple[int, float | None]]) -> Iterator[tuple[int, float | None]]:
        try:
            while True:
                with turn(self.problem.state):
                    try:
                        reached = next(states)
                    except StopIteration:
                        return
                yield reached
        finally:
            states.close()

    def present_control(self) -> Array:
        """The control vector of what the problem's controls hold now, the same in each step. Collective."""
        return self.layout.of_values(self.solution.present_parts())

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the factors and matrices. Collective. The map and its linearisation points are of no use afterwards."""
        self.solution.close()
        PETSc.garbage_cleanup(self.comm)
