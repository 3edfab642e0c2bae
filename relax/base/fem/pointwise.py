"""Coefficients that a function outside UFL gives point by point, and the Functions that hold what it gives.

UFL's own ``ExternalOperator`` is not used: each of its derivatives is another operator in the algebra of base forms, in
which DOLFINx compiles nothing, and it knows of no weights. Here UFL sees Functions at quadrature points, and the chain
rule is one Gateaux derivative in several of them at once (``relax.engine.residual.laws``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from ufl.core.expr import Expr
from ufl.corealg.traversal import traverse_unique_terminals, unique_pre_traversal
from ufl.domain import extract_domains

from relax.base.types import Array
from relax.errors import BadProblem


class PointLaw(ufl.Coefficient):  # abstract: UFL's metaclass leaves no room for ABC's
    """k(x) = N(z(x); θ) with z a UFL expression, and N a function of numbers with weights θ.

    It stands in integrals over cells as any coefficient does, and in ``controls`` for θ. Arrays of the methods, which
    are Local, have a row for each of n points: z (n, d), k (n, s) with s components. θ is what ``value`` says.

    Args:
        inputs: UFL expressions of Functions, Constants and coordinates, whose components side by side are z.
        shape: of k.
        name: for messages.

    Attributes:
        function: what N is; coefficients of one function have one θ.
        z: the inputs' components as one vector of UFL, (d,).
        depends_on: the Functions and Constants that stand in z.
        size: the number of weights.
        components: s.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> PointLaw:
        return object.__new__(cls)  # UFL's own looks at positional arguments

    def __init__(self, inputs: Sequence[Expr], shape: tuple[int, ...], function: object, size: int, name: str) -> None:
        self.name = name
        self.function = function
        self.size = size
        self.components = int(np.prod(shape, dtype=np.int64))
        self.z: Expr = ufl.as_vector(_components(inputs, name))
        standing = [t for t in traverse_unique_terminals(self.z) if isinstance(t, fem.Function | fem.Constant)]
        self.depends_on = tuple(standing)
        (domain,) = extract_domains(self.z)
        # A stand-in: forms take it at the points of their own quadrature.
        cell = domain.ufl_coordinate_element().cell_type
        element = basix.ufl.quadrature_element(cell, value_shape=shape, degree=1)
        super().__init__(ufl.FunctionSpace(domain, element))

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def replaced(self, mapping: Mapping[Any, Any]) -> PointLaw:
        """The same function of other inputs, as by ``ufl.replace``, which does not reach into them."""

    @property
    @abstractmethod
    def value(self) -> Array:
        """θ as it stands: a copy, (size,)."""

    @abstractmethod
    def write(self, weights: Array) -> None:
        """Set θ."""

    @abstractmethod
    def values(self, z: Array) -> Array:
        """N: (n, s)."""

    @abstractmethod
    def slopes(self, z: Array) -> Array:
        """∂N/∂z: (n, s, d)."""

    @abstractmethod
    def changes(self, z: Array, dz: Array, dw: Array) -> tuple[Array, Array]:
        """Derivatives of ``values`` and ``slopes`` along changes dz and dθ: (n, s), (n, s, d)."""

    @abstractmethod
    def tangents(self, z: Array, dw: Array) -> Array:
        """∂N/∂θ dθ: (n, s)."""

    @abstractmethod
    def collected(self, z: Array, dual: Array) -> Array:
        """(∂N/∂θ)ᵀ of (n, s), summed over the points: (size,)."""

    @abstractmethod
    def collected_change(self, z: Array, dual: Array, dz: Array, dw: Array, change: Array) -> Array:
        """The derivative of ``collected`` along changes dz, dθ, and that of ``dual``: (size,)."""


class AtPoints(fem.Function):
    """Numbers at quadrature points that follow from other Functions and Constants, and weights.

    Args:
        V: of quadrature elements.
        name: of the Function.
        depends_on: what they follow from.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> AtPoints:
        return object.__new__(cls)  # UFL's own looks at positional arguments

    def __init__(self, V: fem.FunctionSpace, name: str, depends_on: Sequence[Any]) -> None:
        super().__init__(V, name=name)
        self.depends_on = tuple(depends_on)


def _components(inputs: Sequence[Expr], name: str) -> list[Expr]:
    if isinstance(inputs, Expr) or not isinstance(inputs, Sequence) or not inputs:
        raise BadProblem(f"{name}: inputs: expected a list of UFL expressions, such as [u, ufl.grad(u)], got {inputs}")
    flat = []
    for i, given in enumerate(inputs):
        if not isinstance(given, Expr) or given.ufl_free_indices:
            raise BadProblem(f"{name}: inputs[{i}]: expected a UFL expression, got {given!r:.80}")
        for node in unique_pre_traversal(given):
            if isinstance(node, ufl.classes.GeometricFacetQuantity | ufl.classes.Restricted | ufl.Argument | PointLaw):
                raise BadProblem(
                    f"{name}: inputs[{i}]: expected values within cells, of Functions, Constants and coordinates, got "
                    f"{node} in it"
                )
        flat += [given[index] if index else given for index in np.ndindex(given.ufl_shape)]
    if (count := len(extract_domains(ufl.as_vector(flat)))) != 1:
        raise BadProblem(
            f"{name}: inputs: expected Functions, Constants or coordinates of one mesh, got those of {count}"
        )
    return flat


def laws_in(integrals: ufl.Form | Expr) -> list[PointLaw]:
    """The point laws that stand in a form or an expression."""
    given = [integrals] if isinstance(integrals, Expr) else [i.integrand() for i in integrals.integrals()]
    found = [t for integrand in given for t in traverse_unique_terminals(integrand) if isinstance(t, PointLaw)]
    return list({id(t): t for t in found}.values())


def replaced(given: Any, moved: Mapping[Any, Any]) -> Any:
    """A form, or an expression, with other things in the place of Functions and Constants, in laws as well."""
    # ufl.replace does not reach into what a law follows from.
    laws = {law: law.replaced(moved) for law in laws_in(given) if any(t in moved for t in law.depends_on)}
    return ufl.replace(given, {**moved, **laws})


def refuse_laws(given: ufl.Form | Expr, what: str) -> None:
    """Raise ``BadProblem`` where a point law stands in a form or expression that knows none. Local."""
    if laws := laws_in(given):
        raise BadProblem(
            f"{what}: {laws[0]} stands in it, which only the residual of a Problem may hold; expected Functions and "
            "Constants"
        )


def check_laws(form: ufl.Form, what: str) -> None:
    """Refuse a form that takes point laws where, or how, they have no value or no derivative. Local.

    Raises:
        BadProblem: saying what stands in the way in ``what``.
    """
    for integral in form.integrals():
        laws = laws_in(integral.integrand())
        if not laws:
            continue
        kind, rule = integral.integral_type(), integral.metadata().get("quadrature_rule", "default")
        if kind != "cell" or rule != "default":
            where = f"{kind} integral" if kind != "cell" else f"integral by the rule {rule!r}"
            raise BadProblem(
                f"{what}: expected {laws[0]} in integrals over cells, dx, by a quadrature degree, got one in a {where}"
            )
        for node in unique_pre_traversal(integral.integrand()):
            if isinstance(node, ufl.classes.Derivative) and (inside := laws_in(node)):
                raise BadProblem(
                    f"{what}: UFL takes a derivative of {inside[0]}, which it knows at points alone; expected the law "
                    "beside derivatives, as in inner(k * grad(u), grad(v)), and a force written out, not as the "
                    "ufl.derivative of an energy with the law in it"
                )
