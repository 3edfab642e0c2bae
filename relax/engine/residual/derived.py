"""A residual and what UFL derives from it, as forms. Nothing here is compiled or assembled.

For F(u, m; v) with contraction L(u, m, λ) = F(u, m; λ): the Jacobian, ∂F/∂m as bilinear forms and along dm, the
adjoint products (∂F/∂u)ᵀ λ and (∂F/∂m)ᵀ λ, and their derivatives along (du, dm, dλ).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import ufl
from dolfinx import fem
from ufl.algorithms import expand_derivatives

from relax.base.fem import compat
from relax.base.fem.forms import along, holds, jumps_with, nonzero, summed
from relax.base.fem.pointwise import PointLaw
from relax.base.fem.quadrature import with_fixed_degrees
from relax.engine.residual.laws import LawAtPoints, Laws
from relax.engine.residual.registers import Registers


class DerivedForms:
    """Forms in the registers of a problem. Local, and the same on each rank; collective where point laws stand in it.

    Args:
        residual: F(u, m; v).
        registers: of the problem, and for λ, dλ, du and dm.

    Attributes:
        F: the residual, Constants among the controls replaced by variables, quadrature degrees fixed.
        J: ∂F/∂u.
        laws: the point laws in it, for which Functions at points stand in the forms.
    """

    def __init__(self, residual: ufl.Form, registers: Registers) -> None:
        self.state = registers.state
        self.controls = registers.controls
        self._registers = registers
        self._test = residual.arguments()[0]
        # UFL differentiates with respect to a Constant only through a variable that stands for it.
        self._variables = {c: ufl.variable(c) for c in self.controls if isinstance(c, fem.Constant)}
        self.laws = Laws(with_fixed_degrees(compat.one_subdomain_data(residual)), registers)
        F = self.laws.form
        self.F: ufl.Form = ufl.replace(F, self._variables) if self._variables else F
        self.J: ufl.Form = self.jacobian_of(self.F)

    # -- what depends on what ------------------------------------------------------------------------------------------

    @cached_property
    def is_linear(self) -> bool:
        """F is affine in the state."""
        return not holds(self.J, self.state)

    @cached_property
    def operator_is_constant(self) -> bool:
        """The Jacobian depends on neither state nor control."""
        return self.is_linear and not any(holds(self.J, c) for c in self.controls)

    @cached_property
    def is_affine(self) -> bool:
        """F is affine in state and controls together."""
        registers = (self.state, *self.controls)
        if not self.operator_is_constant or any(jumps_with(self.F, r) for r in registers):
            return False
        form = self.along_controls(self.F, range(len(self.controls)))
        return form is None or not any(holds(form, r) for r in registers)

    # -- first order ---------------------------------------------------------------------------------------------------

    def jacobian_of(self, form: ufl.Form) -> ufl.Form:
        """The derivative of a residual in the state, as a bilinear form."""
        return expand_derivatives(self._derivative(form, self.state, ufl.TrialFunction(self.state.function_space)))

    def _derivative(self, form: ufl.Form, function: fem.Function, direction: ufl.core.expr.Expr) -> ufl.Form:
        """The derivative of a form in a Function along ``direction``, laws followed. Not carried out."""
        values, moved = self.laws.through(form, function, direction, self._variables)
        return ufl.derivative(form, (function, *values), (direction, *moved))

    @cached_property
    def sensitivities(self) -> list[ufl.Form | None]:
        """∂F/∂m as a bilinear form for each field; None for constants, for weights, and where it is zero."""
        return [
            nonzero(self._derivative(self.F, c, ufl.TrialFunction(c.function_space)))
            if isinstance(c, fem.Function)
            else None
            for c in self.controls
        ]

    def in_direction(self, form: ufl.Form, i: int) -> ufl.Form | None:
        """The derivative of a form in control i, along its register of dm; None where it is zero."""
        return self._along(form, i, self._registers.tangent_controls[i])

    def _along(self, form: ufl.Form, i: int, direction: ufl.core.expr.Expr) -> ufl.Form | None:
        control = self.controls[i]
        if isinstance(control, PointLaw):
            return self.laws.along_weights(form, i)
        if isinstance(control, fem.Function):
            return nonzero(self._derivative(form, control, direction))
        values, moved = self.laws.through(form, control, direction, self._variables)
        followed = nonzero(ufl.derivative(form, tuple(values), tuple(moved))) if values else None
        return summed([self._partial(form, i, direction), followed])

    def along_controls(self, form: ufl.Form, which: Iterable[int]) -> ufl.Form | None:
        """The derivative of a form along dm, summed over these controls; None where it is zero."""
        return summed([self.in_direction(form, i) for i in which])

    @cached_property
    def action(self) -> ufl.Form | None:
        """∂F/∂u du."""
        return nonzero(self._derivative(self.F, self.state, self._registers.tangent_state))

    def at_zero(self, zeroed: Sequence[fem.Function]) -> ufl.Form | None:
        """F with these Functions replaced by zero; None where nothing is left."""
        zeros = {f: ufl.as_ufl(ufl.zero(f.ufl_shape) if f.ufl_shape else 0.0) for f in zeroed}
        return nonzero(ufl.replace(self.F, zeros))

    @cached_property
    def contraction(self) -> ufl.Form:
        """L = F(u, m; λ)."""
        return ufl.replace(self.F, {self._test: self._registers.adjoint})

    @cached_property
    def adjoint_action(self) -> ufl.Form | None:
        """(∂F/∂u)ᵀ λ."""
        return nonzero(self._derivative(self.contraction, self.state, ufl.TestFunction(self.state.function_space)))

    @cached_property
    def gradients(self) -> list[ufl.Form | None]:
        """(∂F/∂m)ᵀ λ for each control, a vector form: of a field, or of a constant's entries; None where it is zero.

        None for weights, too: ``at_points`` is what they collect.
        """
        return [self.gradient_of(self.contraction, i) for i in range(len(self.controls))]

    def gradient_of(self, form: ufl.Form, i: int) -> ufl.Form | None:
        """The derivative of a scalar form in control i, a vector form; None where it is zero, and for weights."""
        if isinstance(self.controls[i], PointLaw):
            return None
        return self._along(form, i, ufl.TestFunction(self._registers.dual_spaces[i]))

    def at_points(self, law: LawAtPoints) -> ufl.Form | None:
        """(∂F/∂k)ᵀ λ for a law, a vector form of its points; None where it is zero."""
        return nonzero(ufl.derivative(self.contraction, law.value, ufl.TestFunction(law.value.function_space)))

    # -- second order --------------------------------------------------------------------------------------------------

    def varied(self, form: ufl.Form | None) -> ufl.Form | None:
        """d/dε of a form along (du, dm)."""
        if form is None:
            return None
        along_state = nonzero(ufl.derivative(form, self.state, self._registers.tangent_state))
        partial = [self._partial(form, i, dm) for i, dm in enumerate(self._registers.tangent_controls)]
        return summed([along_state, *partial, self.laws.along_all(form)])

    def _partial(self, form: ufl.Form, i: int, direction: ufl.core.expr.Expr) -> ufl.Form | None:
        """The derivative of a form in control i along ``direction`` where it stands itself, laws as they are."""
        control = self.controls[i]
        if isinstance(control, PointLaw):
            return None
        if isinstance(control, fem.Function):
            return nonzero(ufl.derivative(form, control, direction))
        return nonzero(along(form, self._variables[control], direction))

    @cached_property
    def second_state(self) -> ufl.Form | None:
        """(F_uu du + F_um dm)ᵀ λ."""
        return self.varied(self.adjoint_action)

    @cached_property
    def second_adjoint_action(self) -> ufl.Form | None:
        """(∂F/∂u)ᵀ dλ + (F_uu du + F_um dm)ᵀ λ."""
        with_dlam = None if self.adjoint_action is None else self._with_second_adjoint(self.adjoint_action)
        return summed([with_dlam, self.second_state])

    @cached_property
    def second_gradients(self) -> list[ufl.Form | None]:
        """F_mᵀ dλ + (F_mu du + F_mm dm)ᵀ λ, as ``gradients``."""
        return [None if gradient is None else self._second(gradient) for gradient in self.gradients]

    def second_at_points(self, law: LawAtPoints) -> ufl.Form | None:
        """The derivative of ``at_points`` along (du, dm, dλ)."""
        first = self.at_points(law)
        return None if first is None else self._second(first)

    def _second(self, form: ufl.Form) -> ufl.Form | None:
        """The derivative of a form that is linear in λ along (du, dm, dλ)."""
        return summed([self._with_second_adjoint(form), self.varied(form)])

    def _with_second_adjoint(self, form: ufl.Form) -> ufl.Form:
        return ufl.replace(form, {self._registers.adjoint: self._registers.second_adjoint})
