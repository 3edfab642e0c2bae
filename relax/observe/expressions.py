"""Values of any expression of the state and of controls: at points, and as a field."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any, Protocol

import basix.ufl
import dolfinx.fem.petsc as fem_petsc
import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, la, mesh
from ufl.core.expr import Expr
from ufl.corealg.traversal import traverse_unique_terminals, unique_pre_traversal

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem import compat
from relax.base.fem.cells import cell_numbers
from relax.base.fem.forms import Control, cell_dofs, num_owned, terminals_of
from relax.base.fem.layout import SpaceLayout
from relax.base.fem.moved_cells import MovedCells
from relax.base.fem.points import owned_points
from relax.base.fem.pointwise import refuse_laws
from relax.base.fem.quadrature import with_fixed_degrees
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT_SYMMETRIC
from relax.base.types import Array
from relax.errors import BadProblem
from relax.observe.base import Observable
from relax.observe.of_form import FormObservable, Terminal

_SIZES = (
    ufl.classes.CellVolume,
    ufl.classes.Circumradius,
    ufl.classes.CellDiameter,
    ufl.classes.MinCellEdgeLength,
    ufl.classes.MaxCellEdgeLength,
)
_PREFIX = "relax_projection_"


class _OfExpression(FormObservable):
    """y = Q ∂s/∂w, for a form s = Σ w · expression, or its integral. Collective.

    Args:
        expr: the expression.

    Raises:
        BadProblem: for something else than an expression of Functions, or one that has no value within cells.
    """

    made_of = "expression"

    def __init__(self, expr: Expr) -> None:
        name = type(self).__name__
        if not isinstance(expr, Expr) or expr.ufl_free_indices:
            raise BadProblem(
                f"{name}: expected a UFL expression, such as ufl.grad(u) or ufl.as_vector([...]), got {expr!r:.80}"
            )
        refuse_laws(expr, name)
        held = terminals_of(expr)
        fields = [f for f in held if isinstance(f, fem.Function)]
        if not fields:
            raise BadProblem(f"{name}: the state does not stand in the expression, nor any other Function")
        for node in unique_pre_traversal(expr):
            if isinstance(node, ufl.classes.GeometricFacetQuantity | ufl.classes.Restricted | ufl.Argument):
                raise BadProblem(f"{name}: expected an expression with values within cells, got {node} in it")
        super().__init__(held)
        self._given = expr
        self._mesh: mesh.Mesh = fields[0].function_space.mesh
        if any(f.function_space.mesh is not self._mesh for f in fields):
            raise BadProblem(f"{name}: expected Functions on one mesh")
        self._components = int(np.prod(expr.ufl_shape, dtype=np.int64))

    @abstractmethod
    def _y(self, dual: Array) -> Array:
        """Q: from owned values of ∂s/∂w to y."""

    def _start(self, form: ufl.Form, weights: fem.Function) -> None:
        self._form = form
        self._weights = Terminal(weights, weights.function_space.mesh)

    def value(self, u: fem.Function) -> Array:
        self._load(u)
        return self._y(self._weights.dual(self._derived(self._weights)))

    def _change(self, moved: list[Terminal], changes: list[Array]) -> Array:
        for terminal, change in zip(moved, changes, strict=True):
            terminal.move(change)
        return self._y(self._weights.dual(self._derived(self._weights, *moved)))

    def _scalar(self) -> ufl.Form:
        return self._form

    def _slope(self, of: Terminal) -> ufl.Form | None:
        if of is not self._weights:
            return super()._slope(of)
        # Linear in the weights: no derivative.
        return ufl.replace(self._form, {of.here: ufl.TestFunction(of.space)})


class ExpressionValues(_OfExpression):
    """A UFL expression of the state, and of controls, at points: y = (e(x_1), e(x_2), ...), components side by side.

    Collective. A gradient, a stress, a flux, a component: what is not continuous is that of the one cell that a point
    belongs to, the same on any number of ranks, as for ``PointValues``.

    Args:
        expr: the expression, in which the state stands; controls, coefficients and coordinates may.
        points: (num_points, gdim) coordinates; the same array on every rank (rank 0's counts).

    Attributes:
        points: (num_points, 3).

    Raises:
        PointsOutsideMesh: on every rank, naming the points.
        BadProblem: for an expression without values within cells, or with fields that are no polynomials there.
    """

    def __init__(self, expr: Expr, points: npt.ArrayLike) -> None:
        super().__init__(expr)
        domain = self._mesh
        # Together, at the first use: a rank may have no point.
        domain.topology.create_entity_permutations()
        self.points, mine, cells = owned_points(domain, points)
        moved = MovedCells(domain, self.points[mine], cells)
        swapped: dict[Expr, Expr] = {}
        for given in self._held:
            copy, matrix = _copied(given, moved)
            self._terminals[id(given)] = Terminal(given, moved.mesh, copy, matrix)
            swapped[given] = copy
        for node in traverse_unique_terminals(expr):
            if isinstance(node, ufl.classes.GeometricQuantity):
                if isinstance(node, _SIZES) and not moved.is_affine:
                    raise BadProblem(f"ExpressionValues: expected {node} on cells that are simplices with flat sides")
                swapped[node] = type(node)(moved.mesh)
        W, form = _sum_at(moved.mesh, moved.middle, ufl.replace(expr, swapped))
        self._start(form, W)
        self.size = len(self.points) * self._components
        places = mine[moved.order][:, None] * self._components + np.arange(self._components)
        self._places = np.zeros(len(W.x.array), dtype=np.int64)
        self._places[cell_dofs(W.function_space, slice(len(mine)))] = places

    def _y(self, dual: Array) -> Array:
        y = np.zeros(self.size)
        y[self._places] = dual
        return parallel.sum_over_ranks(self._mesh.comm, y)

    def _weigh(self, dy: Array) -> float:
        self._weights.here.x.array[:] = dy[self._places]
        return 1.0

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        if type(self) is not ExpressionValues:  # of one's own: it may have other values
            return super().on(state, other)
        gdim = self._mesh.geometry.dim
        return ExpressionValues(ufl.replace(self._given, {state: other}), self.points[:, :gdim])


class ExpressionField(_OfExpression):
    """A UFL expression of the state, and of controls, as a field on a space: y as ``FieldValues`` of that space.

    Collective. Interpolated: where several cells share a value, and the expression jumps between them, that of the cell
    counts that came first in the mesh file. Or the projection in L2, the best approximation there.

    Args:
        expr: the expression, in which the state stands; controls, coefficients and coordinates may.
        V: the space, of point values on the mesh of the state, its values of the shape of the expression's.
        projection: project instead of interpolating.

    Raises:
        BadProblem: for a space of another shape, mesh or kind.
    """

    def __init__(self, expr: Expr, V: fem.FunctionSpace, *, projection: bool = False) -> None:
        super().__init__(expr)
        of_kind(V, fem.FunctionSpace, "a function space", "ExpressionField: V")
        if V.mesh is not self._mesh or tuple(V.value_shape) != tuple(expr.ufl_shape):
            raise BadProblem(
                f"ExpressionField: V: expected a space on the mesh of the state of shape {tuple(expr.ufl_shape)}, as "
                f"the expression has, got {tuple(V.value_shape)}"
            )
        if not V.element.interpolation_ident or V.dofmap.index_map_bs != self._components:
            raise BadProblem(f"ExpressionField: V: expected a space of point values, got {V.ufl_element()}")
        self._V, self._is_projected = V, projection
        self._layout = SpaceLayout(V)
        self.size = self._layout.size
        self._side: _Side = (_Projection if projection else _Interpolation)(V, self._components)
        self._start(self._side.form(expr), self._side.weights)

    def _y(self, dual: Array) -> Array:
        return self._layout.gather(self._side.values(dual))

    def _weigh(self, dy: Array) -> float:
        self._side.weigh(self._layout.spread(dy))
        return 1.0

    def on(self, state: fem.Function, other: fem.Function) -> Observable:
        if type(self) is not ExpressionField:  # of one's own: it may have other values
            return super().on(state, other)
        return ExpressionField(ufl.replace(self._given, {state: other}), self._V, projection=self._is_projected)


class _Side(Protocol):
    """How an expression becomes a field: Q, and its transpose.

    Attributes:
        weights: w.
    """

    weights: fem.Function

    def form(self, expr: Expr) -> ufl.Form:
        """s. Collective."""

    def values(self, dual: Array) -> Array:
        """Owned values of the field from those of ∂s/∂w. Collective."""

    def weigh(self, dual: Array) -> None:
        """Write w for a dual vector of the field, owned and ghost values. Collective."""


class _Interpolation:
    """Values at the nodes of the one cell that each value of the field is taken from."""

    def __init__(self, V: fem.FunctionSpace, components: int) -> None:
        self._field, index_map = fem.Function(V), V.dofmap.index_map
        self._nodes = np.array(compat.interpolation_points(V))
        self._mesh = V.mesh
        num_cells = V.mesh.topology.index_map(V.mesh.topology.dim).size_local
        dofs = V.dofmap.list[:num_cells]
        places = index_map.local_to_global(np.ascontiguousarray(dofs.ravel(), dtype=np.int32)).reshape(dofs.shape)
        number = np.broadcast_to(cell_numbers(V.mesh)[:num_cells, None], dofs.shape)
        first = np.full(index_map.size_global, np.iinfo(np.int64).max)
        np.minimum.at(first, places, number)
        chosen = parallel.smallest(V.mesh.comm, first)[places] == number
        entries = np.arange(components)
        self._dofs = (dofs[chosen][:, None] * components + entries).ravel()
        self._chosen, self._components = chosen, components

    def form(self, expr: Expr) -> ufl.Form:
        self.weights, form = _sum_at(self._mesh, self._nodes, expr)
        at_nodes = cell_dofs(self.weights.function_space, slice(len(self._chosen)))
        self._rows = at_nodes.reshape(*self._chosen.shape, self._components)[self._chosen].ravel()
        return form

    def values(self, dual: Array) -> Array:
        x = self._field.x
        x.array[:] = 0.0
        x.array[self._dofs] = dual[self._rows]
        x.scatter_reverse(la.InsertMode.add)
        return x.array[: num_owned(self._field.function_space)]

    def weigh(self, dual: Array) -> None:
        self.weights.x.array[:] = 0.0
        self.weights.x.array[self._rows] = dual[self._dofs]


class _Projection:
    """The solution of (field, φ) = (expression, φ) for all φ."""

    def __init__(self, V: fem.FunctionSpace, components: int) -> None:
        self.weights = fem.Function(V)

    def form(self, expr: Expr) -> ufl.Form:
        return with_fixed_degrees(ufl.inner(expr, self.weights) * ufl.dx)

    @cached_property
    def _mass(self) -> LinearSolver:
        V = self.weights.function_space
        matrix = fem_petsc.assemble_matrix(fem.form(ufl.inner(ufl.TrialFunction(V), ufl.TestFunction(V)) * ufl.dx))
        matrix.assemble()
        solver = LinearSolver(V.mesh.comm, _PREFIX, DIRECT_SYMMETRIC, self_adjoint=True)
        solver.factor(matrix)
        return solver

    def values(self, dual: Array) -> Array:
        return self._mass.solve_many(dual[None, :])[0]

    def weigh(self, dual: Array) -> None:
        n = num_owned(self.weights.function_space)
        self.weights.x.array[:n] = self.values(dual[:n])
        self.weights.x.scatter_forward()


def _copied(given: Control, moved: MovedCells) -> tuple[Control, Any]:
    """What stands for a Function or Constant on moved cells, and the matrix between them."""
    if isinstance(given, fem.Constant):
        return fem.Constant(moved.mesh, given.value.copy()), None
    W, matrix = moved.space(given.function_space)
    return fem.Function(W), matrix


def _sum_at(domain: mesh.Mesh, nodes: Array, expr: Expr) -> tuple[fem.Function, ufl.Form]:
    """Weights w at the same points of the reference in each cell, and Σ w · expr over all of them."""
    ones = np.ones(len(nodes))
    shape = tuple(expr.ufl_shape)
    element = basix.ufl.quadrature_element(domain.basix_cell(), shape, points=nodes, weights=ones)
    w = fem.Function(fem.functionspace(domain, element), name="weights")
    # UFL writes arrays into its signature by a few of their digits; tuples by all of them.
    points, weights = tuple(tuple(map(float, node)) for node in nodes), tuple(map(float, ones))
    rule = {"quadrature_rule": "custom", "quadrature_points": points, "quadrature_weights": weights}
    return w, ufl.inner(expr, w) / abs(ufl.JacobianDeterminant(domain)) * ufl.dx(domain, metadata=rule)
