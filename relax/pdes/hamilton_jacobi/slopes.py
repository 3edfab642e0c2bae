"""How steep a function on a mesh is, and what that means for the mesh at a given beta."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from ufl.core.expr import Expr

from relax import _compat, parallel
from relax.coefficients import Coefficient, interpolated

#: The cell Péclet number above which a Galerkin method may overshoot.
OVERSHOOTS = 2.0


def largest_slope(u: Expr, V: fem.FunctionSpace) -> float:
    """The largest |grad u| in the points of a space of cells, one degree below that of V.

    Collective.

    Args:
        u: a scalar Function or expression.
        V: a space on its mesh.
    """
    return largest_size(ufl.grad(u), V)


def largest_size(vector: Expr, V: fem.FunctionSpace) -> float:
    """The largest length of a vector field, in the points of cells of one degree below that of V. Collective."""
    W = fem.functionspace(V.mesh, ("DG", max(V.ufl_element().degree - 1, 0)))
    found = fem.Function(W)
    found.interpolate(fem.Expression(ufl.sqrt(ufl.inner(vector, vector)), _compat.interpolation_points(W)))
    return parallel.largest(V.mesh.comm, float(np.max(found.x.array, initial=0.0)))


def value_range(u: fem.Function) -> tuple[float, float]:
    """The least and the largest nodal value. Collective."""
    values = u.x.array
    ends = np.array([np.min(values, initial=np.inf), np.min(-values, initial=np.inf)])
    least, minus_largest = parallel.smallest(u.function_space.mesh.comm, ends)
    return float(least), -float(minus_largest)


def largest_cell(V: fem.FunctionSpace) -> float:
    """The largest diameter of a cell over the degree of V. Collective."""
    mesh = V.mesh
    tdim = mesh.topology.dim
    cells = np.arange(mesh.topology.index_map(tdim).size_local, dtype=np.int32)
    diameter = parallel.largest(mesh.comm, float(np.max(mesh.h(tdim, cells), initial=0.0)))
    return diameter / max(V.ufl_element().degree, 1)


def easy_beta(beta: float, speed: float, V: fem.FunctionSpace) -> float:
    """Where continuation begins: the Péclet number of the whole domain, not of a cell, is at most 10.

    Collective. In a long step, or without time, what is known at one end has to find its way to the other.
    """
    x = V.mesh.geometry.x
    ends = np.concatenate([np.min(x, axis=0, initial=np.inf), np.min(-x, axis=0, initial=np.inf)])
    lower, minus_upper = np.split(parallel.smallest(V.mesh.comm, ends), 2)
    return min(beta, 10.0 / max(speed * float(np.max(-minus_upper - lower)), 1e-300))


def cell_peclet(f: Coefficient, V: fem.FunctionSpace, *, beta: float) -> float:
    """The cell Péclet number h beta |grad f|: the largest slope by the largest cell, its diameter over the degree of V.

    Collective. Above 2 the plain Galerkin equations overshoot; Cole–Hopf is accurate below about 0.4.

    Args:
        f: a function as :func:`viscous_evolution` takes it.
        V: the space it is looked at in.
        beta: the inverse temperature, above 0.
    """
    return largest_cell(V) * beta * largest_slope(interpolated(f, V), V)
