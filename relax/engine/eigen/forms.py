"""What derivatives of eigenpairs are made of: forms derived from those that are solved with, of their quadrature.

With Λ = a(u, λ) - E b(u, λ) - α b(u, u) / 2, the contraction of (A u - E B u, (1 - uᵀ B u) / 2) with (λ, α).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem

from relax.base.fem.compat import one_subdomain_data
from relax.base.fem.compiling import Later, Together
from relax.base.fem.forms import Control, assembled, derivative, summed
from relax.base.types import Array
from relax.engine.residual.control_duals import ControlDuals
from relax.engine.residual.registers import Registers


class EigenForms:
    """Derivatives in the controls, at what the registers hold.

    Collective, as is every method unless it says "Local". u is ``registers.state``, λ ``registers.adjoint``, their
    changes are ``tangent_state`` and ``second_adjoint``; vectors are given and returned on the free degrees of freedom.

    Args:
        a, b: bilinear forms with fixed quadrature degrees.
        registers: of the problem.
        energy: E.
        free: this rank's free degrees of freedom.

    Attributes:
        alpha, denergy, dalpha: α and the changes of E and α: scalar Constants.
    """

    def __init__(
        self, a: ufl.Form, b: ufl.Form, registers: Registers, energy: fem.Constant, free: npt.NDArray[np.int32]
    ) -> None:
        self.registers, self._free = registers, free
        mesh = registers.state.function_space.mesh
        self.energy = energy
        self.alpha, self.denergy, self.dalpha = (fem.Constant(mesh, 0.0) for _ in range(3))
        self._dual = fem.Function(registers.state.function_space)
        self._control_duals = ControlDuals(registers)
        self._a, self._b = a, b
        self._together = Together(mesh)
        self._moved = self._add(lambda: self._along_controls(self._contracted(registers.adjoint, self._test)))
        self._mass_moved = self._add(lambda: self._along_controls(self._of(b, registers.state, self._test)))
        self._gradients = [self._add(self._gradient(c, i)) for i, c in enumerate(registers.controls)]
        self._second: list[Later] | None = None

    # -- registers -----------------------------------------------------------------------------------------------------

    def install(self, register: fem.Function, vector: Array) -> None:
        """A vector (free,) into one of the registers, zero where values are clamped."""
        register.x.array[:] = 0.0
        register.x.array[self._free] = vector
        register.x.scatter_forward()

    # -- products ------------------------------------------------------------------------------------------------------

    def moved(self) -> Array:
        """(dA - E dB) λ along the installed dm: (free,)."""
        return self._vector(self._moved())

    def mass_moved(self) -> Array:
        """dB u along the installed dm: (free,)."""
        return self._vector(self._mass_moved())

    def gradient(self) -> list[Array]:
        """∂Λ/∂m: a part per control, owned values of a field, the entries of a constant."""
        return self._control_parts(self._gradients)

    def second_gradient(self) -> list[Array]:
        """d/dε ∂Λ/∂m along (du, dE, dλ, dα, dm): as ``gradient``."""
        if self._second is None:
            self._second = [self._add(self._second_gradient(c, i)) for i, c in enumerate(self.registers.controls)]
        return self._control_parts(self._second)

    # -- forms ---------------------------------------------------------------------------------------------------------

    @property
    def _test(self) -> ufl.Argument:
        return ufl.TestFunction(self.registers.state.function_space)

    @staticmethod
    def _of(form: ufl.Form, u: ufl.core.expr.Expr, v: ufl.core.expr.Expr) -> ufl.Form:
        """A bilinear form in u (for its trial function) and v (for its test function)."""
        test, trial = form.arguments()
        return ufl.replace(form, {test: v, trial: u})

    def _contracted(self, u: ufl.core.expr.Expr, v: ufl.core.expr.Expr) -> ufl.Form:
        """a(u, v) - E b(u, v)."""
        return self._of(self._a, u, v) - self.energy * self._of(self._b, u, v)

    def _along_controls(self, form: ufl.Form) -> ufl.Form | None:
        registers = self.registers
        pairs = zip(registers.controls, registers.tangent_controls, strict=True)
        return summed([derivative(form, c, dm) for c, dm in pairs])

    def _gradient(self, control: Control, i: int) -> Callable[[], ufl.Form | None]:
        r = self.registers

        def make() -> ufl.Form | None:
            form = self._contracted(r.state, r.adjoint) - 0.5 * self.alpha * self._of(self._b, r.state, r.state)
            return derivative(form, control, ufl.TestFunction(r.dual_spaces[i]))

        return make

    def _second_gradient(self, control: Control, i: int) -> Callable[[], ufl.Form | None]:
        r = self.registers

        def make() -> ufl.Form | None:
            u, lam, du, dlam = r.state, r.adjoint, r.tangent_state, r.second_adjoint
            moving = (
                self._contracted(u, dlam)
                + self._contracted(du, lam)
                - self.denergy * self._of(self._b, u, lam)
                - 0.5 * self.dalpha * self._of(self._b, u, u)
                - self.alpha * self._of(self._b, u, du)
            )
            first = self._gradient(control, i)()
            curved = None if first is None else self._along_controls(first)
            return summed([derivative(moving, control, ufl.TestFunction(r.dual_spaces[i])), curved])

        return make

    # -- assembly ------------------------------------------------------------------------------------------------------

    def _add(self, make: Callable[[], ufl.Form | None]) -> Later:
        def made() -> ufl.Form | None:
            form = make()
            return None if form is None else one_subdomain_data(form)

        return self._together.add(made)

    def _vector(self, form: fem.Form | None) -> Array:
        return np.zeros(len(self._free)) if form is None else assembled(form, self._dual)[self._free]

    def _control_parts(self, forms: Sequence[Later]) -> list[Array]:
        def add(i: int, values: Array) -> None:
            form = forms[i]()
            if form is not None:
                fem.assemble_vector(values, form)

        return self._control_duals.summed(add)
