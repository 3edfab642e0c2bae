"""Small problems of every kind that the engine claims to hold for: each a function of a mesh, as users write them."""

from __future__ import annotations

import basix.ufl
import numpy as np
import ufl
from dolfinx import fem
from ufl import dot, ds, dx, exp, grad, inner

from relax import Functional, Observable, PointValues, Problem, Stack, clamp, clamp_boundary, meshes
from relax.base import parallel
from relax.problem.boundary import value_space

# -- nonlinear, and not symmetric --------------------------------------------------------------------------------------


def cubic_reaction(mesh, *, rate=1.0, degree=1):
    """-Lap u + rate u^3 = m in the domain, u = 0 on its boundary (dimensionless)."""
    V = fem.functionspace(mesh, ("Lagrange", degree))
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    m = fem.Function(V, name="source")
    m.x.array[:] = 10.0
    F = (inner(grad(u), grad(v)) + (rate * u**3 - m) * v) * dx
    return Problem(residual=F, state=u, controls=[m], bcs=[clamp_boundary(V)], name="cubic_reaction")


def squared_source(mesh):
    """-Lap u + u = m^2: at m = 0 the derivative is zero."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = (inner(grad(u), grad(v)) + (u - m**2) * v) * dx
    return Problem(residual=F, state=u, controls=[m], bcs=[clamp_boundary(V)], name="squared_source")


def diffusion_p2(mesh):
    """-div(exp(m) grad u) = 1, u and m of degree 2, m from 0 to 3: on a coarse mesh no quadrature is exact."""
    V = fem.functionspace(mesh, ("Lagrange", 2))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    m.interpolate(lambda x: 3.0 * x[0] * x[1])
    F = (exp(m) * dot(grad(u), grad(v)) - v) * dx
    return Problem(residual=F, state=u, controls=[m], bcs=[clamp_boundary(V)], name="diffusion_p2")


def p_laplace(mesh):
    """-div((1/4 + |grad u|^2) grad u) = m in the domain, u = x on its boundary."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = (0.25 + dot(grad(u), grad(u))) * dot(grad(u), grad(v)) * dx - m * v * dx
    return Problem(residual=F, state=u, controls=[m], bcs=[clamp_boundary(V, lambda x: x[0])], name="p_laplace")


def advection_constant(mesh):
    """-Lap u / 5 + b . grad u = k, b the control: an operator that is not symmetric, and a vector of numbers."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    b, k = fem.Constant(mesh, (1.0, -0.5)), fem.Constant(mesh, 2.0)
    F = (0.2 * dot(grad(u), grad(v)) + dot(b, grad(u)) * v - k * v) * dx
    return Problem(residual=F, state=u, controls=[b], bcs=[clamp_boundary(V)], name="advection_constant")


def advection_field(mesh):
    """-Lap u / 5 + b . grad u + u^2 = 1, b a vector field: not symmetric, not linear."""
    V, B = fem.functionspace(mesh, ("Lagrange", 1)), fem.functionspace(mesh, ("Lagrange", 1, (2,)))
    u, v, b = fem.Function(V), ufl.TestFunction(V), fem.Function(B)
    b.interpolate(lambda x: np.stack([1.0 + x[1], -x[0]]))
    F = (0.2 * dot(grad(u), grad(v)) + (dot(b, grad(u)) + u**2 - 1.0) * v) * dx
    return Problem(residual=F, state=u, controls=[b], bcs=[clamp_boundary(V)], name="advection_field")


# -- numbers -----------------------------------------------------------------------------------------------------------


def reaction_constant(mesh):
    """-Lap u + exp(c) u = f, c a number, f a parameter."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, f, c = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(mesh, 1.0)
    f.interpolate(lambda x: 1.0 + x[0])
    F = (dot(grad(u), grad(v)) + exp(c) * u * v - f * v) * dx
    return Problem(residual=F, state=u, controls=[c], bcs=[clamp(V, "left")], name="reaction_constant")


