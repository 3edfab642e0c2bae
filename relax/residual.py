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
import numpy.typing as npt
import ufl
from dolfinx import default_scalar_type, fem, la
from petsc4py import PETSc
from ufl.algorithms import expand_derivatives

from relax import _compat, parallel
from relax.boundary_map import BoundaryMap
from relax.errors import BadProblem
from relax.forms import along, compiled, holds, nonzero, num_owned, summed, values_of
from relax.packing import PackedForm
from relax.problem import Control, Problem
from relax.quadrature import with_fixed_degrees
from relax.symmetry import is_self_adjoint

Array = npt.NDArray[np.float64]
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
        self.boundary = BoundaryMap(problem)
        self.adjoint = fem.Function(V)
        self.second_adjoint = fem.Function(V)
        self.tangent_state = fem.Function(V)
        self._dual = fem.Function(V)
        self._given = fem.Function(V)
        self.tangent_controls: list[Control] = [self._like(c) for c in self.controls]
        self._control_duals = [
            fem.Function(c.function_space) if isinstance(c, fem.Function) else None for c in self.controls
        ]
        self._test = problem.residual.arguments()[0]
        # UFL differentiates with respect to a Constant only through a variable that stands for it.
        self._variables = {c: ufl.variable(c) for c in self.controls if isinstance(c, fem.Constant)}
        F = with_fixed_degrees(_compat.one_subdomain_data(problem.residual))
        self._F = ufl.replace(F, self._variables) if self._variables else F
        self._J = expand_derivatives(ufl.derivative(self._F, self.state, ufl.TrialFunction(V)))
        self._F_form = fem.form(self._F)
        self._J_form = fem.form(self._J)
        own = {id(self.state), *(id(c) for c in self.controls)}
        terminals = (*problem.residual.coefficients(), *problem.residual.constants(), *observed)
        #: Functions and Constants that are neither state nor control: the user may change them.
        self.parameters: list[Control] = list({id(t): t for t in terminals if id(t) not in own}.values())

    # -- what depends on what ------------------------------------------------------------------------------------------

    @cached_property
    def is_linear(self) -> bool:
        """F is affine in the state. Local."""
        return not holds(self._J, self.state)

    @cached_property
    def operator_is_constant(self) -> bool:
        """The Jacobian depends on neither state nor control. Local."""
        return self.is_linear and not any(holds(self._J, c) for c in self.controls)

    @cached_property
    def is_affine(self) -> bool:
        """F is affine in state and controls together. Local."""
        if not self.operator_is_constant:
            return False
        form = self._tangent_source
        registers = (self.state, *self.controls)
        return form is None or not any(holds(form, r) for r in registers)

    @cached_property
    def in_operator(self) -> list[bool]:
        """For each parameter, whether the Jacobian depends on it. Local."""
        return [holds(self._J, p) for p in self.parameters]

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

    def parameter_values(self) -> list[Array]:
        """Copies of the parameters as they stand. Local."""
        return [values_of(p).copy() for p in self.parameters]

    def install_parameters(self, values: Parts) -> None:
        """Write parameters. Local."""
        for parameter, value in zip(self.parameters, values, strict=True):
            values_of(parameter)[...] = value

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

    def residual_of_lifting(self) -> Array:
        """F(u0, m) for an F that is affine in the state, with u0 the given values and zero elsewhere: as ``residual``.

        F(0, m) and a lifting of the few cells at clamped values that are not zero: the state's terms, which are most of
        the work of ``residual``, drop out.
        """
        given = self._given.x.array
        given[:] = 0.0
        self.boundary.apply(given)
        self._dual.x.array[:] = 0.0
        if self._constant_form is not None:
            fem.assemble_vector(self._dual.x.array, self._constant_form)
        if given.any():
            fem.apply_lifting(self._dual.x.array, [self._J_form], [list(self.problem.bcs)], alpha=-1.0)
        self._dual.x.scatter_reverse(la.InsertMode.add)
        owned = self._dual.x.array[: self.num_owned]
        owned[self.boundary.owned] = 0.0
        return owned

    def tangent_source(self) -> Array:
        """∂F/∂m dm at the installed dm: (owned,), unclamped. The next call overwrites it."""
        return self._assemble(self._tangent_form)

    def operator_action(self) -> Array:
        """∂F/∂u du at the installed ``tangent_state``, clamped rows and columns included: (owned,)."""
        return self._assemble(self._action_form)

    def operator_adjoint_action(self) -> Array:
        """(∂F/∂u)ᵀ λ at the installed ``adjoint``, clamped rows and columns included: (owned,)."""
        return self._assemble(self._adjoint_action_form)

    def gradient(self, boundary_dual: Array | None, point: object) -> list[Array]:
        """(∂F/∂m)ᵀ λ at the installed ``adjoint``, plus what boundary values collect.

        Args:
            boundary_dual: (owned,) the dual vector of the state whose clamped entries go to the controls that give the
                clamped values; None when no control does.
            point: names what the registers hold but for ``adjoint``.

        Returns:
            A part per control: owned values of a field, all entries of a constant (the same on every rank).
        """
        return self._control_dual_parts(self._gradient_forms, boundary_dual, point)

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

    def create_sensitivities(self) -> list[PETSc.Mat | None]:
        """Matrices with the sparsity of ∂F/∂m, one per control that is a field in the residual; else None."""
        return [None if f is None else fem_petsc.create_matrix(f) for f in self._sensitivity_forms]

    def assemble_sensitivities(self, matrices: Sequence[PETSc.Mat | None]) -> None:
        """The matrices ∂F/∂m, rows of clamped values not zeroed."""
        for C, form in zip(matrices, self._sensitivity_forms, strict=True):
            if C is not None:
                C.zeroEntries()
                fem_petsc.assemble_matrix(C, form)
                C.assemble()

    def constant_sensitivities(self) -> list[Array | None]:
        """∂F/∂m for each constant: (entries, owned), a row for each entry; None for fields and where it is zero."""
        result: list[Array | None] = []
        for i, control in enumerate(self.controls):
            if isinstance(control, fem.Function) or self._gradient_forms[i] is None:
                result.append(None)
                continue
            zero = [np.zeros(values_of(t).shape) for t in self.tangent_controls]
            rows = []
            for entry in range(int(np.prod(control.ufl_shape, dtype=np.int64))):
                direction = [z.copy() for z in zero]
                direction[i].reshape(-1)[entry] = 1.0
                self.install_tangent(direction)
                rows.append(self.tangent_source().copy())
            result.append(np.array(rows))
        return result

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

    def _in_direction(self, form: ufl.Form, i: int) -> ufl.Form | None:
        """The derivative of a form in control i, along its register of dm; None where it is zero."""
        control, direction = self.controls[i], self.tangent_controls[i]
        if isinstance(control, fem.Function):
            return nonzero(ufl.derivative(form, control, direction))
        return nonzero(along(form, self._variables[control], direction))

    def _gradient_of(self, form: ufl.Form, i: int) -> ufl.Form | list[ufl.Form] | None:
        """The derivative of a scalar form in control i: a vector form; scalar forms for the entries of a constant."""
        control = self.controls[i]
        if isinstance(control, fem.Function):
            return nonzero(ufl.derivative(form, control, ufl.TestFunction(control.function_space)))
        shape = control.ufl_shape
        units = np.eye(int(np.prod(shape, dtype=np.int64))).reshape(-1, *shape)
        forms = [
            nonzero(along(form, self._variables[control], ufl.as_tensor(e.tolist()) if shape else 1.0)) for e in units
        ]
        if all(f is None for f in forms):
            return None
        return [f if f is not None else 0.0 * self._L for f in forms]

    @cached_property
    def _L(self) -> ufl.Form:
        return ufl.replace(self._F, {self._test: self.adjoint})

    @cached_property
    def _constant_form(self) -> fem.Form | None:
        """F(0, m), for an F that is affine in the state."""
        zero = ufl.zero(self.state.ufl_shape) if self.state.ufl_shape else 0.0
        return compiled(nonzero(ufl.replace(self._F, {self.state: ufl.as_ufl(zero)})))

    @cached_property
    def _tangent_source(self) -> ufl.Form | None:
        return summed([self._in_direction(self._F, i) for i in range(len(self.controls))])

    @cached_property
    def _tangent_form(self) -> fem.Form | None:
        return compiled(self._tangent_source)

    @cached_property
    def _action_form(self) -> fem.Form | None:
        return compiled(nonzero(ufl.derivative(self._F, self.state, self.tangent_state)))

    @cached_property
    def _adjoint_action(self) -> ufl.Form | None:
        return nonzero(ufl.derivative(self._L, self.state, ufl.TestFunction(self.state.function_space)))

    @cached_property
    def _adjoint_action_form(self) -> fem.Form | None:
        return compiled(self._adjoint_action)

    @cached_property
    def _gradients(self) -> list[ufl.Form | list[ufl.Form] | None]:
        return [self._gradient_of(self._L, i) for i in range(len(self.controls))]

    @cached_property
    def _gradient_forms(self) -> list[ControlForm]:
        forms = [compiled(g) for g in self._gradients]
        return [PackedForm(f, self.adjoint) if isinstance(f, fem.Form) else f for f in forms]

    @cached_property
    def _sensitivity_forms(self) -> list[fem.Form | None]:
        forms = []
        for control in self.controls:
            trial = ufl.TrialFunction(control.function_space) if isinstance(control, fem.Function) else None
            forms.append(None if trial is None else compiled(nonzero(ufl.derivative(self._F, control, trial))))
        return forms

    def _varied(self, form: ufl.Form | None) -> ufl.Form | None:
        """d/dε of a form along (du, dm)."""
        if form is None:
            return None
        along_state = nonzero(ufl.derivative(form, self.state, self.tangent_state))
        return summed([along_state, *(self._in_direction(form, i) for i in range(len(self.controls)))])

    @cached_property
    def _second_state(self) -> ufl.Form | None:
        return self._varied(self._adjoint_action)

    @cached_property
    def _second_state_form(self) -> fem.Form | None:
        return compiled(self._second_state)

    @cached_property
    def _second_adjoint_action_form(self) -> fem.Form | None:
        with_dlam = None if self._adjoint_action is None else self._with_second_adjoint(self._adjoint_action)
        return compiled(summed([with_dlam, self._second_state]))

    @cached_property
    def _second_gradient_forms(self) -> list[ControlForm]:
        result: list[ControlForm] = []
        for gradient in self._gradients:
            if isinstance(gradient, list):
                forms = [summed([self._with_second_adjoint(g), self._varied(g)]) for g in gradient]
                result.append(compiled([f for f in forms if f is not None]))
            elif gradient is None:
                result.append(None)
            else:
                result.append(compiled(summed([self._with_second_adjoint(gradient), self._varied(gradient)])))
        return result

    def _with_second_adjoint(self, form: ufl.Form) -> ufl.Form:
        return ufl.replace(form, {self.adjoint: self.second_adjoint})
