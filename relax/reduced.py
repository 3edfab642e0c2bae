"""The reduced map m -> u(m) -> y = B(u(m)) of a problem and an observable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from petsc4py import PETSc

from relax import _petsc, parallel
from relax.coefficients import interpolated
from relax.errors import BadInput, BadProblem, SolveFailed
from relax.factors import Factor, FactorStore, Key
from relax.forms import num_owned
from relax.layout import ControlLayout, as_rows, control_layout
from relax.linear import LinearSolver
from relax.linearization import BLOCK, Linearization
from relax.log import timed
from relax.observe import Observable
from relax.point import Point
from relax.problem import Problem
from relax.residual import Residual
from relax.sensitivity import Sensitivity
from relax.solver import Newton, NewtonSolver, check_linear, solve_linear

Array = npt.NDArray[np.float64]


class ReducedMap:
    """G(m) = B(u(m)), where the state u(m) solves F(u, m; v) = 0.

    Collective: to make, to call, and every method but ``dot`` under ``layout="replicated"``.

    Control vectors string the problem's controls together. Under ``layout="replicated"`` every rank holds the whole
    vector, in an order that does not depend on the partition, and rank 0's copy counts: a script reads as if it were
    serial. Under ``layout="owned"`` each rank holds the values it owns (DOLFINx's own order; constants on rank 0).
    Observations are whole on every rank in both.

    After a call the problem's state and controls hold the point at which it last worked.

    Args:
        problem: the PDE.
        observable: what is seen of the state.
        solver: tolerances of Newton's method; memory for kept factors.
        options: PETSc options, under those of the command line and over the defaults, or the name of a preset
            ("direct", "direct_symmetric", "amg_cg", "amg_gmres"). Keys that start with ``lin_`` are for tangent and
            adjoint solves alone. Prefixes on the command line: ``-relax_<name>_`` and ``-relax_<name>_lin_``.
        layout: "replicated" or "owned".
        storage: for equations in time only; leave it None for a stationary problem.

    Attributes:
        size_in: the length of the control vector that this rank hands over.
        size_out: the length of an observation.
        counts: how many states, tangents and adjoints have been solved for, each right-hand side counted.

    Raises:
        BadProblem: when problem and observable do not fit together.
        SolveFailed: from any call that solves.
    """

    def __init__(
        self,
        problem: Problem,
        observable: Observable,
        *,
        solver: Newton = Newton(),
        options: _petsc.Options | str | None = None,
        layout: str = "replicated",
        storage: object = None,
    ) -> None:
        if storage is not None:
            raise BadInput("storage: a stationary problem has no trajectory to store; leave it None")
        observable.check_state(problem.state)
        self.problem = problem
        self.observable = observable
        self.comm = problem.mesh.comm
        hidden = [c for c in problem.controls if any(c is p for p in observable.parameters)]
        if hidden:
            raise BadProblem(
                f"the observable depends on the control {hidden[0]} directly; expected one of the state alone. A "
                "term in the control belongs to the optimiser, as a prior or a penalty"
            )
        self.residual = Residual(problem, observable.parameters)
        self.layout: ControlLayout = control_layout(layout, self.comm, problem.controls)
        self.size_in = self.layout.size
        self.size_out = observable.size
        self.counts = {"forward": 0, "tangent": 0, "adjoint": 0}
        self._solver = solver
        self._prefix = f"relax_{problem.name}_"
        self._options, self._lin_options = self._solver_options(_petsc.preset(options))
        self._factors = FactorStore(
            self.comm, lambda: self._new_factor(self._prefix, self._options), solver.factor_memory
        )
        # A linear problem has one operator for the state and its derivatives; another solver for it is the user's wish.
        self._lin_factors = self._factors
        if self._lin_options is not None:
            lin_options = self._lin_options
            self._lin_factors = FactorStore(
                self.comm, lambda: self._new_factor(self._prefix + "lin_", lin_options), solver.factor_memory
            )
        self._guess = problem.state.x.array.copy()
        self._newton: NewtonSolver | None = None
        self.sensitivity = Sensitivity(self.residual)
        self._parameters = self.residual.parameter_values()
        self._constant_key = Key()
        self._operator_parameters = self._parameters
        self._known_linear = False

    def _solver_options(self, options: _petsc.Options | None) -> tuple[dict[str, object], dict[str, object] | None]:
        given = dict(_petsc.known(options or {}))
        lin = {k.removeprefix("lin_"): v for k, v in given.items() if k.startswith("lin_")}
        forward = {k: v for k, v in given.items() if not k.startswith("lin_")}
        default = _petsc.DIRECT_SYMMETRIC if self.residual.is_self_adjoint else _petsc.DIRECT
        chosen = _petsc.merged(default, forward)
        own_lin = bool(lin) or _petsc.has_user_options(self._prefix + "lin_")
        return chosen, _petsc.merged(chosen, lin) if own_lin else None

    def _new_factor(self, prefix: str, options: _petsc.Options) -> Factor:
        solver = LinearSolver(self.comm, prefix, options, self_adjoint=self.residual.is_self_adjoint)
        return Factor(solver.placed(self.residual.create_matrix(), self.residual.assemble_matrix), solver)

    # -- values --------------------------------------------------------------------------------------------------------

    def dot(self, a: Array, b: Array) -> float:
        """The inner product of two control vectors over all ranks. Collective under ``layout="owned"``."""
        return self.layout.dot(a, b)

    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m), shape (..., size_in) -> (..., size_out).

        Leading axes are samples. They cost one solve each, except where the residual is affine in state and controls
        together (a linear source): then all samples go through one block solve with one factor.
        """
        controls = self.layout.checked(m, "control")
        lead = controls.shape[:-1]
        rows = as_rows(controls)
        if len(rows) > 1 and self.residual.is_affine:
            values = [value for _, value in self._affine_batch(rows)]
        else:
            values = [self._evaluate(row) for row in rows]
        return np.array(values).reshape(*lead, self.size_out)

    def linearize(self, m: npt.ArrayLike) -> Linearization:
        """Solve at one control, shape (size_in,), and return the linearisation point, which owns its state."""
        control = self.layout.checked(m, "control")
        if control.ndim != 1:
            raise BadInput(
                f"linearize: expected one control of shape ({self.size_in},), got {control.shape}; "
                "linearise at each sample by itself, or use linearize_each"
            )
        return Linearization(self, self._solve(control), self._observe())

    def linearize_each(self, m: npt.ArrayLike) -> list[Linearization]:
        """Linearisation points of several controls (k, size_in); one block solve where the residual is affine."""
        rows = as_rows(self.layout.checked(m, "control"))
        if len(rows) > 1 and self.residual.is_affine:
            return [Linearization(self, point, value) for point, value in self._affine_batch(rows)]
        return [Linearization(self, self._solve(row), self._observe()) for row in rows]

    def _evaluate(self, control: Array) -> Array:
        self._solve(control)
        return self._observe()

    def _observe(self) -> Array:
        value = self.observable.value(self.residual.state)
        if not np.isfinite(value).all():
            raise SolveFailed(
                f"the observation has {np.count_nonzero(~np.isfinite(value))} entries that are not finite: "
                "the state overflowed. Is a coefficient out of range?"
            )
        return value

    def _solve(self, control: Array) -> Point:
        """Solve for the state; its register and the controls' hold the point afterwards."""
        residual = self.residual
        parts = self.layout.split(control)
        residual.install(parts)
        key = self._key_for_parameters() if residual.operator_is_constant else Key()
        if residual.is_linear:
            with self.factor_here(key) as factor:
                solve_linear(residual, factor)
                if not self._known_linear:
                    self._known_linear = check_linear(residual, factor)
        else:
            self._solve_nonlinear()
        self.counts["forward"] += 1
        self._refresh_parameters()
        return Point(residual.state.x.array.copy(), parts, self._parameters, key)

    def _solve_nonlinear(self) -> None:
        if self._newton is None:
            self._newton = NewtonSolver(self.residual, self._solver, self._prefix, self._options, self._guess)
        factor = self._factors.take()
        try:
            self._newton.solve(factor)
        except SolveFailed:
            self._factors.discard(factor)
            self._newton.destroy()
            self._newton = None
            raise

    def _refresh_parameters(self) -> None:
        """Take a new snapshot of the parameters if the user has changed them."""
        now = self.residual.parameter_values()
        changed = any(not np.array_equal(a, b) for a, b in zip(now, self._parameters, strict=True))
        if now and parallel.any_rank(self.comm, changed):
            self._parameters = now

    def _key_for_parameters(self) -> Key:
        """The key of an operator that depends on no control: a new one when a parameter in it has changed."""
        self._refresh_parameters()
        if self._operator_parameters is not self._parameters:
            pairs = zip(self._parameters, self._operator_parameters, self.residual.in_operator, strict=True)
            if parallel.any_rank(self.comm, any(held and not np.array_equal(a, b) for a, b, held in pairs)):
                self._constant_key = Key()
            self._operator_parameters = self._parameters
        return self._constant_key

    # -- operators -----------------------------------------------------------------------------------------------------

    @contextmanager
    def factor_here(self, key: Key, *, derivatives: bool = False) -> Iterator[Factor]:
        """The factor of the operator at the point that the registers hold, kept from before or made now.

        Collective. A factor in which a solve fails within the block is destroyed.

        Args:
            key: names the point.
            derivatives: for tangent and adjoint solves, which may have solver options of their own.
        """
        store = self._lin_factors if derivatives else self._factors
        factor = store.find(key)
        fresh = factor is None
        factor = store.take() if factor is None else factor
        try:
            if fresh:
                with timed(f"{factor.solver.prefix}: operator"):
                    self.residual.assemble_matrix(factor.matrix)
                    factor.solver.factor(factor.matrix)
                factor.assign(key)
            yield factor
        except SolveFailed:
            store.discard(factor)
            raise

    def _affine_batch(self, rows: Array) -> Iterator[tuple[Point, Array]]:
        """Points and values at several controls of an affine problem: u(m) = u(0) + u'(0) m, in block solves."""
        residual = self.residual
        base = self._solve(np.zeros(self.size_in))
        for start in range(0, len(rows), BLOCK):
            block = [self.layout.split(row) for row in rows[start : start + BLOCK]]
            residual.state.x.array[:] = base.state
            with self.factor_here(base.key) as factor:
                changes = self.sensitivity.state_tangents(base.key, block, factor)
            self.counts["forward"] += len(block)
            for parts, change in zip(block, changes, strict=True):
                residual.install(parts)
                u = residual.state.x
                u.array[: residual.num_owned] = base.state[: residual.num_owned] + change
                u.scatter_forward()
                yield Point(u.array.copy(), parts, base.parameters, base.key), self._observe()

    def present_control(self) -> Array:
        """The control vector of what the problem's controls hold now. Collective."""
        parts = []
        for control in self.problem.controls:
            if isinstance(control, fem.Function):
                parts.append(control.x.array[: num_owned(control.function_space)])
            else:
                parts.append(np.asarray(control.value, dtype=np.float64).reshape(-1))
        return self.layout.join(parts)

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the factors and matrices. Collective. The map and its linearisation points are of no use afterwards."""
        # SNES first: it holds a factor's matrix, whose communicator may go with the factor.
        if self._newton is not None:
            self._newton.destroy()
        self._factors.destroy()
        if self._lin_factors is not self._factors:
            self._lin_factors.destroy()
        self.sensitivity.destroy()
        PETSc.garbage_cleanup(self.comm)

    def __enter__(self) -> ReducedMap:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def control_values(G: ReducedMap, *functions: Any) -> Array:
    """The control vector of given controls.

    Collective.

    Args:
        G: the map whose control layout counts.
        functions: one per control, in the problem's order (a single one serves all): a function of x, x of shape
            (3, num_points) as DOLFINx has it; a number or an array; for a field also a UFL expression.

    Returns:
        (size_in,).

    Raises:
        BadInput: for another number of functions than controls, or a function of the wrong shape.
    """
    controls = G.problem.controls
    given: list[Any] = list(functions) * (len(controls) if len(functions) == 1 else 1)
    if len(given) != len(controls):
        raise BadInput(
            f"control_values: expected 1 or {len(controls)} functions, one per control, got {len(functions)}"
        )
    return G.layout.join([_control_part(G, c, f) for c, f in zip(controls, given, strict=True)])


def _control_part(G: ReducedMap, control: fem.Function | fem.Constant, value: Any) -> Array:
    """Owned values of one control. Collective."""
    if isinstance(control, fem.Constant):
        with parallel.together(G.comm):
            numbers = value(np.zeros((3, 1))) if callable(value) else value
            part: Array = np.asarray(numbers, dtype=np.float64).reshape(-1)
            entries = int(np.prod(control.ufl_shape, dtype=np.int64))
            if part.size not in (1, entries):
                raise BadInput(f"control_values: expected {entries} numbers for a constant, got {part.size}")
            part = np.broadcast_to(part, (entries,)).copy()
    else:
        V = control.function_space
        part = interpolated(value, V).x.array[: num_owned(V)].copy()
    with parallel.together(G.comm):
        if not np.isfinite(part).all():
            raise BadInput(f"control_values: expected finite values for {control}, got NaN or infinity")
    return part
