"""Boundary values that follow a UFL expression: the values, and their derivatives in the controls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import ufl
from dolfinx import fem
from ufl.algorithms import expand_derivatives
from ufl.constantvalue import Zero
from ufl.core.expr import Expr

from relax.base.fem import compat
from relax.base.fem.forms import cell_dofs, condition_on, terminals_of
from relax.base.types import Array, Indices
from relax.engine.residual.registers import Registers
from relax.problem.boundary import ExpressionCondition


class FollowedExpression:
    """g = E(x, m) at the nodes of a condition u = g, with the controls m that stand in E.

    Methods are collective the first time, when an expression is compiled, and Local from then on.

    Args:
        condition: u = g.
        registers: of the problem.
        dofs: the clamped values of the state that this condition gives, as local indices, (n,).
        entries: which value of g each of these is, (n,).

    Attributes:
        controls: the numbers of the controls that stand in E.
        is_affine: E is affine in them together.
    """

    def __init__(self, condition: ExpressionCondition, registers: Registers, dofs: Indices, entries: Indices) -> None:
        self._g = condition.values
        self._registers = registers
        self._dofs = dofs
        self._nodes = _Nodes(self._g.function_space, entries)
        standing = terminals_of(condition.expression)
        fields_and_numbers = registers.controls
        self.controls = tuple(i for i, c in enumerate(fields_and_numbers) if any(c is t for t in standing))
        # UFL differentiates with respect to a Constant only through a variable that stands for it.
        self._variables = {
            i: ufl.variable(fields_and_numbers[i])
            for i in self.controls
            if isinstance(fields_and_numbers[i], fem.Constant)
        }
        replaced = {fields_and_numbers[i]: variable for i, variable in self._variables.items()}
        self._expression: Expr = ufl.replace(condition.expression, replaced)
        slope = self._along_controls(self._expression)
        in_slope = () if slope is None else terminals_of(slope)
        self.is_affine = not any(
            condition_on(self._expression, fields_and_numbers[i]) or any(fields_and_numbers[i] is t for t in in_slope)
            for i in self.controls
        )
        self._compiled: dict[object, fem.Expression | None] = {}

    def lift(self, parts: list[Array], state: Array) -> None:
        """Write the variation of the given values, for control variations ``parts``, into a local state.

        The registers of dm hold ``parts`` afterwards.
        """
        self._registers.install_tangent(parts)
        tangent = self._made("tangent", lambda: self._along_controls(self._expression))
        if tangent is not None:
            state[self._dofs] = self._nodes.values(tangent, 1)[:, 0]

    def collect(self, dual: Array, i: int, into: Array) -> None:
        """The transpose of ``lift`` for control i: add (∂g/∂m_i)ᵀ times owned entries of ``dual`` to ``into``."""
        self._collect(self._made(("gradient", i), lambda: self._gradient(i)), dual, i, into)

    def collect_change(self, dual: Array, i: int, into: Array) -> None:
        """Add the derivative of ``collect`` along the installed dm, for the same ``dual``."""
        if not self.is_affine:
            change = self._made(("change", i), lambda: self._along_controls(self._gradient(i)))
            self._collect(change, dual, i, into)

    def _collect(self, expression: fem.Expression | None, dual: Array, i: int, into: Array) -> None:
        if expression is None:
            return
        control = self._registers.controls[i]
        mine = self._dofs < len(dual)
        # The entries of ``into`` that the arguments of a node's cell are.
        entries = (
            np.broadcast_to(np.arange(len(into)), (len(self._dofs), len(into)))
            if isinstance(control, fem.Constant)
            else cell_dofs(control.function_space, self._nodes.cells)
        )[mine]
        slopes = self._nodes.values(expression, entries.shape[1])[mine]
        np.add.at(into, entries, dual[self._dofs[mine], None] * slopes)

    # -- expressions ---------------------------------------------------------------------------------------------------

    def _slope(self, expression: Expr, i: int, direction: Expr) -> Expr | None:
        """The derivative of an expression in control i; None where it is zero."""
        if i in self._variables:
            slope = ufl.diff(expression, self._variables[i])
            free, summed = ufl.indices(len(expression.ufl_shape)), ufl.indices(len(direction.ufl_shape))
            product = (slope[free + summed] if free + summed else slope) * (direction[summed] if summed else direction)
            slope = ufl.as_tensor(product, free) if free else product
        else:
            slope = ufl.derivative(expression, self._registers.controls[i], direction)
        expanded = expand_derivatives(slope)
        return None if isinstance(expanded, Zero) else expanded

    def _along_controls(self, expression: Expr | None) -> Expr | None:
        """The derivative of an expression along dm; None where it is zero."""
        if expression is None:
            return None
        slopes = [self._slope(expression, i, self._registers.tangent_controls[i]) for i in self.controls]
        present = [slope for slope in slopes if slope is not None]
        return sum(present[1:], start=present[0]) if present else None

    def _gradient(self, i: int) -> Expr | None:
        """∂E/∂m_i, with the argument of a space as the direction."""
        return self._slope(self._expression, i, ufl.TestFunction(self._registers.dual_spaces[i]))

    def _made(self, name: object, make: Callable[[], Expr | None]) -> fem.Expression | None:
        """A compiled expression at the nodes of a cell; None of none."""
        if name not in self._compiled:
            expression, points = make(), compat.interpolation_points(self._g.function_space)
            compiled = None if expression is None else fem.Expression(expression, points, comm=self._registers.comm)
            self._compiled[name] = compiled
        return self._compiled[name]


class _Nodes:
    """Degrees of freedom that are values at points, each in one of the cells that have it. Local.

    Args:
        V: a space of such, scalar or of several components.
        dofs: local indices, component by component, (n,).

    Attributes:
        cells: of each, (n,).
    """

    def __init__(self, V: fem.FunctionSpace, dofs: Indices) -> None:
        table = cell_dofs(V, slice(None))
        first: Indices = np.zeros(int(table.max(initial=-1)) + 1, dtype=np.int64)
        first[table.ravel()[::-1]] = np.arange(table.size)[::-1]
        cells, self._row = np.divmod(first[dofs], table.shape[1])
        self.cells = cells.astype(np.int32)
        self._distinct, self._place = np.unique(self.cells, return_inverse=True)
        self._mesh = V.mesh
        self._rows = table.shape[1]

    def values(self, expression: fem.Expression, arguments: int) -> Array:
        """The values of an expression for each of the arguments of a cell: (n, arguments)."""
        values = expression.eval(self._mesh, self._distinct)
        return np.asarray(values.reshape(len(self._distinct), self._rows, arguments)[self._place, self._row])
