"""Dirichlet conditions by tag, as plain ``dolfinx.fem.DirichletBC`` objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem, mesh

from relax import meshes
from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.coefficients import Coefficient, interpolated
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
        value: a number, a sequence of numbers, a function of x, or a UFL expression of the coordinates alone; or a
            ``fem.Function`` in :func:`value_space` or a ``fem.Constant``, which stay live and may be a control.

    Raises:
        BadInput: when the mesh has no such tag, the function marks no facet, or the value is not finite there.
        BadProblem: when the value is a Function of another space, a Constant of another shape, or an expression with a
            Function or a Constant in it, whose later values a condition does not follow.
    """
    of_kind(V, fem.FunctionSpace, "the space of a state, or a part of it", "clamp: V")
    domain = V.mesh
    if not callable(tags):
        return _clamp(V, meshes.facets(domain, tags), value)
    domain.topology.create_connectivity(domain.topology.dim - 1, domain.topology.dim)
    facets = np.empty(0, dtype=np.int32)
    with parallel.together(domain.comm):
        facets = mesh.locate_entities_boundary(domain, domain.topology.dim - 1, lambda x: _marked(tags, x))
    if not parallel.any_rank(domain.comm, facets.size > 0):
        raise BadInput(
            "clamp: the function marks no facet of the boundary: all vertices of a facet must lie in it; "
            "compare coordinates with np.isclose, not =="
        )
    return _clamp(V, facets, value)


def clamp_boundary(V: fem.FunctionSpace, value: Coefficient = 0.0) -> fem.DirichletBC:
    """Hold u = value on the whole boundary; arguments and errors as :func:`clamp`. Collective."""
    of_kind(V, fem.FunctionSpace, "the space of a state, or a part of it", "clamp: V")
    topology = V.mesh.topology
    topology.create_connectivity(topology.dim - 1, topology.dim)
    return _clamp(V, mesh.exterior_facet_indices(topology), value)


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
    _check_frozen(value)
    g = interpolated(value, value_space(V))
    condition, there = _condition(V, dim, facets, g)
    if parallel.any_rank(V.mesh.comm, not np.isfinite(there).all()):
        raise BadInput("clamp: the value is NaN or infinite somewhere on the clamped facets; expected finite values")
    return condition


def _check_frozen(value: Coefficient) -> None:
    """Refuse an expression that would keep the value that it has now: its gradient would be zero, without a word."""
    if not isinstance(value, ufl.core.expr.Expr):
        return
    live = [*ufl.algorithms.extract_coefficients(value), *ufl.algorithms.analysis.extract_constants(value)]
    if live:
        raise BadProblem(
            f"clamp: the value is an expression with {len(live)} Function(s) or Constant(s) in it ({live[0]}), whose "
            "later values the condition would not follow. Let the value be the control or the datum itself, a "
            "fem.Constant or a fem.Function in relax.problem.value_space(V); into such a Function an expression can be "
            "interpolated as it is now"
        )


def _condition(
    V: fem.FunctionSpace, dim: int, facets: npt.NDArray[np.int32], g: fem.Function
) -> tuple[fem.DirichletBC, npt.NDArray[np.float64]]:
    """The condition u = g, and the values of g at its degrees of freedom. Collective."""
    Q = g.function_space
    if _is_part(V):
        dofs = fem.locate_dofs_topological((V, Q), dim, facets)
        # These are numbered one by one, those of a whole space by block.
        return fem.dirichletbc(g, dofs, V), g.x.array[dofs[1]]
    dofs = fem.locate_dofs_topological(V, dim, facets)
    return fem.dirichletbc(g, dofs), g.x.array.reshape(-1, Q.dofmap.bs)[dofs]


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
