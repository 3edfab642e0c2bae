"""A library of terms: what UFL says of each, split into what an integral against a smooth test function needs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import ufl
from dolfinx import fem
from ufl.algorithms import expand_derivatives, extract_arguments
from ufl.algorithms.check_arities import ArityMismatch, check_integrand_arity
from ufl.core.expr import Expr
from ufl.corealg.traversal import unique_pre_traversal

from relax.base.checks import of_kind
from relax.base.fem.forms import terminals_of
from relax.base.fem.pointwise import refuse_laws
from relax.base.fem.unknown import Unknown
from relax.errors import BadInput, BadProblem

# The most derivatives in space that a bump has, and those in time of an equation.
_SMOOTH, _IN_TIME = 4, 2


def test(V: fem.FunctionSpace) -> ufl.Argument:
    """The test function v of an equation; in V, a scalar or of as many components as the equation. Local."""
    of_kind(V, fem.FunctionSpace, "a function space on the mesh of the data", "test: V")
    return ufl.TestFunction(V)


@dataclass(frozen=True)
class Column:
    """A function of x whose integrals, times a function of x that a test function gives, make up a term.

    Attributes:
        term: the number of the term.
        order: how many derivatives in time go to the test function.
        component: of the test function.
        degree: how many derivatives in space the term takes of the test function.
        power: beta, at most of that degree: the term is that where the test function is the monomial (x - x_0)^beta.
        expression: that function, in u and x.
    """

    term: int
    order: int
    component: int
    degree: int
    power: tuple[int, ...]
    expression: Expr


class Library:
    """The terms of an equation, each with the test function in it. Collective to make.

    Args:
        terms: name -> UFL, what is integrated over space and time, linear in v: ``{"u_t": u.dt * v, ...}``.

    Attributes:
        names: of the terms.
        terms: their UFL.
        u, v: the unknown and the test function.
        parts: for each term a table: order in time -> UFL in u and v, of which that derivative is taken.

    Raises:
        BadInput, BadProblem: for what is no library, naming the term.
    """

    def __init__(self, terms: Mapping[str, Expr]) -> None:
        if not isinstance(terms, Mapping) or len(terms) < 2:
            raise BadInput(f"library: expected a table, name -> UFL, of at least two terms, got {terms!r:.80}")
        self.names = tuple(str(name) for name in terms)
        self.terms = tuple(_integrand(name, term) for name, term in terms.items())
        self.u, self.v = self._terminals()
        self.space = self.u.function_space
        self.mesh = self.space.mesh
        self.parts = tuple(self._split(n, t) for n, t in zip(self.names, self.terms, strict=True))
        if self.mesh.topology.dim != self.mesh.geometry.dim:
            raise BadProblem("library: expected a mesh that fills its space; on a surface bumps have no meaning")

    def _terminals(self) -> tuple[Unknown, ufl.Argument]:
        held = [t for term in self.terms for t in terminals_of(term) if isinstance(t, Unknown)]
        fields = {id(t.field): t.field for t in held}
        arguments = {a for term in self.terms for a in extract_arguments(term)}
        if len(arguments) != 1:
            raise BadProblem(f"library: expected terms in one test function, test(V), got {len(arguments)}")
        if len(fields) != 1:
            raise BadProblem(f"library: expected terms in one u = unknown(V), got {len(fields)} of them")
        if max(t.order for t in held) > _IN_TIME:
            raise BadProblem(f"library: expected at most {_IN_TIME} derivatives in time, u.dt.dt")
        (v,), (u,) = arguments, fields.values()
        if v.ufl_function_space().mesh is not u.function_space.mesh:
            raise BadProblem("library: expected test(V) on the mesh of unknown(V)")
        return u, v

    def _split(self, name: str, term: Expr) -> dict[int, Expr]:
        """By the order in time: what is left where the derivative in time is u's, and is to go to v."""
        _check_derivatives(name, term, self.space)
        dx = ufl.dx(domain=self.mesh)
        in_time = {t.order: t for t in terminals_of(term) if isinstance(t, Unknown) and t.order > 0}
        nothing = {t: ufl.constantvalue.Zero(t.ufl_shape, t.ufl_free_indices) for t in in_time.values()}
        parts = {0: expand_derivatives(ufl.replace(term, nothing))}
        for order, derivative in in_time.items():
            z = fem.Function(self.space)
            slope = expand_derivatives(ufl.derivative(term * dx, derivative, z))
            if slope.empty():
                continue
            if any(isinstance(c, Unknown) for c in slope.coefficients()):
                raise BadProblem(
                    f"library: the term {name!r}: expected one that is linear in the time derivative, with no other u "
                    "in it, so that the test function can take it over; write (u²/2)_t for u u_t, or leave it out"
                )
            (integral,) = slope.integrals()
            parts[order] = ufl.replace(integral.integrand(), {z: self.u})
        return {order: part for order, part in parts.items() if not isinstance(part, ufl.constantvalue.Zero)}

    @property
    def num_components(self) -> int:
        """How many components the test function has."""
        size = 1
        for n in self.v.ufl_shape:
            size *= n
        return size

    @cached_property
    def orders(self) -> tuple[int, ...]:
        """For each term the highest derivative in time."""
        return tuple(max(part, default=0) for part in self.parts)

    def columns(self, origin: Expr) -> list[Column]:
        """What is to be integrated; monomials are about ``origin``."""
        x = ufl.SpatialCoordinate(self.mesh) - origin
        columns = []
        for term, parts in enumerate(self.parts):
            for order, part in parts.items():
                most = derivatives_of(part, self.v)
                for component, power in itertools.product(range(self.num_components), powers(len(x), most)):
                    monomial = ufl.as_ufl(1.0)
                    for axis, exponent in enumerate(power):
                        monomial = monomial * x[axis] ** exponent if exponent else monomial
                    expression = expand_derivatives(ufl.replace(part, {self.v: self._single(component, monomial)}))
                    if not isinstance(expression, ufl.constantvalue.Zero):
                        columns.append(Column(term, order, component, most, power, expression))
        return columns

    def _single(self, component: int, value: Expr) -> Expr:
        """A test function of which one component is not zero."""
        shape = self.v.ufl_shape
        if not shape:
            return value
        flat = [value if i == component else ufl.as_ufl(0.0) for i in range(self.num_components)]
        for n in reversed(shape[1:]):
            flat = [flat[i : i + n] for i in range(0, len(flat), n)]
        return ufl.as_tensor(flat)


