"""Dirichlet conditions by tag, as plain ``dolfinx.fem.DirichletBC`` objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, mesh
from ufl.core.expr import Expr
from ufl.corealg.traversal import unique_pre_traversal

from relax import meshes
from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem import compat
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import cell_dofs, terminals_of
from relax.base.fem.submeshes import outer_facets
from relax.base.types import Array, Indices
from relax.errors import BadInput, BadProblem
from relax.meshes import Tag

Marker: TypeAlias = Callable[[npt.NDArray[np.float64]], Any]


def clamp(V: fem.FunctionSpace, tags: Tag | Sequence[Tag] | Marker, value: Coefficient = 0.0) -> fem.DirichletBC:
    """Hold u = value on tagged facets.

    Collective.

    Args:
        V: the state's space, or a part of it: ``W.sub(0)`` of a mixed space, ``V.sub(1)`` of a vector.
        tags: a name, a number or a sequence of them (facets in the interior may be tagged too); or a function of x that
            is true at the vertices of the boundary facets that are meant.
        value: a number, a sequence of numbers, a function of x, or a UFL expression of the coordinates; or what stays
            live, and may be a control: a ``fem.Function`` in :func:`value_space`, a ``fem.Constant``, or a UFL
            expression of Functions and Constants, the time among them, of which the condition takes the values at
            its nodes. A ``ReducedMap`` follows it; whoever solves with DOLFINx alone calls ``refresh()`` of the
            condition before.

    Raises:
        BadInput: when the mesh has no such tag, the function marks no facet, or the value is not finite there.
        BadProblem: when the value is a Function of another space, a Constant of another shape, or an expression that
            cannot be followed at nodes: with derivatives, normals, or Functions that jump between cells in it, or on a
            space whose values are no values at nodes.
    """
    of_kind(V, fem.FunctionSpace, "the space of a state, or a part of it", "clamp: V")
    domain = V.mesh
    if not callable(tags):
        return _clamp(V, meshes.facets(domain, tags), value)
    facets = outer_facets(domain)
    with parallel.together(domain.comm):
        marked = mesh.locate_entities_boundary(domain, domain.topology.dim - 1, lambda x: _marked(tags, x))
        facets = np.intersect1d(facets, marked)
    if not parallel.any_rank(domain.comm, facets.size > 0):
        raise BadInput(
            "clamp: the function marks no facet of the boundary: all vertices of a facet must lie in it; "
            "compare coordinates with np.isclose, not =="
        )
    return _clamp(V, facets, value)


def clamp_boundary(V: fem.FunctionSpace, value: Coefficient = 0.0) -> fem.DirichletBC:
    """Hold u = value on the whole boundary; arguments and errors as :func:`clamp`. Collective."""
    of_kind(V, fem.FunctionSpace, "the space of a state, or a part of it", "clamp: V")
    return _clamp(V, outer_facets(V.mesh), value)


def _marked(marker: Marker, x: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points a user's function marks.

    Raises:
        BadInput: when it fails, or gives no truth for each point.
    """
    try:
        marks = np.asarray(marker(x))
    except Exception as cause:
        raise BadInput(f"clamp: the function failed: {type(cause).__name__}: {cause}; x has shape {x.shape}") from cause
    if marks.dtype != np.bool_ or marks.shape != (x.shape[1],):
        raise BadInput(
            f"clamp: expected a function that gives True or False for each of the points, shape ({x.shape[1]},), got "
            f"{marks.dtype} of shape {marks.shape}"
        )
    return marks


def value_space(V: fem.FunctionSpace) -> fem.FunctionSpace:
    """The space in which a Function that is the boundary value on ``V`` lives: V, or a part of a space collapsed.

    Collective.
    """
    return V.collapse()[0] if _is_part(V) else V


def _is_part(V: fem.FunctionSpace) -> bool:
    return len(V.component()) > 0


def _clamp(V: fem.FunctionSpace, facets: npt.NDArray[np.int32], value: Coefficient) -> fem.DirichletBC:
    """Hold u = value on these facets. Collective."""
    dim = V.mesh.topology.dim - 1
    dofs = fem.locate_dofs_topological(V, dim, facets)
    if not parallel.any_rank(V.mesh.comm, dofs.size > 0):
        raise BadInput(f"clamp: {V.ufl_element()} has no degrees of freedom on facets, so nothing would be clamped")
    if isinstance(value, fem.Constant):
        try:
            return fem.dirichletbc(value, dofs, V)
        except RuntimeError as cause:
            raise BadProblem(
                f"clamp: a Constant of shape {value.ufl_shape} does not fit this space ({cause}); "
                "use a Function in relax.problem.value_space(V)"
            ) from cause
    if isinstance(value, fem.Function):
        _check_space(V, value)
        return _condition(V, dim, facets, value)[0]
    g = interpolated(value, value_space(V))
    condition, dofs = _condition(V, dim, facets, g)
    there = g.x.array[dofs]
    if parallel.any_rank(V.mesh.comm, not np.isfinite(there).all()):
        raise BadInput("clamp: the value is NaN or infinite somewhere on the clamped facets; expected finite values")
    if isinstance(value, Expr) and terminals_of(value):
        _check_followed(value, g.function_space)
        return ExpressionCondition(condition, g, value, cells_with(g.function_space, dofs))
    return condition


