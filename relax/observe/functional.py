"""An integral of the state."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from ufl.algorithms import expand_derivatives

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.forms import assembled, compiled, nonzero, num_owned
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import Observable


class Functional(Observable):
    """One number: y = J(u), an integral over the mesh or a part of its boundary.

    Collective.

    Args:
        form: a UFL form without arguments in which the state stands, such as ``0.5 * (u - d)**2 * ufl.dx``. It must not
            hold a control: a term in the control alone is a prior or a penalty, and belongs to the optimiser.
    """

    size = 1

    def __init__(self, form: ufl.Form) -> None:
        if not isinstance(form, ufl.Form) or form.arguments():
            raise BadProblem("Functional: expected a UFL form without test or trial functions, multiplied by a measure")
        self._given = form
        self.form = with_fixed_degrees(compat.one_subdomain_data(form))
        self._value = fem.form(self.form)
        self._state: fem.Function | None = None

    def _compile(self, u: fem.Function) -> None:
        """Compile the derivatives in u once; forms built in a loop cost more than the loop."""
        if self._state is u:
            return
        self.check_state(u)
        V = u.function_space
        self._state = u
        self._comm = V.mesh.comm
        self._du = fem.Function(V)
        v = ufl.TestFunction(V)
        gradient = expand_derivatives(ufl.derivative(self.form, u, v))
        self._gradient = fem.form(gradient)
        self._curvature = compiled(nonzero(ufl.derivative(gradient, u, self._du)))
        self._dual = fem.Function(V)

    def value(self, u: fem.Function) -> Array:
        self._compile(u)
        return parallel.sum_over_ranks(self._comm, np.array([float(fem.assemble_scalar(self._value))]))

    def tangent(self, u: fem.Function, du: fem.Function) -> Array:
        self._compile(u)
        gradient = assembled(self._gradient, self._dual)
        return np.array([parallel.dot(self._comm, gradient, du.x.array[: len(gradient)])])

    def adjoint(self, u: fem.Function, dy: Array) -> Array:
        self._compile(u)
        return dy[0] * assembled(self._gradient, self._dual)

    def second(self, u: fem.Function, dy: Array, du: fem.Function) -> Array:
        self._compile(u)
        if self._curvature is None:
            return np.zeros(num_owned(u.function_space))
        self._du.x.array[:] = du.x.array
        return dy[0] * assembled(self._curvature, self._dual)

    @property
    def parameters(self) -> list[fem.Function | fem.Constant]:
        terminals = (*self.form.coefficients(), *self.form.constants())
        return [t for t in terminals if t is not self._state]

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        if type(self) is not Functional:  # of one's own: it may have other values
            return super().on(state, other)
        return Functional(ufl.replace(self._given, {state: other}))

    def check_state(self, state: fem.Function) -> None:
        if state not in self.form.coefficients():
            raise BadProblem(f"Functional: the state {state.name!r} does not stand in the form")