def powers(dim: int, most: int) -> list[tuple[int, ...]]:
    """The exponents of monomials up to a degree."""
    return [p for p in itertools.product(range(most + 1), repeat=dim) if sum(p) <= most]


def _integrand(name: str, term: object) -> Expr:
    if isinstance(term, ufl.Form):
        raise BadInput(f"library: the term {name!r}: expected what is integrated, without * dx, got a form")
    if not isinstance(term, Expr) or term.ufl_shape:
        raise BadInput(f"library: the term {name!r}: expected a UFL scalar, such as u.dt * v, got {term!r:.80}")
    refuse_laws(term, f"library: the term {name!r}")
    arguments = extract_arguments(term)
    lowered = expand_derivatives(term)
    try:
        check_integrand_arity(lowered, arguments)
    except ArityMismatch as cause:
        raise BadProblem(f"library: the term {name!r}: expected one that is linear in test(V): {cause}") from cause
    if len(arguments) != 1:
        raise BadProblem(f"library: the term {name!r}: expected test(V) in it once, got {len(arguments)} of them")
    return term


def derivatives_of(expression: Expr, terminal: Expr) -> int:
    """The most derivatives in space that are taken of a terminal."""
    most = 0
    for node in unique_pre_traversal(expand_derivatives(expression)):
        depth = 0
        while isinstance(node, ufl.classes.Grad):
            node, depth = node.ufl_operands[0], depth + 1
        if node is terminal or node == terminal:
            most = max(most, depth)
    return most


def _check_derivatives(name: str, term: Expr, V: fem.FunctionSpace) -> None:
    of_v = derivatives_of(term, *extract_arguments(term))
    if of_v > _SMOOTH:
        raise BadProblem(f"library: the term {name!r}: expected at most {_SMOOTH} derivatives of v, got {of_v}")
    fields: Sequence[fem.Function] = [t for t in terminals_of(term) if isinstance(t, fem.Function)]
    for field in fields:
        may = 1 if field.function_space.ufl_element() in ufl.H1 else 0
        if (taken := derivatives_of(term, field)) > may:
            raise BadProblem(
                f"library: the term {name!r}: takes {taken} derivatives of {field.name!r}, that fields of "
                f"{field.function_space.ufl_element()} have not across cells; let v have them, as in "
                "-inner(grad(u), grad(v)) or u * div(grad(v))"
            )