def cells_with(V: fem.FunctionSpace, dofs: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """This rank's cells, ghosts included, that have one of these local values. Local."""
    return np.flatnonzero(np.isin(cell_dofs(V, slice(None)), dofs).any(axis=1)).astype(np.int32)


def entries_taken(bc: fem.DirichletBC, values: Array, num_local: int) -> Indices:
    """For each local value of a state, which of the numbers a condition takes for it, 0 for none. Local.

    DOLFINx tells this for no kind of condition (a field, a subspace, a constant) but applies it for all: the condition
    copies numbers of entries.

    Args:
        bc: the condition.
        values: the live values of its Function or Constant.
        num_local: how many values the state has, ghosts included.
    """
    kept, numbered = values.copy(), np.zeros(num_local)
    values[...] = np.arange(values.size, dtype=np.float64).reshape(values.shape)
    bc.set(numbered)
    values[...] = kept
    return np.rint(numbered).astype(np.int64)


class ExpressionCondition(fem.DirichletBC):
    """u = g for a g that follows a UFL expression of Functions and Constants.

    Args:
        condition: u = g.
        values: g, whose values at nodes are those of the expression.
        expression: the expression.
        cells: this rank's cells, ghosts included, that have one of the clamped nodes.
    """

    def __init__(
        self, condition: fem.DirichletBC, values: fem.Function, expression: Expr, cells: npt.NDArray[np.int32]
    ) -> None:
        super().__init__(condition._cpp_object)
        self.values = values
        self.expression = expression
        self.cells = cells
        self._compiled: fem.Expression | None = None

    def refresh(self) -> None:
        """Write the expression's present values into g. Local; collective the first time, when it is compiled."""
        if self._compiled is None:
            V = self.values.function_space
            self._compiled = fem.Expression(self.expression, compat.interpolation_points(V), comm=V.mesh.comm)
        self.values.interpolate(self._compiled, self.cells, self.cells)


def _check_followed(value: Expr, Q: fem.FunctionSpace) -> None:
    """Refuse an expression that has no one value, or no derivative, at the nodes of Q.

    Raises:
        BadProblem: naming what stands in the way.
    """
    element = Q.ufl_element()
    if element not in ufl.H1 or element.family_name != "P" or Q.dofmap.bs != element.reference_value_size:
        raise BadProblem(
            f"clamp: an expression with Functions or Constants in it is followed at nodes, got {element}; "
            "expected Lagrange elements without symmetry, or a Function in relax.problem.value_space(V) as the value"
        )
    for node in unique_pre_traversal(value):
        if isinstance(node, ufl.classes.Derivative):
            what = "a derivative"
        elif isinstance(node, ufl.classes.GeometricQuantity) and not isinstance(node, ufl.SpatialCoordinate):
            what = f"{type(node).__name__}"
        elif isinstance(node, fem.Function) and node.ufl_element() not in ufl.H1:
            what = f"the Function {node.name!r} of {node.ufl_element()}"
        else:
            continue
        raise BadProblem(
            f"clamp: the value has {what} in it, which differs between the cells that meet at a node; expected "
            "coordinates, Constants and continuous Functions. A condition in the weak form, such as Nitsche's, takes it"
        )


def _condition(
    V: fem.FunctionSpace, dim: int, facets: npt.NDArray[np.int32], g: fem.Function
) -> tuple[fem.DirichletBC, npt.NDArray[np.int32]]:
    """The condition u = g, and the values of g that it takes: local indices, component by component. Collective."""
    Q = g.function_space
    if _is_part(V):
        dofs = fem.locate_dofs_topological((V, Q), dim, facets)
        # These are numbered one by one, those of a whole space by block.
        return fem.dirichletbc(g, dofs, V), dofs[1]
    dofs = fem.locate_dofs_topological(V, dim, facets)
    block = np.arange(Q.dofmap.bs, dtype=np.int32)
    return fem.dirichletbc(g, dofs), (dofs[:, None] * len(block) + block).ravel()


def homogeneous(bc: fem.DirichletBC, V: fem.FunctionSpace) -> fem.DirichletBC:
    """The condition u = 0 where ``bc`` holds values of V, or of a part of it. Collective."""
    part, dofs = V, bc.dof_indices()[0]
    for i in bc.function_space.component():
        part = part.sub(int(i))
    if part is V:
        return fem.dirichletbc(fem.Function(V), np.unique(dofs // V.dofmap.bs).astype(np.int32))
    zero = fem.Function(value_space(part))
    return fem.dirichletbc(zero, [dofs, np.zeros_like(dofs)], part)


def _check_space(V: fem.FunctionSpace, value: fem.Function) -> None:
    given = value.function_space
    if _is_part(V):
        fits = given.mesh is V.mesh and not _is_part(given) and given.ufl_element() == value_space(V).ufl_element()
    else:
        fits = given == V
    if not fits:
        raise BadProblem(
            f"clamp: the value is a Function in {given.ufl_element()}, which is not the space that is clamped; "
            "make it with fem.Function(relax.problem.value_space(V))"
        )