def reaction(mesh, M):
    """-Lap u + exp(m) u = 1 on Lagrange elements of degree 2, m in the space M."""
    V = fem.functionspace(mesh, ("Lagrange", 2))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(M)
    F = (dot(grad(u), grad(v)) + exp(m) * u * v - v) * dx
    return Problem(residual=F, state=u, controls=[m], bcs=[clamp_boundary(V)], name="reaction")


def cube(mesh):
    """u = c^3, no derivatives and no boundary: what each entry of a gradient must be is known."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, 1.0)
    return Problem(residual=(u - c**3) * v * dx, state=u, controls=[c], name="cube")


def number_and_fields(mesh):
    """-div(exp(m) grad u) + c u = f: two fields and a number at once, one of them a source."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m, f, c = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Function(V), fem.Constant(mesh, 2.0)
    f.x.array[:] = 1.0
    F = (exp(m) * dot(grad(u), grad(v)) + c * u * v - f * v) * dx
    return Problem(residual=F, state=u, controls=[m, c, f], bcs=[clamp(V, "left")], name="number_and_fields")


# -- boundary data -----------------------------------------------------------------------------------------------------


def dirichlet_field(mesh):
    """-Lap u = 1, u = g on two sides, g the control: affine."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, g = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = (dot(grad(u), grad(v)) - v) * dx
    return Problem(residual=F, state=u, controls=[g], bcs=[clamp(V, ["left", "top"], g)], name="dirichlet_field")


def dirichlet_constant(mesh):
    """-div((1 + u^2) grad u) + u_x = 1, u = c on one side and 0 on another: not linear, not symmetric."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, 0.5)
    F = ((1.0 + u**2) * dot(grad(u), grad(v)) + (u.dx(0) - 1.0) * v) * dx
    return Problem(
        residual=F, state=u, controls=[c], bcs=[clamp(V, "left", c), clamp(V, "right")], name="dirichlet_constant"
    )


def dirichlet_and_field(mesh):
    """-div(exp(m) (1 + u^2) grad u) = m, u = g on two sides: boundary data beside a field, not linear."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, m, g = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Function(V)
    F = (exp(m) * (1.0 + u**2) * dot(grad(u), grad(v)) - m * v) * dx
    bcs = [clamp(V, ["left", "right"], g), clamp(V, "top")]
    return Problem(residual=F, state=u, controls=[m, g], bcs=bcs, name="dirichlet_and_field")


def dirichlet_in_the_form_too(mesh):
    """-Lap u + g u = 1, u = g on one side: one control, in the residual and on the boundary."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, g = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    g.x.array[:] = 1.0
    F = (dot(grad(u), grad(v)) + g * u * v - v) * dx
    return Problem(residual=F, state=u, controls=[g], bcs=[clamp(V, "left", g)], name="dirichlet_twice")


def neumann(mesh):
    """-Lap u + u = 0, du/dn = sinh(q) on two sides and k on another, u = 0 on the fourth."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, q, k = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(mesh, 0.3)
    F = (dot(grad(u), grad(v)) + u * v) * dx
    F -= ufl.sinh(q) * v * meshes.ds(mesh, ["right", "top"]) + k * v * meshes.ds(mesh, "bottom")
    return Problem(residual=F, state=u, controls=[q], bcs=[clamp(V, "left")], name="neumann")


# -- vector and mixed states -------------------------------------------------------------------------------------------


def elasticity(mesh):
    """-div(exp(m) (eps(u) + div(u) I)) = f, u = 0 on one side; m the logarithm of Young's modulus."""
    d = mesh.geometry.dim
    V = fem.functionspace(mesh, ("Lagrange", 1, (d,)))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(fem.functionspace(mesh, ("Lagrange", 1)))
    f = fem.Constant(mesh, np.linspace(-0.2, 0.3, d))
    stress = exp(m) * (ufl.sym(grad(u)) + ufl.div(u) * ufl.Identity(d))
    F = (inner(stress, ufl.sym(grad(v))) - dot(f, v)) * dx
    return Problem(residual=F, state=u, controls=[m], bcs=[clamp(V, "left")], name="elasticity")


