"""The equation found as an evolution, its coefficients as controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import ufl
from dolfinx import default_scalar_type, fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import terminals_of
from relax.base.fem.unknown import Unknown
from relax.base.types import Array
from relax.discovery.library import Library, derivatives_of
from relax.errors import BadProblem
from relax.pdes.shared.boundary_data import BoundaryData, conditions
from relax.problem.evolution import Evolution
from relax.problem.problem import Problem
from relax.problem.theta import averaged


def evolution_of(
    library: Library,
    numbers: Sequence[int],
    coefficients: Array,
    leading: int,
    mesh: Mesh,
    *,
    initial: Coefficient,
    dt: float,
    num_steps: int,
    start: float,
    dirichlet: BoundaryData,
    time: fem.Constant | None,
    theta: float,
) -> Evolution:
    """Steps of the sum of c_k term_k = 0. Collective. See :meth:`Found.evolution`."""
    order = library.orders[numbers[leading]]
    if order == 0:
        raise BadProblem("evolution: the equation found holds no derivative in time, so nothing evolves")
    names = [library.names[k] for k in numbers]
    for k, name in zip(numbers, names, strict=True):
        for part in library.parts[k].values():
            if any(t is time for t in terminals_of(part)):
                raise BadProblem(
                    f"evolution: the term {name!r} holds the Constant that is to stand for the time, which the search "
                    "took for the number that it held; search without such terms"
                )
            if derivatives_of(part, library.v) > 1:
                raise BadProblem(
                    f"evolution: the term {name!r} takes two derivatives of the test function, which has one in "
                    "Lagrange elements; write it with one, as in -inner(grad(u), grad(v)), and search anew"
                )
    V = _space(library, mesh, order)
    state, previous = fem.Function(V, name="u"), fem.Function(V, name="previous")
    test = ufl.TestFunction(V)
    u, before, v = _fields(state, order), _fields(previous, order), _fields(test, order)
    c = fem.Constant(mesh, np.delete(coefficients, leading).astype(default_scalar_type))
    k = fem.Constant(mesh, default_scalar_type(dt))
    dx = ufl.dx(domain=mesh)
    change: list[ufl.Form] = []
    rest: list[ufl.Form] = []
    for i, number in enumerate(numbers):
        factor = 1.0 if i == leading else c[i - (i > leading)]
        for s, part in library.parts[number].items():
            # u_tt is the change of u_t, which stands for itself wherever else it does.
            field = u[-1] - before[-1] if s == order else u[s]
            (change if s == order else rest).append(factor * _on(part, library, field, v[-1], mesh) * dx)
    if order == 2:
        change.append(ufl.inner(u[0] - before[0], v[0]) * dx)
        rest.append(-ufl.inner(u[1], v[0]) * dx)
    form = sum(change[1:], change[0])
    if rest:
        form += k * averaged(sum(rest[1:], rest[0]), state, previous, theta, time, k)
    u_0 = initial if isinstance(initial, fem.Function) and initial.function_space == V else interpolated(initial, V)
    u_0.name = "initial"
    held = [c] if len(numbers) > 1 else [previous]
    step = Problem(
        residual=form, state=state, controls=held, bcs=conditions("evolution", V, dirichlet, may_float=True),
        name="discovery",
    )  # fmt: skip
    return Evolution(
        step=step, previous=previous, initial=u_0, num_steps=num_steps, time=time, dt=k, start=start
    )  # fmt: skip


def _space(library: Library, mesh: Mesh, order: int) -> fem.FunctionSpace:
    """That of u, or of (u, u_t) side by side."""
    V = library.space
    if order == 1:
        return V if mesh is V.mesh else fem.functionspace(mesh, V.ufl_element())
    if V.value_shape:
        raise BadProblem("evolution: expected a scalar u of an equation with u_tt; search for a first-order system")
    element = V.ufl_element()
    return fem.functionspace(mesh, (element.family_name, element.degree, (2,)))


def _fields(state: Expr, order: int) -> tuple[Expr, ...]:
    return (state,) if order == 1 else (state[0], state[1])


def _on(part: Expr, library: Library, field: Expr, v: Expr, mesh: Mesh) -> Expr:
    """A term, of another field and test function, on the mesh that these are on."""
    if v.ufl_shape != library.v.ufl_shape:
        raise BadProblem(
            f"evolution: expected a test function of the shape of u, {v.ufl_shape}, got {library.v.ufl_shape}: an "
            "equation for one component of several is not one that evolves by itself"
        )
    others: Mapping[Expr, Expr] = {}
    if mesh is not library.mesh:
        if strange := [t for t in terminals_of(part) if not isinstance(t, Unknown)]:
            raise BadProblem(f"evolution: a term holds {strange[0]}, which lives on the mesh of the data alone")
        others = {ufl.SpatialCoordinate(library.mesh): ufl.SpatialCoordinate(mesh)}
    return ufl.replace(part, {library.u: field, library.v: v, **others})
