"""An equation and its conditions in SymPy: from the weak form to what vanishes at points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sympy
import ufl
from dolfinx import fem, mesh
from sympy.core.function import AppliedUndef
from ufl.algorithms.apply_algebra_lowering import apply_algebra_lowering

from relax.base.checks import as_number, of_kind
from relax.base.fem.unknown import Unknown
from relax.base.types import Array
from relax.errors import BadInput, BadProblem
from relax.symbolic.jets import Key
from relax.symbolic.translate import Translator, as_rational

#: A function of points (axes, n) and, where it holds u, of the derivatives of u there.
Pointwise = Callable[..., Any]

_CONDITIONS = ("boundary", "initial", "velocity")


class Equation:
    """∫ c_0 v + c · grad v dx + ∫ b v ds = 0 for all v: c_0 − div c = 0, and c · n + b = 0 where the form has a ds.

    There are data on the rest of the boundary, and at the start.

    Local, and the same on every rank.

    Args:
        residual: a UFL form in an :class:`Unknown`, its derivatives in time and a test function.
        conditions: "boundary", "initial", "velocity": numbers or UFL expressions.
        time: the Constant that stands for t in these.

    Attributes:
        V: the space of the unknown.
        order: of the highest derivative in time.
        symbols: for x, y, z and, of an evolution, t.
        u: the unknown as a function of these.
        parts: c_0, c_1, ..., in u and its derivatives.
        terms: integrals over the boundary, each with its b, in u, its derivatives and ``normal``.
        normal: symbols for n.
        conditions: in the symbols, by name.
        keys: the derivatives of u that the equation holds at points.
        residual: of points and of these derivatives, as it stands with them in their order.

    Raises:
        BadProblem: for a form that is none of this kind.
        BadInput: for data without a closed form.
    """

    def __init__(self, residual: ufl.Form, conditions: Mapping[str, Any], time: fem.Constant | None = None) -> None:
        self.V, self.order, u, v = _unknown_and_test(residual)
        gdim = self.V.mesh.geometry.dim
        x = sympy.symbols("x y z", real=True)[:gdim]
        t = sympy.Symbol("t", real=True)
        self.symbols: tuple[sympy.Symbol, ...] = (*x, t) if self.order else x
        self.u = sympy.Function("u")(*self.symbols)
        w = sympy.Function("v")(*x)
        terminals: dict[Any, sympy.Expr] = {d: self.u.diff(t, d.order) if d.order else self.u for d in u} | {v: w}
        if time is not None:
            of_kind(time, fem.Constant, "the Constant that stands for t", "time")
            if not self.order:
                raise BadProblem("time: the residual has no derivative in time; write u.dt, u an unknown")
            terminals[time] = t
        translate = Translator(x, terminals)
        self.normal = sympy.symbols("n_x n_y n_z", real=True)[:gdim]
        normals = {ufl.FacetNormal(self.V.mesh): np.array(self.normal, dtype=object)}
        on_boundary = Translator(x, terminals | normals)
        integrals = apply_algebra_lowering(residual).integrals()
        inside = [i.integrand() for i in integrals if i.integral_type() == "cell"]
        self.parts = _by_test(sum(translate(integrand)[()] for integrand in inside), w, x)
        self.terms: list[tuple[ufl.Integral, sympy.Expr]] = []
        for i in integrals:
            if i.integral_type() != "cell":
                value, *slopes = _by_test(on_boundary(i.integrand())[()], w, x)
                if any(slopes):
                    raise BadProblem("residual: expected no derivative of the test function in an integral `* ufl.ds`")
                self.terms.append((i, value))
        strong = self.parts[0] - sum(part.diff(z).doit() for part, z in zip(self.parts[1:], x, strict=True))
        self.keys, self.residual = self.at_points(strong)
        self.conditions = self._translated(conditions, translate)

    def at_points(
        self, expression: sympy.Expr, besides: Sequence[sympy.Symbol] = ()
    ) -> tuple[tuple[Key, ...], Pointwise]:
        """An expression in u as a function of points, of symbols besides, and of derivatives of u: which, and it."""
        atoms = sorted((a for a in expression.atoms(sympy.Derivative, AppliedUndef)), key=str)
        keys = tuple(self.key(atom) for atom in atoms)
        if any(len(key) > 2 for key in keys):
            raise BadProblem("residual: expected an equation of at most second order, in space and time together")
        stand_ins = [sympy.Dummy() for _ in atoms]
        plain = expression.xreplace(dict(zip(atoms, stand_ins, strict=True)))
        return keys, sympy.lambdify([*self.symbols, *besides, *stand_ins], plain, cse=True)

    def key(self, atom: sympy.Expr) -> Key:
        """The axes that u is derived in."""
        if not isinstance(atom, sympy.Derivative):
            return ()
        return tuple(sorted(self.symbols.index(z) for z in atom.variables))

    def _translated(self, conditions: Mapping[str, Any], translate: Translator) -> dict[str, sympy.Expr]:
        of_kind(conditions, Mapping, 'a dictionary such as {"initial": u0, "boundary": 0.0}', "conditions")
        needed = _CONDITIONS[1 : 1 + self.order]
        if unknown := [name for name in conditions if name not in ("boundary", *needed)]:
            raise BadInput(
                f"conditions: expected {', '.join(map(repr, ('boundary', *needed)))} of an equation of order "
                f"{self.order} in time, got {unknown[0]!r}"
            )
        if missing := [name for name in needed if name not in conditions]:
            raise BadInput(f"conditions: an equation of order {self.order} in time needs {missing[0]!r} as well")
        found: dict[str, sympy.Expr] = {}
        for name, value in conditions.items():
            number = as_number(value)
            if isinstance(value, ufl.core.expr.Expr):
                if value.ufl_shape:
                    raise BadInput(f"conditions[{name!r}]: expected a scalar, got shape {value.ufl_shape}")
                found[name] = translate(apply_algebra_lowering(value))[()]
            elif np.isfinite(number):
                found[name] = as_rational(number)
            else:
                raise BadInput(
                    f"conditions[{name!r}]: expected a number or a UFL expression of ufl.SpatialCoordinate(mesh), got "
                    f"{value!r:.80}"
                )
            if found[name].atoms(AppliedUndef):
                raise BadInput(
                    f"conditions[{name!r}]: the unknown or a test function stands in it; expected known data"
                )
            if name != "boundary":
                found[name] = found[name].subs(self.symbols[-1], 0)
        return found


def _unknown_and_test(residual: ufl.Form) -> tuple[fem.FunctionSpace, int, list[Unknown], ufl.Argument]:
    """The space, the order in time, u with its derivatives, and the test function."""
    kinds = [i.integral_type() for i in residual.integrals()]
    whole = all(i.subdomain_id() == "everywhere" for i in residual.integrals() if i.integral_type() == "cell")
    if "cell" not in kinds or not whole or set(kinds) - {"cell", "exterior_facet"}:
        raise BadProblem(
            "residual: expected integrals over the whole domain, `* ufl.dx`, and over its boundary or tagged parts of "
            f"it, `* ufl.ds`, got {', '.join(sorted(set(kinds)))}{'' if whole else ' of a part'}"
        )
    for i in residual.integrals():
        tags, numbered = i.subdomain_data(), i.subdomain_id() != "otherwise"
        tagged = isinstance(tags, mesh.MeshTags) and tags.dim == tags.topology.dim - 1 and numbered
        if i.subdomain_id() != "everywhere" and not tagged:
            raise BadProblem(
                f"residual: expected `ds({i.subdomain_id()})` of a measure with facet tags, such as that of "
                "relax.meshes.ds(mesh, tags)"
            )
    found, arguments = [c for c in residual.coefficients() if isinstance(c, Unknown)], residual.arguments()
    roots = {id(u.field): u.field for u in found}
    if len(roots) != 1 or len(arguments) != 1:
        raise BadProblem(
            f"residual: expected one relax.symbolic.unknown(V) and one test function, got {len(roots)} and "
            f"{len(arguments)}"
        )
    (root,) = roots.values()
    V = root.function_space
    if V.value_shape or V.ufl_element().family_name != "P" or V.ufl_element().discontinuous:
        raise BadProblem(f"residual: expected a scalar unknown in a Lagrange space, got {V.ufl_element()}")
    if arguments[0].ufl_shape:
        raise BadProblem("residual: expected a scalar test function")
    order = max(u.order for u in found)
    if order > 2:
        raise BadProblem(f"residual: expected at most u.dt.dt, got a derivative of order {order} in time")
    return V, order, found, arguments[0]


def _by_test(integrand: sympy.Expr, w: sympy.Expr, x: Sequence[sympy.Symbol]) -> list[sympy.Expr]:
    """What stands at v and at its first derivatives."""
    value, *slopes = (sympy.Dummy() for _ in range(1 + len(x)))
    plain = integrand.xreplace({w.diff(z): s for z, s in zip(x, slopes, strict=True)})
    if any(d.expr == w for d in plain.atoms(sympy.Derivative)):
        raise BadProblem("residual: expected no higher derivative of the test function than its gradient")
    plain = plain.xreplace({w: value})
    return [plain.diff(s) for s in (value, *slopes)]


def values_at(function: Pointwise, points: Array, jets: Sequence[Any] = ()) -> Array:
    """What a pointwise function gives, one value for each point, also where it is a number."""
    return np.asarray(function(*points, *jets)) + np.zeros(points.shape[1])
