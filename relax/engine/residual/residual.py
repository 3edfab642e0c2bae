"""One residual, compiled once, and everything UFL derives from it.

For F(u, m; v) with Lagrangian-like contraction L(u, m, λ) = F(u, m; λ) this gives, as assembled arrays and matrices,

- the residual F and the Jacobian A = ∂F/∂u,
- the tangent source ∂F/∂m dm, and ∂F/∂m as sparse matrices,
- the adjoint products (∂F/∂u)ᵀ λ and (∂F/∂m)ᵀ λ,
- the second-order terms of the Hessian action.

Dual vectors come back as arrays of owned values. Forms are compiled when first used, collectively, and never in a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TypeAlias

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import ufl
from dolfinx import fem, la
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.compiling import Later, Together
from relax.base.fem.forms import Control, assembled, num_owned, values_of
from relax.base.fem.pointwise import PointLaw
from relax.base.types import Array
from relax.engine.residual.clamped import ClampedValues
from relax.engine.residual.control_duals import ControlDuals
from relax.engine.residual.derived import DerivedForms
from relax.engine.residual.packing import PackedForm
from relax.engine.residual.registers import Parameters, Registers
from relax.engine.residual.symmetry import is_self_adjoint
from relax.engine.residual.tied import TiedState
from relax.engine.residual.weights import WeightGradients
from relax.problem.problem import Problem

Parts = Sequence[Array]
# How a derivative in one control is assembled; of weights this rank's part.
ControlForm: TypeAlias = PackedForm | fem.Form | Array | None


class Residual:
    """The compiled residual of a problem. Collective, as is every method unless it says "Local".

    Every product is taken at the point that the registers hold.

    Args:
        problem: the PDE.
        observed: Functions and Constants of the observable, parameters as those of the residual are.
        moving: parameters that are set by the solution itself: the time of a step, data.

    Attributes:
        registers: the problem's state and controls, and those of derivatives.
        state, controls: the problem's.
        boundary: which values of the state are given, and by which control.
        tied: which values of the state follow others.
        weak: the forms.
        laws: the point laws, whose numbers every assembly brings to the registers' point.
        parameters: snapshots of what the user may change.
        together: what is compiled with F and J.
    """

    def __init__(self, problem: Problem, observed: Sequence[Control] = (), moving: Sequence[Control] = ()) -> None:
        self.problem = problem
        self.registers = Registers(problem, observed, moving)
        self.state = self.registers.state
        self.controls = self.registers.controls
        self.comm = problem.mesh.comm
        V = self.state.function_space
        self.num_owned = num_owned(V)
        self.boundary = ClampedValues(problem, self.registers)
        self.tied = TiedState(problem, self.boundary, self._create_whole, self._write_whole)
        self._dual = fem.Function(V)
        self._given = fem.Function(V)
        self._control_duals = ControlDuals(self.registers)
        self.weak = DerivedForms(problem.residual, self.registers)
        self.laws = self.weak.laws
        self.parameters = Parameters(self.registers, self.weak.J)
        self.together = Together(problem.mesh)
        self._F = self.together.add(lambda: self.weak.F)
        self._J = self.together.add(lambda: self.weak.J)
        self._forms: dict[object, Later] = {}
        self._packed: dict[int, PackedForm] = {}
        self._weights = WeightGradients(self.weak, self.registers, self.together)

    # -- what depends on what ------------------------------------------------------------------------------------------

    @property
    def is_linear(self) -> bool:
        """F is affine in the state. Local."""
        return self.weak.is_linear

    @property
    def operator_is_constant(self) -> bool:
        """The Jacobian depends on neither state nor control. Local."""
        return self.weak.operator_is_constant

    @property
    def is_affine(self) -> bool:
        """F is affine in state and controls together, and so are the clamped values. Local."""
        return self.weak.is_affine and self.boundary.is_affine

    @property
    def goes_in_blocks(self) -> bool:
        """Whether states of several controls may be solved for together, as sums. Local.

        With a null space they are not: a control that no state belongs to is seen by itself alone.
        """
        return self.is_affine and self.problem.nullspace is None

    def has_sensitivity(self, i: int) -> bool:
        """Whether control i is a field that stands in F, apart from boundary values. Local."""
        return self.weak.sensitivities[i] is not None

    @cached_property
    def is_self_adjoint(self) -> bool:
        """A = Aᵀ for every state and control. Collective."""
        at_points = [f for law in self.laws.each for f in ([law.value, law.slope] if law.moves else [law.value])]
        return is_self_adjoint(self.registers, self._create_whole, self._write_whole, at_points)

    # -- first order ---------------------------------------------------------------------------------------------------

    def norm(self, owned: Array) -> float:
        """The Euclidean norm over all ranks of a dual vector's owned values."""
        return float(np.sqrt(parallel.dot(self.comm, owned, owned)))

    def create_matrix(self) -> PETSc.Mat:
        """A matrix with the Jacobian's sparsity. The caller destroys it."""
        return self.tied.create()

    def assemble_matrix(self, A: PETSc.Mat) -> None:
        """A = ∂F/∂u, rows and columns of clamped values replaced by the identity's; Tᵀ A T where values are tied."""
        self.laws.refresh()
        self.tied.write(A)

    def _create_whole(self) -> PETSc.Mat:
        return fem_petsc.create_matrix(self._J())

    def _write_whole(self, A: PETSc.Mat) -> None:
        A.zeroEntries()
        fem_petsc.assemble_matrix(A, self._J(), bcs=list(self.problem.bcs))
        A.assemble()

    def residual(self) -> Array:
        """F(u, m), zero in the rows of clamped values: (owned,); Tᵀ F where values are tied.

        The next call overwrites it.
        """
        owned = self._assemble(self._F(), slopes=False)
        self.tied.restrict(owned)
        return owned

    def residual_of_lifting(self, at_zero: Array | None = None) -> Array:
        """F(u0, m) for an F that is affine in the state, with u0 the given values and zero elsewhere: as ``residual``.

        F(0, m) and a lifting of the few cells at clamped values that are not zero: the state's terms, which are most of
        the work of ``residual``, drop out.

        Args:
            at_zero: F(0, m), (owned,), where it is known already.
        """
        J = self._J()  # collective: not under a condition of this rank
        self.laws.refresh()
        given = self._given.x.array
        given[:] = 0.0
        self.boundary.apply(given)
        bcs = self.tied.lifting(self._given, self.problem.bcs)
        self._dual.x.array[:] = 0.0
        if at_zero is None and (constant := self._constant()) is not None:
            fem.assemble_vector(self._dual.x.array, constant)
        if given.any():
            fem.apply_lifting(self._dual.x.array, [J], [bcs], alpha=-1.0)
        self._dual.x.scatter_reverse(la.InsertMode.add)
        owned = self._dual.x.array[: self.num_owned]
        if at_zero is not None:
            owned += at_zero
        self.tied.restrict(owned)
        return owned

    def of_random_lifting(self) -> Array:
        """F with given values times random factors and zero elsewhere, as ``residual``: of the size of its terms.

        The state's register is left as it was found.
        """
        u = self.state.x
        kept = u.array.copy()
        u.array[:] = 0.0
        self.boundary.apply(u.array)
        u.array[:] *= np.random.default_rng(0).uniform(0.5, 1.5, u.array.size)
        u.scatter_forward()
        values = self.residual()
        u.array[:] = kept
        return values

    def tangent_source(self, which: tuple[int, ...] | None = None) -> Array:
        """∂F/∂m dm at the installed dm: (owned,), unclamped. The next call overwrites it.

        Args:
            which: the controls that change; all of them when left out.
        """
        which = tuple(range(len(self.controls))) if which is None else which
        form = self._tangent(which)()
        self.laws.refresh()
        self.laws.refresh_tangents(which)
        return self._assemble(form)

    def operator_action(self) -> Array:
        """∂F/∂u du at the installed ``tangent_state``, clamped rows and columns included: (owned,)."""
        return self._assemble(self._form("action", lambda: self.weak.action)())

    def operator_adjoint_action(self) -> Array:
        """(∂F/∂u)ᵀ λ at the installed ``adjoint``, clamped rows and columns included: (owned,)."""
        return self._assemble(self._adjoint_action())

    def gradient(self, boundary_dual: Array | None, point: object, which: Sequence[int] | None = None) -> list[Array]:
        """(∂F/∂m)ᵀ λ at the installed ``adjoint``, plus what boundary values collect.

        Args:
            boundary_dual: (owned,) the dual vector of the state whose clamped entries go to the controls that give the
                clamped values; None when no control does.
            point: names what the registers hold but for ``adjoint``.
            which: the controls to assemble for, all when left out; others get what boundary values collect.

        Returns:
            A part per control: owned values of a field, all entries of a constant (the same on every rank).
        """
        asked = range(len(self.controls)) if which is None else which
        self.laws.refresh()
        forms = [self._gradient(i, point) if i in asked else None for i in range(len(self.controls))]
        return self._control_dual_parts(forms, boundary_dual, point=point)

    def _control_dual_parts(
        self,
        forms: Sequence[ControlForm],
        dual: Array | None,
        bent: Array | None = None,
        point: object = None,
    ) -> list[Array]:
        # What belongs to values that follow given ones is theirs.
        dual, bent = (None if d is None else self.tied.gathered(d[None])[0] for d in (dual, bent))

        def add(i: int, values: Array) -> None:
            form = forms[i]
            if isinstance(form, PackedForm):
                form.assemble(values, point)
            elif isinstance(form, np.ndarray):
                values += form
            elif form is not None:
                fem.assemble_vector(values, form)
            if dual is not None:
                self.boundary.collect(dual, i, values)
            if bent is not None:
                self.boundary.collect_change(bent, i, values)

        return self._control_duals.summed(add)

    def create_sensitivity(self, i: int) -> PETSc.Mat | None:
        """A matrix with the sparsity of ∂F/∂m of control i, if that is a field in the residual. For the caller to free.

        None for a constant, and where ∂F/∂m is zero.
        """
        form = self._sensitivity(i)()
        return None if form is None else fem_petsc.create_matrix(form)

    def assemble_sensitivity(self, i: int, C: PETSc.Mat) -> None:
        """The matrix ∂F/∂m of control i, rows of clamped values not zeroed."""
        form = self._sensitivity(i)()
        self.laws.refresh()
        C.zeroEntries()
        fem_petsc.assemble_matrix(C, form)
        C.assemble()

    def constant_sensitivity(self, i: int) -> Array | None:
        """∂F/∂m of control i, if it is a Constant in the residual: (entries, owned), a row for each entry."""
        control = self.controls[i]
        if isinstance(control, fem.Function) or self.weak.gradients[i] is None:
            return None
        direction = values_of(self.registers.tangent_controls[i])
        rows = []
        for entry in range(direction.size):
            direction[...] = 0.0
            direction.reshape(-1)[entry] = 1.0
            rows.append(self.tangent_source((i,)).copy())
        return np.array(rows)

    # -- second order --------------------------------------------------------------------------------------------------

    def second_state_source(self) -> Array:
        """(F_uu du + F_um dm)ᵀ λ at the installed du, dm and λ: (owned,). The next call overwrites it."""
        form = self._second_order[0]()
        self._refresh_changes()
        return self._assemble(form)

    def second_gradient(self, dual: Array | None, second_dual: Array) -> list[Array]:
        """F_mᵀ dλ + (F_mu du + F_mm dm)ᵀ λ at the installed dλ, du, dm, λ, plus what boundary values collect.

        Args:
            dual: (owned,) the dual vector of the state behind λ; only asked for where boundary values are not affine.
            second_dual: (owned,) its derivative, behind dλ.

        Returns:
            As ``gradient``.
        """
        forms = [form() for form in self._second_order[1:]]
        self._refresh_changes()
        given: list[ControlForm] = [
            self._weights.second(i) if isinstance(c, PointLaw) else form
            for i, (c, form) in enumerate(zip(self.controls, forms, strict=True))
        ]
        collected = bent = None
        if self.boundary.has_controls:
            collected = self._assemble(self._form("second", lambda: self.weak.second_adjoint_action)()) - second_dual
        if dual is not None and not self.boundary.is_affine:
            bent = self.operator_adjoint_action() - dual
        return self._control_dual_parts(given, collected, bent)

    # -- forms ---------------------------------------------------------------------------------------------------------

    def _assemble(self, form: fem.Form | None, *, slopes: bool = True) -> Array:
        """An assembled vector form: (owned,), a view that the next call overwrites."""
        self.laws.refresh(slopes=slopes)
        if form is not None:
            return assembled(form, self._dual)
        self._dual.x.array[:] = 0.0
        return self._dual.x.array[: self.num_owned]

    def _form(self, name: object, make: Callable[[], ufl.Form | None]) -> Later:
        """A form that is derived when it is first asked for, and compiled when it is first used. Local."""
        if name not in self._forms:
            self._forms[name] = self.together.add(make)
        return self._forms[name]

    def expect_gradients(self, by_matrix: Sequence[bool], *, from_zero: bool) -> None:
        """Have what a state and a gradient at it need compiled together with F and J. Local.

        Args:
            by_matrix: for each control whether its ∂F/∂m is taken as a matrix, or by the adjoint product.
            from_zero: whether F(0, m) is asked for.
        """
        if from_zero:
            _ = self._constant
        for i, as_matrix in enumerate(by_matrix):
            if isinstance(self.controls[i], PointLaw):
                self._weights.expect(i)
            elif not as_matrix:
                self._adjoint_product(i)
            elif isinstance(self.controls[i], fem.Function):
                self._sensitivity(i)
            else:
                self._tangent((i,))  # of which ``constant_sensitivity`` takes a row for each entry
        if self.boundary.has_controls:
            _ = self._adjoint_action

    def _tangent(self, which: tuple[int, ...]) -> Later:
        """∂F/∂m dm of these controls."""
        return self._form(which, lambda: self.weak.along_controls(self.weak.F, which))

    @property
    def _constant(self) -> Later:
        """F(0, m), for an F that is affine in the state."""
        return self._form("constant", lambda: self.weak.at_zero([self.state]))

    @property
    def _adjoint_action(self) -> Later:
        return self._form("adjoint action", lambda: self.weak.adjoint_action)

    def _adjoint_product(self, i: int) -> Later:
        """(∂F/∂m)ᵀ λ of control i."""
        return self._form(("gradient", i), lambda: self.weak.gradients[i])

    def _gradient(self, i: int, point: object) -> ControlForm:
        if isinstance(self.controls[i], PointLaw):
            return self._weights.gradient(i, point)
        form: fem.Form | None = self._adjoint_product(i)()
        if form is None:
            return None
        if i not in self._packed:
            self._packed[i] = PackedForm(form, self.registers.adjoint)
        return self._packed[i]

    def _refresh_changes(self) -> None:
        self.laws.refresh()
        self.laws.refresh_changes()

    def _sensitivity(self, i: int) -> Later:
        """∂F/∂m of control i as a matrix."""
        return self._form(("matrix", i), lambda: self.weak.sensitivities[i])

    @cached_property
    def _second_order(self) -> list[Later]:
        """Of the state, then of each control."""
        makes: list[Callable[[], ufl.Form | None]] = [lambda: self.weak.second_state]
        makes += [partial(lambda i: self.weak.second_gradients[i], i) for i in range(len(self.controls))]
        return [self.together.add(make) for make in makes]
