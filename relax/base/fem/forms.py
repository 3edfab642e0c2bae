"""Small operations on UFL forms and on what stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import default_scalar_type, fem, la, mesh
from ufl.algorithms import expand_derivatives
from ufl.core.expr import Expr
from ufl.corealg.traversal import traverse_unique_terminals, unique_pre_traversal

import relax.base.fem.jit  # noqa: F401  (whatever compiles a form imports this file)
from relax.base.checks import as_number
from relax.base.fem.numbers import numbers
from relax.base.fem.pointwise import AtPoints, PointLaw
from relax.base.fem.submeshes import entity_maps
from relax.base.types import Array

#: What derivatives are taken with respect to: the UFL coefficient itself.
Control: TypeAlias = fem.Function | fem.Constant | PointLaw


def is_same(a: object, b: object) -> bool:
    """Whether two Functions or Constants are one, or two point laws have the same weights."""
    return a is b or (isinstance(a, PointLaw) and isinstance(b, PointLaw) and a.function is b.function)


def standing(form: ufl.Form) -> list[Control]:
    """The Functions, Constants and point laws in a form, and what their values at points follow from; each once."""
    found: list[Control] = []
    for t in (*form.coefficients(), *form.constants()):
        found += [t, *t.depends_on] if isinstance(t, AtPoints | PointLaw) else [t]
    return list({id(t): t for t in found}.values())


def holds(form: ufl.Form, terminal: Control) -> bool:
    """Whether the Function or Constant stands in the form, or what stands there follows from it."""
    return any(is_same(terminal, t) for t in standing(form))


def is_same_form(a: ufl.Form, b: ufl.Form) -> bool:
    """Whether two forms are assembled by the same code, in the same spaces, of the same Functions, Constants and tags.

    A sum that is written in another order can pass for another form.
    """

    def held(form: ufl.Form) -> list[int]:
        tags = [i.subdomain_data() for i in form.integrals()]
        return [id(t) for t in (*form.coefficients(), *form.constants(), *tags)]

    return a.arguments() == b.arguments() and held(a) == held(b) and a.signature() == b.signature()


def terminals_of(expression: Expr) -> list[Control]:
    """The Functions and Constants that stand in an expression."""
    kinds = (fem.Function, fem.Constant)
    return [t for t in traverse_unique_terminals(expression) if isinstance(t, kinds)]


def condition_on(expression: Expr, terminal: Control) -> bool:
    """Whether a condition in the expression depends on the Function or Constant: a jump that no derivative sees."""
    nodes = unique_pre_traversal(expression)
    conditions = (node.ufl_operands[0] for node in nodes if isinstance(node, ufl.classes.Conditional))
    return any(terminal is t for condition in conditions for t in terminals_of(condition))


def jumps_with(form: ufl.Form, terminal: Control) -> bool:
    """Whether a condition in the form depends on the Function or Constant."""
    return any(condition_on(integral.integrand(), terminal) for integral in form.integrals())


def along(form: ufl.Form, variable: Expr, direction: Expr) -> ufl.Form:
    """d/dε of a form as ``variable`` moves along ``direction``: numbers, or the argument of a space of ``numbers``."""
    integrals = []
    for integral in form.integrals():
        slope = ufl.diff(integral.integrand(), variable)
        # An argument between two cells is that of either: the numbers are the same in both.
        one_sided = isinstance(direction, ufl.Argument) and integral.integral_type().startswith("interior_facet")
        at = direction("+") if one_sided else direction
        integrals.append(integral.reconstruct(integrand=ufl.inner(slope, at)))
    return ufl.Form(integrals)


def derivative(form: ufl.Form, terminal: Control, direction: Expr) -> ufl.Form | None:
    """d/dε of a form as a Function or Constant moves along ``direction``; None where it vanishes."""
    if isinstance(terminal, fem.Function):
        return nonzero(ufl.derivative(form, terminal, direction))
    variable = ufl.variable(terminal)
    return nonzero(along(ufl.replace(form, {terminal: variable}), variable, direction))


def like(control: Control, domain: mesh.Mesh) -> Control:
    """A new register for changes of a Function or Constant, or of the weights of a point law: zero."""
    if isinstance(control, fem.Function):
        return fem.Function(control.function_space)
    shape = (control.size,) if isinstance(control, PointLaw) else control.ufl_shape
    return fem.Constant(domain, np.zeros(shape, dtype=default_scalar_type))


def dual_space(control: Control, domain: mesh.Mesh) -> fem.FunctionSpace:
    """In which a derivative in a Function or Constant is tested: its own, or that of its entries. Collective."""
    return control.function_space if isinstance(control, fem.Function) else numbers(domain, control.ufl_shape)


def nonzero(form: ufl.Form) -> ufl.Form | None:
    """The form with its derivatives carried out; None where it vanishes."""
    expanded = expand_derivatives(form)
    return None if expanded.empty() else expanded


def summed(forms: Sequence[ufl.Form | None]) -> ufl.Form | None:
    """The sum of those that are there; None of none."""
    present = [f for f in forms if f is not None]
    return sum(present[1:], start=present[0]) if present else None


def compiled(form: ufl.Form | None) -> fem.Form | None:
    """The compiled form; None of none. Collective."""
    return None if form is None else fem.form(form, entity_maps=entity_maps(form))


def values_of(terminal: Control) -> Array:
    """The live values of a Function (owned and ghosts) or a Constant; a copy of the weights of a law. Local."""
    return terminal.x.array if isinstance(terminal, fem.Function) else terminal.value


def write(terminal: Control, values: Array) -> None:
    """Set the values of a Function (owned and ghosts), the entries of a Constant or the weights of a law. Local."""
    if isinstance(terminal, PointLaw):
        terminal.write(values)
    else:
        register = values_of(terminal)
        register[...] = np.reshape(values, register.shape)


def number_now(value: object) -> float:
    """A number, or the one that a scalar Constant holds now; else NaN. Local."""
    return as_number(value.value if isinstance(value, fem.Constant) else value)


@contextmanager
def given_back(terminals: Iterable[Control]) -> Iterator[None]:
    """Functions and Constants hold after the block what they held before it, ghosts included. Local."""
    before = [(terminal, values_of(terminal).copy()) for terminal in terminals]
    try:
        yield
    finally:
        for terminal, kept in before:
            write(terminal, kept)


@contextmanager
def given_back_on_failure(terminals: Sequence[Control]) -> Iterator[None]:
    """Functions and Constants hold what they held before a block that fails, ghosts included. Local."""
    before = [values_of(terminal).copy() for terminal in terminals]
    try:
        yield
    except BaseException:
        for terminal, kept in zip(terminals, before, strict=True):
            write(terminal, kept)
        raise


def assembled(form: fem.Form, dual: fem.Function) -> Array:
    """The owned values of a vector form, a view of ``dual``, which is overwritten. Collective."""
    dual.x.array[:] = 0.0
    fem.assemble_vector(dual.x.array, form)
    dual.x.scatter_reverse(la.InsertMode.add)
    return dual.x.array[: num_owned(dual.function_space)]


def present(control: Control) -> Array:
    """What a control holds: owned values of a field, the entries of a constant. Local."""
    if isinstance(control, fem.Function):
        return control.x.array[: num_owned(control.function_space)]
    return np.asarray(control.value, dtype=np.float64).reshape(-1)


def cell_dofs(V: fem.FunctionSpace, cells: npt.NDArray[np.int32] | slice) -> npt.NDArray[np.int32]:
    """Local degrees of freedom of some cells, components side by side: (num_cells, dofs per cell). Local."""
    dofs, block = V.dofmap.list[cells], V.dofmap.bs
    return (dofs[:, :, None] * block + np.arange(block, dtype=np.int32)).reshape(len(dofs), dofs.shape[1] * block)


def num_owned(V: fem.FunctionSpace) -> int:
    """Degrees of freedom of V that this rank owns."""
    return int(V.dofmap.index_map.size_local * V.dofmap.index_map_bs)
