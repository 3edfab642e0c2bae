"""One residual, compiled once, and everything UFL derives from it.

For F(u, m; v) with Lagrangian-like contraction L(u, m, λ) = F(u, m; λ) this gives, as assembled arrays and matrices,

- the residual F and the Jacobian A = ∂F/∂u,
- the tangent source ∂F/∂m dm, and ∂F/∂m as sparse matrices,
- the adjoint products (∂F/∂u)ᵀ λ and (∂F/∂m)ᵀ λ,
- the second-order terms of the Hessian action.

Dual vectors come back as arrays of owned values. Forms are compiled when first used, collectively, and never in a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeAlias

import dolfinx.fem.petsc as fem_petsc
import numpy as np
from dolfinx import default_scalar_type, fem, la
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.forms import Control, compiled, num_owned, summed, values_of
from relax.base.types import Array
from relax.engine.residual.clamped import ClampedValues
from relax.engine.residual.derived import DerivedForms
from relax.engine.residual.packing import PackedForm
from relax.engine.residual.symmetry import is_self_adjoint
from relax.errors import BadProblem
from relax.problem.problem import Problem

Parts = Sequence[Array]
# How a derivative in one control is assembled: a vector form, scalar forms for a constant's entries, or nothing.
ControlForm: TypeAlias = PackedForm | fem.Form | list[fem.Form] | None


class Residual:
    """The compiled residual of a problem. Collective, as is every method unless it says "Local".

    The state and the controls of the problem are its registers: ``install`` writes a point into them, and every
    product is taken at the point that they hold.

    Args:
        problem: the PDE.
        observed: Functions and Constants of the observable, parameters as those of the residual are.

    Attributes:
        state, controls: the registers.
        boundary: which values of the state are given, and by which control.
        adjoint: the register for λ; ``tangent_state`` for du; ``second_adjoint`` for the derivative of λ.
        tangent_controls: registers for dm, one per control.
    """

    def __init__(self, problem: Problem, observed: Sequence[Control] = ()) -> None:
        if np.issubdtype(default_scalar_type, np.complexfloating):
            raise BadProblem(
                "relax needs the real build of PETSc and DOLFINx; write a complex state as two real fields"
            )
        self.problem = problem
        self.state: fem.Function = problem.state
        self.controls = tuple(problem.controls)
        self.comm = problem.mesh.comm
        V = self.state.function_space
        self.num_owned = num_owned(V)
        self.boundary = ClampedValues(problem)
        self.adjoint = fem.Function(V)
        self.second_adjoint = fem.Function(V)
        self.tangent_state = fem.Function(V)
        self._dual = fem.Function(V)
        self._given = fem.Function(V)
        self.tangent_controls: list[Control] = [self._like(c) for c in self.controls]
        self._control_duals = [
            fem.Function(c.function_space) if isinstance(c, fem.Function) else None for c in self.controls
        ]
        self.weak = DerivedForms(problem, self.adjoint, self.second_adjoint, self.tangent_state, self.tangent_controls)
        self._tangent_forms: dict[tuple[int, ...], fem.Form | None] = {}
        self._F_form = fem.form(self.weak.F)
        self._J_form = fem.form(self.weak.J)
        own = {id(self.state), *(id(c) for c in self.controls)}
        terminals = (*problem.residual.coefficients(), *problem.residual.constants(), *observed)
        #: Functions and Constants that are neither state nor control: the user may change them.
        self.parameters: list[Control] = list({id(t): t for t in terminals if id(t) not in own}.values())

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
        """F is affine in state and controls together. Local."""
        return self.weak.is_affine

    @cached_property
    def is_self_adjoint(self) -> bool:
        """A = Aᵀ for every state and control. Collective."""
        return is_self_adjoint(self)

    def _like(self, control: Control) -> Control:
        if isinstance(control, fem.Function):
            return fem.Function(control.function_space)
        return fem.Constant(self.problem.mesh, np.zeros(control.ufl_shape, dtype=default_scalar_type))

    # -- registers -----------------------------------------------------------------------------------------------------

    def install(self, parts: Parts) -> None:
        """Write control parts (owned and ghost values; entries of constants) into the controls. Local."""
        for control, part in zip(self.controls, parts, strict=True):
            values_of(control)[...] = part.reshape(values_of(control).shape)

    def install_tangent(self, parts: Parts) -> None:
        """The same for the registers of dm. Local."""
        for register, part in zip(self.tangent_controls, parts, strict=True):
            values_of(register)[...] = part.reshape(values_of(register).shape)

    # -- first order ---------------------------------------------------------------------------------------------------

    def norm(self, owned: Array) -> float:
        """The Euclidean norm over all ranks of a dual vector's owned values."""
        return float(np.sqrt(parallel.dot(self.comm, owned, owned)))

    def create_matrix(self) -> PETSc.Mat:
        """A matrix with the Jacobian's sparsity. The caller destroys it."""
        return fem_petsc.create_matrix(self._J_form)

    def assemble_matrix(self, A: PETSc.Mat) -> None:
        """A = ∂F/∂u, rows and columns of clamped values replaced by the identity's."""
        A.zeroEntries()
        fem_petsc.assemble_matrix(A, self._J_form, bcs=list(self.problem.bcs))
        A.assemble()

    def residual(self) -> Array:
        """F(u, m), zero in the rows of clamped values: (owned,). The next call overwrites it."""
        owned = self._assemble(self._F_form)
        owned[self.boundary.owned] = 0.0
        return owned

    def residual_of_lifting(self, at_zero: Array | None = None) -> Array:
        """F(u0, m) for an F that is affine in the state, with u0 the given values and zero elsewhere: as ``residual``.

        F(0, m) and a lifting of the few cells at clamped values that are not zero: the state's terms, which are most of
        the work of ``residual``, drop out.

        Args:
            at_zero: F(0, m), (owned,), where it is known already.
        """
        given = self._given.x.array
        given[:] = 0.0
        self.boundary.apply(given)
        self._dual.x.array[:] = 0.0
        if at_zero is None and self._constant_form is not None:
            fem.assemble_vector(self._dual.x.array, self._constant_form)
        if given.any():
            fem.apply_lifting(self._dual.x.array, [self._J_form], [list(self.problem.bcs)], alpha=-1.0)
        self._dual.x.scatter_reverse(la.InsertMode.add)
        owned = self._dual.x.array[: self.num_owned]
        if at_zero is not None:
            owned += at_zero
        owned[self.boundary.owned] = 0.0
        return owned

    def tangent_source(self, which: tuple[int, ...] | None = None) -> Array:
        """∂F/∂m dm at the installed dm: (owned,), unclamped. The next call overwrites it.

        Args:
            which: the controls that change; all of them when left out.
        """
        which = tuple(range(len(self.controls))) if which is None else which
        if which not in self._tangent_forms:
            terms = [self.weak.in_direction(self.weak.F, i) for i in which]
            self._tangent_forms[which] = compiled(summed(terms))
        return self._assemble(self._tangent_forms[which])

    def operator_action(self) -> Array:
        """∂F/∂u du at the installed ``tangent_state``, clamped rows and columns included: (owned,)."""
        return self._assemble(self._action_form)

    def operator_adjoint_action(self) -> Array:
        """(∂F/∂u)ᵀ λ at the installed ``adjoint``, clamped rows and columns included: (owned,)."""
        return self._assemble(self._adjoint_action_form)

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
        forms: Sequence[ControlForm] = self._gradient_forms
        if which is not None:
            forms = [form if i in which else None for i, form in enumerate(forms)]
        return self._control_dual_parts(forms, boundary_dual, point)

    def _control_dual_parts(
        self, forms: Sequence[ControlForm], dual: Array | None, point: object = None
    ) -> list[Array]:
        parts = []
        for i, (control, form) in enumerate(zip(self.controls, forms, strict=True)):
            register = self._control_duals[i]
            if register is not None:
                register.x.array[:] = 0.0
                if isinstance(form, PackedForm):
                    form.assemble(register.x.array, point)
                elif form is not None:
                    fem.assemble_vector(register.x.array, form)
                if dual is not None:
                    self.boundary.collect(dual, i, register.x.array)
                register.x.scatter_reverse(la.InsertMode.add)
                parts.append(register.x.array[: num_owned(control.function_space)].copy())
            else:
                entries = np.zeros(int(np.prod(control.ufl_shape, dtype=np.int64)))
                if isinstance(form, list):
                    entries += [float(fem.assemble_scalar(f)) for f in form]
                if dual is not None:
                    self.boundary.collect(dual, i, entries)
                parts.append(parallel.sum_over_ranks(self.comm, entries))
        return parts

    def create_sensitivity(self, i: int) -> PETSc.Mat | None:
        """A matrix with the sparsity of ∂F/∂m of control i, if that is a field in the residual. For the caller to free.

        None for a constant, and where ∂F/∂m is zero.
        """
        form = self._sensitivity_forms[i]
        return None if form is None else fem_petsc.create_matrix(form)

    def assemble_sensitivity(self, i: int, C: PETSc.Mat) -> None:
        """The matrix ∂F/∂m of control i, rows of clamped values not zeroed."""
        C.zeroEntries()
        fem_petsc.assemble_matrix(C, self._sensitivity_forms[i])
        C.assemble()

    def constant_sensitivity(self, i: int) -> Array | None:
        """∂F/∂m of control i, if it is a Constant in the residual: (entries, owned), a row for each entry."""
        control = self.controls[i]
        if isinstance(control, fem.Function) or self.weak.gradients[i] is None:
            return None
        direction = values_of(self.tangent_controls[i])
        rows = []
        for entry in range(direction.size):
            direction[...] = 0.0
            direction.reshape(-1)[entry] = 1.0
            rows.append(self.tangent_source((i,)).copy())
        return np.array(rows)

    # -- second order --------------------------------------------------------------------------------------------------

    def second_state_source(self) -> Array:
        """(F_uu du + F_um dm)ᵀ λ at the installed du, dm and λ: (owned,). The next call overwrites it."""
        return self._assemble(self._second_state_form)

    def second_gradient(self, boundary_dual: Array | None) -> list[Array]:
        """F_mᵀ dλ + (F_mu du + F_mm dm)ᵀ λ at the installed dλ, du, dm, λ; as ``gradient``."""
        return self._control_dual_parts(self._second_gradient_forms, boundary_dual)

    def second_adjoint_action(self) -> Array:
        """(∂F/∂u)ᵀ dλ + (F_uu du + F_um dm)ᵀ λ, clamped rows included: (owned,)."""
        return self._assemble(self._second_adjoint_action_form)

    # -- forms ---------------------------------------------------------------------------------------------------------

    def _assemble(self, form: fem.Form | None) -> Array:
        """An assembled vector form: (owned,), a view that the next call overwrites."""
        self._dual.x.array[:] = 0.0
        if form is not None:
            fem.assemble_vector(self._dual.x.array, form)
            self._dual.x.scatter_reverse(la.InsertMode.add)
        return self._dual.x.array[: self.num_owned]

    @cached_property
    def _constant_form(self) -> fem.Form | None:
        """F(0, m), for an F that is affine in the state."""
        return compiled(self.weak.at_zero([self.state]))

    @cached_property
    def _action_form(self) -> fem.Form | None:
        return compiled(self.weak.action)

    @cached_property
    def _adjoint_action_form(self) -> fem.Form | None:
        return compiled(self.weak.adjoint_action)

    @cached_property
    def _gradient_forms(self) -> list[ControlForm]:
        forms = [compiled(g) for g in self.weak.gradients]
        return [PackedForm(f, self.adjoint) if isinstance(f, fem.Form) else f for f in forms]

    @cached_property
    def _sensitivity_forms(self) -> list[fem.Form | None]:
        return [compiled(f) for f in self.weak.sensitivities]

    @cached_property
    def _second_state_form(self) -> fem.Form | None:
        return compiled(self.weak.second_state)

    @cached_property
    def _second_adjoint_action_form(self) -> fem.Form | None:
        return compiled(self.weak.second_adjoint_action)

    @cached_property
    def _second_gradient_forms(self) -> list[ControlForm]:
        return [compiled(f) for f in self.weak.second_gradients]