def moduli(mesh):
    """-div(exp(m) sigma(u)) = f in SI units; controls are Young's modulus, Poisson's ratio and m."""
    d = mesh.geometry.dim
    V = fem.functionspace(mesh, ("Lagrange", 1, (d,)))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(fem.functionspace(mesh, ("Lagrange", 1)))
    E, nu = fem.Constant(mesh, 210e9), fem.Constant(mesh, 0.3)
    strain = ufl.sym(grad(u))
    shear = exp(m) * E / (2.0 * (1.0 + nu))
    stress = 2.0 * shear * (strain + nu / (1.0 - 2.0 * nu) * ufl.tr(strain) * ufl.Identity(d))
    F = (inner(stress, ufl.sym(grad(v))) - 1e9 * dot(fem.Constant(mesh, np.linspace(-0.2, 0.3, d)), v)) * dx
    return Problem(residual=F, state=u, controls=[E, nu, m], bcs=[clamp(V, "left")], name="moduli")


def stokes(mesh):
    """-div(exp(m) grad u) + grad p = 0, div u = 0 by Taylor-Hood; inflow g on the left, open on the right."""
    cell = mesh.basix_cell()
    P2, P1 = basix.ufl.element("Lagrange", cell, 2, shape=(2,)), basix.ufl.element("Lagrange", cell, 1)
    W = fem.functionspace(mesh, basix.ufl.mixed_element([P2, P1]))
    w, t = fem.Function(W), ufl.TestFunctions(W)
    u, p = ufl.split(w)
    m = fem.Function(fem.functionspace(mesh, ("Lagrange", 1)))
    g = fem.Function(value_space(W.sub(0)))
    g.interpolate(lambda x: np.stack([4.0 * x[1] * (1.0 - x[1]), 0.0 * x[0]]))
    F = (exp(m) * inner(grad(u), grad(t[0])) - p * ufl.div(t[0]) - ufl.div(u) * t[1]) * dx
    bcs = [clamp(W.sub(0), "left", g), clamp(W.sub(0), ["bottom", "top"])]
    return Problem(residual=F, state=w, controls=[m, g], bcs=bcs, name="stokes")


# -- observations ------------------------------------------------------------------------------------------------------

POINTS = [(0.31, 0.42), (0.5, 0.5), (0.77, 0.18)]


def field(problem):
    """The whole state at three points."""
    V = problem.state.function_space
    return PointValues(V, [(*p, 0.3)[: V.mesh.geometry.dim] for p in POINTS])


def mean(problem):
    """The integral of the state over the domain."""
    return Functional(problem.state * dx)


def curved(problem):
    """A quartic over the domain, a boundary term, and point values."""
    u = problem.state
    return Stack([Functional((u**4 + ufl.sin(u)) * dx), field(problem), Functional((u - 0.2) ** 2 * ds)])


def velocity_and_pressure(problem):
    """Two fields of a mixed state, and the drag."""
    W = problem.state.function_space
    u, _ = ufl.split(problem.state)
    return Stack(
        [PointValues(W.sub(0), POINTS), PointValues(W.sub(1), POINTS[:1]), Functional(inner(grad(u), grad(u)) * dx)]
    )


class SumOfQuartics(Observable):
    """y = sum of u_i^4 over the entries of the state, as a user might write it: without a second derivative."""

    size = 1

    def __init__(self, problem):
        V = problem.state.function_space
        self._comm = V.mesh.comm
        self._n = V.dofmap.index_map.size_local * V.dofmap.index_map_bs

    def value(self, u):
        return np.array([parallel.dot(self._comm, u.x.array[: self._n] ** 2, u.x.array[: self._n] ** 2)])

    def tangent(self, u, du):
        return np.array([parallel.dot(self._comm, 4.0 * u.x.array[: self._n] ** 3, du.x.array[: self._n])])

    def adjoint(self, u, dy):
        return 4.0 * dy[0] * u.x.array[: self._n] ** 3
