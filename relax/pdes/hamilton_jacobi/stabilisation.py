"""Viscosity of first order, by which the equations of degree 1 keep extremes and slopes from growing."""

from __future__ import annotations

import ufl
from dolfinx import default_scalar_type, fem
from ufl.core.expr import Expr

from relax.pdes.hamilton_jacobi.slopes import largest_cell

# A slope, over nu / h, that is as good as none.
_FLAT = 0.1


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
