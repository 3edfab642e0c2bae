"""An integral of the state and of controls."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.forms import compiled
from relax.base.fem.pointwise import refuse_laws
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.fem.submeshes import check_meshes
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import Observable
from relax.observe.of_form import FormObservable, Terminal


class Functional(FormObservable):
    """One number: y = J(u, m), an integral over the mesh or a part of its boundary.

    Collective. The value needs no derivative: what UFL cannot differentiate is an error of the derivative alone.

    Args:
        form: a UFL form without arguments in which the state stands, such as ``0.5 * (u - d)**2 * ufl.dx``. Controls of
            the problem, Functions and Constants, may stand in it, as in ``ufl.exp(m) * inner(grad(u), grad(u)) * dx``:
            derivatives see both. What stands in it and is no control is a coefficient.
    """

    size = 1

    def __init__(self, form: ufl.Form) -> None:
        if not isinstance(form, ufl.Form) or form.arguments():
            raise BadProblem("Functional: expected a UFL form without test or trial functions, multiplied by a measure")
        refuse_laws(form, "Functional")
        super().__init__([*form.coefficients(), *form.constants()])
        check_meshes(form, "Functional")
        self._given = form
        self.form = with_fixed_degrees(compat.one_subdomain_data(form))
        self._value = compiled(self.form)

    def value(self, u: fem.Function) -> Array:
        self._load(u)
        comm = u.function_space.mesh.comm
        return parallel.sum_over_ranks(comm, np.array([float(fem.assemble_scalar(self._value))]))

    def _scalar(self) -> ufl.Form:
        return self.form

    def _weigh(self, dy: Array) -> float:
        return float(dy[0])

    def _change(self, moved: list[Terminal], changes: list[Array]) -> Array:
        total = 0.0
        for terminal, change in zip(moved, changes, strict=True):
            dual = terminal.dual(self._derived(terminal))
            if isinstance(terminal.given, fem.Function):
                total += parallel.dot(terminal.space.mesh.comm, dual, change[: len(dual)])
            else:
                total += float(dual @ np.ravel(change))
        return np.array([total])

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        if type(self) is not Functional:  # of one's own: it may have other values
            return super().on(state, other)
        return Functional(ufl.replace(self._given, {state: other}))
