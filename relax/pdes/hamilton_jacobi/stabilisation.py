"""How steep a function is for a mesh, and a viscosity by which the equations keep extremes and slopes from growing."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh
from ufl.core.expr import Expr

from relax.base import parallel
from relax.base.fem import compat
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.pdes.shared.sizes import bounding_box, cell_diameters

#: The cell Péclet number above which a Galerkin method may overshoot.
OVERSHOOTS = 2.0
#: The largest diameter of a cell over the least one, up to which the cells of a mesh are taken for those of one size.
ONE_SIZE = 2.0
# By the dimension of cells: c and m of the upwind viscosity.
_UPWIND = {1: (0.25, 2), 2: (0.45, 6), 3: (0.6, 6)}


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
    """(a - nu) (D grad u, grad v), a = (nu^m + (c h |grad u|)^m)^(1/m): the viscosity that a cell lacks, and no more.

    Collective. a is smooth, and at least the larger one of nu and c h |grad u|. What is added falls like
    nu (c h |grad u| / nu)^m / m where the mesh resolves the equation, and is of first order in h elsewhere. With
    H(p) = ½ |p|² + b · p and a lumped mass matrix, the derivative of the equation of a vertex i in the value at another
    vertex j of a cell with the gradient p is |K| times

        (p + b) · grad phi_j / (d + 1) + grad phi_i · (nu + (a - nu) D) grad phi_j
            + (da/d|p|) (grad phi_i · D p) (p · grad phi_j) / |p|,

    and a step of the implicit Euler method is monotone when none of these is above 0. On intervals that is so with
    m = 2 and c = ¼, for any nu and any length of step; without nu it is the scheme of Engquist and Osher. On triangles
    and tetrahedra it cannot be for all p, nor where nu is felt and angles are right or obtuse. There m = 6, for which
    twice as fine a mesh adds 1/64, and c is one for which steps were found to have weights above -1e-8 of the
    largest on rugged functions: in the plane 0.45 (with 0.4 some are -1e-5 on unstructured meshes), on lattices in
    space 0.6 (with 0.5 some are -4e-4). Unstructured tetrahedra have some of -5e-2 with 0.6, and of -4e-2 with 1.

    D weighs directions. By the identity matrix two vertices that look at each other from a right angle share nothing,
    and lattices of triangles have weights of -1e-3. The sum of e eᵀ over the edges e of a cell gives each pair of
    vertices the same; D is the mean of both, of the trace of the identity, and that of equilateral cells.

    h and D are those of the cell. On meshes of cells of one size, the largest diameter at most :data:`ONE_SIZE` times
    the least, they are the largest diameter and the mean of D: then nothing is added where u is linear.

    Args:
        u: the unknown, of degree 1; of a higher degree the viscosity is of the same size over the degree.
        v: the test function.
        nu: the viscosity that is there already.
        drift: b. It varies within a cell: 2/(d + 2) bounds its share at a vertex.
    """
    V = v.ufl_function_space()
    dim, degree = V.mesh.topology.dim, V.ufl_element().degree
    c, m = _UPWIND[dim]
    diameter, D = _cell_shapes(V.mesh)
    h, p = diameter / degree, ufl.grad(u)
    square = (c * h) ** 2 * ufl.inner(p, p)
    if drift is not None:
        # Not below the square of the sum, whose kink it does not have.
        square = 2 * (square + (2 / (dim + 2) * h) ** 2 * ufl.inner(drift, drift))
    # By the ratio to nu: sixth powers of nu itself would vanish.
    lacking = nu * ((1 + (square / nu**2) ** (m // 2)) ** (1 / m) - 1)
    rule = {"quadrature_degree": 3 * degree - (2 if drift is None else 0)}
    return lacking * ufl.inner(ufl.dot(D, p), ufl.grad(v)) * ufl.dx(metadata=rule)


def _cell_shapes(mesh: Mesh) -> tuple[fem.Function, fem.Function]:
    """The diameters of the cells, and the matrices D of :func:`upwind_viscosity`. Collective."""
    gdim, dim = mesh.geometry.dim, mesh.topology.dim
    diameter = fem.Function(fem.functionspace(mesh, ("DG", 0)), name="cell_diameter")
    cells = mesh.topology.index_map(dim)
    everywhere = np.arange(cells.size_local + cells.num_ghosts, dtype=np.int32)
    diameter.x.array[diameter.function_space.dofmap.list[everywhere, 0]] = mesh.h(dim, everywhere)
    W = fem.functionspace(mesh, ("DG", 0, (gdim, gdim)))
    D = fem.Function(W, name="cell_shape")
    J = ufl.Jacobian(mesh)
    is_simplex = mesh.topology.cell_name() in ("interval", "triangle", "tetrahedron")
    edges = (dim + 1) * np.eye(dim) - 1.0 if is_simplex else np.eye(dim)
    squares = ufl.dot(J, ufl.dot(ufl.as_matrix(edges.tolist()), ufl.transpose(J)))
    even = (ufl.Identity(gdim) + dim * squares / ufl.tr(squares)) / 2
    D.interpolate(fem.Expression(even, compat.interpolation_points(W)))
    least, largest = parallel.extremes(mesh.comm, diameter.x.array)
    if largest <= ONE_SIZE * least:
        diameter.x.array[:] = largest
        matrices = D.x.array.reshape(-1, gdim * gdim)
        total = parallel.sum_over_ranks(mesh.comm, matrices[: cells.size_local].sum(axis=0))
        matrices[:] = total / cells.size_global
    return diameter, D
