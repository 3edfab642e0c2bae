"""How steep a function is for a mesh, and a viscosity by which the equations keep extremes and slopes from growing."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import default_scalar_type, fem
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.pdes.shared.sizes import bounding_box, cell_diameters

#: The cell Péclet number above which a Galerkin method may overshoot.
OVERSHOOTS = 2.0
# A slope, over nu / h, that is as good as none.
_FLAT = 0.1


def largest_slope(u: Expr, V: fem.FunctionSpace) -> float:
    """The largest |grad u|, as :func:`largest_size` takes it. Collective."""
    return largest_size(ufl.grad(u), V)


def largest_size(vector: Expr, V: fem.FunctionSpace) -> float:
    """The largest length of a vector, in the points of a space of cells one degree below that of V. Collective."""
    W = fem.functionspace(V.mesh, ("DG", max(V.ufl_element().degree - 1, 0)))
    size = fem.Function(W)
    size.interpolate(fem.Expression(ufl.sqrt(ufl.inner(vector, vector)), compat.interpolation_points(W)))
    return parallel.largest(V.mesh.comm, float(np.max(size.x.array, initial=0.0)))


def value_range(u: fem.Function) -> tuple[float, float]:
    """The least and the largest nodal value. Collective."""
    least, largest = parallel.extremes(u.function_space.mesh.comm, u.x.array)
    return float(least), float(largest)


def largest_cell(V: fem.FunctionSpace) -> float:
    """The largest diameter of a cell over the degree of V. Collective."""
    diameter = parallel.largest(V.mesh.comm, float(np.max(cell_diameters(V.mesh), initial=0.0)))
    return diameter / max(V.ufl_element().degree, 1)


def easy_beta(beta: float, speed: float, V: fem.FunctionSpace) -> float:
    """Where continuation begins: the Péclet number of the whole domain, not of a cell, is at most 10.

    Collective. In a long step, or without time, what is known at one end has to find its way to the other.
    """
    low, high = bounding_box(V.mesh)
    return min(beta, 10.0 / max(speed * float(np.max(high - low)), 1e-300))


def cell_peclet(f: Coefficient, V: fem.FunctionSpace, *, beta: float) -> float:
    """The cell Péclet number h beta |grad f|: the largest slope by the largest cell, its diameter over the degree of V.

    Collective. Above 2 the plain Galerkin equations overshoot; Cole–Hopf is accurate below about 0.4.

    Args:
        f: a function as :func:`viscous_evolution` takes it.
        V: the space it is looked at in.
        beta: the inverse temperature, above 0.
    """
    return largest_cell(V) * beta * largest_slope(interpolated(f, V), V)


def upwind_viscosity(u: Expr, v: ufl.Argument, nu: Expr, drift: Expr | None = None) -> ufl.Form:
    """(c h |grad u| + c_b h |b|) (grad u, grad v), with h the largest cell of the mesh.

    Collective. Of first order in h, and nothing where u is linear, on any mesh: h must not change from cell to cell for
    that. With H(p) = ½ |p|² + b · p, the viscosity nu and a lumped mass matrix, the derivative of the equation of a
    vertex i in the value at another vertex j of a cell with the gradient p is |K| times

        (p + b) · grad phi_j / (d + 1) + (nu + c h |p| + c_b h |b|) grad phi_i · grad phi_j
            + c h (p · grad phi_i) (p · grad phi_j) / |p|,

    and a step of the implicit Euler method is monotone when none of these is above 0. On intervals that is so with
    c = ¼, for any nu and any length of step; where they are of one size it is the scheme of Engquist and Osher. On
    triangles and tetrahedra it cannot be for right and obtuse angles; c = 1 leaves a cell Péclet number of ½, and no
    growth of extremes or slopes has been seen. b varies within a cell: 2/(d + 2) bounds its share at a vertex.

    Args:
        u: the unknown, of degree 1; of a higher degree the viscosity is of the same size over the degree.
        v: the test function.
        nu: the viscosity that is there already.
        drift: b.
    """
    V = v.ufl_function_space()
    dim = V.mesh.topology.dim
    h = fem.Constant(V.mesh, default_scalar_type(largest_cell(V)))
    p = ufl.grad(u)
    # Where u is flat the square root would have no second derivative.
    size = (0.25 if dim == 1 else 1.0) * h * ufl.sqrt(ufl.inner(p, p) + (_FLAT * nu / h) ** 2)
    if drift is not None:
        size += 2.0 / (dim + 2) * (1.0 if dim == 1 else 2.0) * h * ufl.sqrt(ufl.inner(drift, drift))
    return size * ufl.inner(p, ufl.grad(v)) * ufl.dx(metadata={"quadrature_degree": 3 * V.ufl_element().degree})
