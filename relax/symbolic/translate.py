"""UFL in SymPy's words: tensors are arrays of SymPy expressions, gradients are carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy
import ufl
from dolfinx import fem
from ufl import classes
from ufl.core.expr import Expr

from relax.errors import BadInput

Entries = npt.NDArray[np.object_]

_NAMES = {"ln": "log"}


class Translator:
    """Turns UFL expressions, with compound algebra lowered, into arrays of SymPy expressions of the shape they have.

    Args:
        coordinates: SymPy's symbols for x.
        terminals: what stands for Functions, Arguments and Constants. Other Constants become the numbers they hold now.
    """

    def __init__(self, coordinates: Sequence[sympy.Symbol], terminals: Mapping[Expr, sympy.Expr]) -> None:
        self._x = list(coordinates)
        self._terminals = terminals

    def __call__(self, e: Expr, at: Mapping[Any, int] | None = None) -> Entries:
        """The expression, with free indices ``at`` these numbers.

        Raises:
            BadInput: for what has no formula: a Function of numbers, a condition, a normal.
        """
        return np.asarray(self._terminal(e) if e._ufl_is_terminal_ else self._operator(e, at or {}), dtype=object)

    def _operator(self, e: Expr, at: Mapping[Any, int]) -> Any:
        operands = e.ufl_operands
        if isinstance(e, classes.Indexed):
            return self(operands[0], at)[_numbers(operands[1], at)]
        if isinstance(e, classes.IndexSum):
            (index,) = operands[1].indices()
            return sum(self(operands[0], {**at, index: i}) for i in range(e.dimension()))
        if isinstance(e, classes.ComponentTensor):
            result = np.empty(e.ufl_shape, dtype=object)
            for places in product(*map(range, e.ufl_shape)):
                result[places] = self(operands[0], {**at, **dict(zip(operands[1].indices(), places, strict=True))})[()]
            return result
        parts = [self(operand, at) for operand in operands]
        if isinstance(e, classes.ListTensor):
            return np.stack(parts)
        if isinstance(e, classes.Grad):
            slopes = [[sympy.diff(value, x) for x in self._x] for value in parts[0].ravel()]
            return np.array(slopes, dtype=object).reshape(e.ufl_shape)
        if isinstance(e, classes.Conj | classes.Real | classes.Variable):
            return parts[0]
        if isinstance(e, classes.Sum | classes.Product):
            return parts[0] + parts[1] if isinstance(e, classes.Sum) else parts[0] * parts[1]
        if isinstance(e, classes.Division | classes.Power):
            return parts[0] / parts[1] if isinstance(e, classes.Division) else parts[0] ** parts[1]
        if isinstance(e, classes.MathFunction):
            function = getattr(sympy, _NAMES.get(e._name, e._name), None)
            if function is not None:
                return function(parts[0][()])
        raise BadInput(f"expected an expression with a closed form, got {type(e).__name__} in it: {e!s:.80}")

    def _terminal(self, e: Expr) -> Any:
        if e in self._terminals:
            return self._terminals[e]
        if isinstance(e, classes.SpatialCoordinate):
            return self._x
        if isinstance(e, classes.Zero):
            return np.full(e.ufl_shape, sympy.Integer(0), dtype=object)
        if isinstance(e, classes.Identity):
            return sympy.eye(e.ufl_shape[0]).tolist()
        if isinstance(e, classes.RealValue):
            return as_rational(e._value)
        if isinstance(e, fem.Constant):
            values = np.asarray(e.value, dtype=np.float64)
            return np.array([as_rational(v) for v in values.ravel()], dtype=object).reshape(values.shape)
        hint = ""
        if isinstance(e, fem.Function):
            hint = "; numbers at nodes have no formula: write it in ufl.SpatialCoordinate(mesh)"
        raise BadInput(f"expected coordinates, Constants and the unknown, got {type(e).__name__} {e!s:.80}{hint}")


def as_rational(value: float) -> sympy.Expr:
    """The fraction that the shortest decimal of a number is, so that 0.1 is one tenth; and π.

    Raises:
        BadInput: for NaN and infinity.
    """
    if not np.isfinite(value):
        raise BadInput(f"expected finite numbers in the equation and its conditions, got {value}")
    return sympy.pi if value == np.pi else sympy.Rational(repr(float(value)))


def to_ufl(expressions: Sequence[sympy.Expr], names: Mapping[sympy.Expr, Expr | float]) -> list[Expr]:
    """SymPy's expressions in UFL, with what stands for their symbols."""
    functions = {name: getattr(ufl, name) for name in ("sin", "cos", "tan", "exp", "sqrt", "sinh", "cosh", "tanh")}
    functions |= {"asin": ufl.asin, "acos": ufl.acos, "atan": ufl.atan, "erf": ufl.erf}
    symbols = [sympy.Dummy() for _ in names]
    plain = [sympy.sympify(e).xreplace(dict(zip(names, symbols, strict=True))) for e in expressions]
    known = [functions | {"log": ufl.ln, "pi": float(np.pi), "E": float(np.e), "Abs": abs}]
    return [ufl.as_ufl(v) for v in sympy.lambdify(symbols, plain, modules=known)(*names.values())]


def _numbers(indices: Any, at: Mapping[Any, int]) -> tuple[int, ...]:
    return tuple(int(i) if isinstance(i, classes.FixedIndex) else at[i] for i in indices.indices())
