"""Equations in time: ALL between them take every way through the steps, CORNERS what meets there."""

from __future__ import annotations

from dataclasses import replace

import basix.ufl
import numpy as np
import ufl
from dolfinx import default_scalar_type, fem

from relax import Evolution, Problem, Substitution, clamp_boundary, theta_evolution
from relax.problem.boundary import clamp, value_space

ds, dx, dot, grad, inner = ufl.ds, ufl.dx, ufl.dot, ufl.grad, ufl.inner
STEPS = 3


def number(mesh, value):
    return fem.Constant(mesh, default_scalar_type(value))


def parts(mesh, degree=1, shape=()):
    """A space, a state and its test function."""
    V = fem.functionspace(mesh, ("Lagrange", degree, shape) if shape else ("Lagrange", degree))
    return V, fem.Function(V, name="u"), ufl.TestFunction(V)


def bump(x):
    return np.sin(2.0 * x[0] + 0.3) + 0.2 * np.cos(3.0 * x[1])


def heat(mesh, num_steps=STEPS, name="heat_from"):
    """Initial state alone; constant operator."""
    V, u, v = parts(mesh)
    initial = fem.Function(V, name="initial")
    initial.interpolate(bump)
    R = inner(grad(u), grad(v)) * dx
    return theta_evolution(R, u, initial=initial, dt=0.05, num_steps=num_steps, bcs=[clamp_boundary(V)], name=name)


def heat_sources(mesh):
    """A source per step, a shared one with time in its coefficient, a conductivity in the operator."""
    V, u, v = parts(mesh)
    s, shared = fem.Function(V, name="s"), fem.Function(V, name="shared")
    m, t = fem.Function(V, name="m"), number(mesh, 0.0)
    R = (ufl.exp(m) * inner(grad(u), grad(v)) - (s + shared * ufl.sin(1.0 + t)) * v) * dx
    return theta_evolution(
        R, u, initial=bump, dt=0.05, num_steps=STEPS, theta=0.7, controls=[s, m, shared], per_step=[s], time=t,
        start=0.2, name="heat_sources",
    )  # fmt: skip


def heat_source_alone(mesh):
    """A source per step alone: affine, by matrices only."""
    V, u, v = parts(mesh)
    s = fem.Function(V, name="s")
    R = (inner(grad(u), grad(v)) + 0.5 * u * v - s * v) * dx
    return theta_evolution(R, u, initial=0.0, dt=0.1, num_steps=STEPS, theta=1, controls=[s], per_step=[s], name="src")


def heating(mesh):
    """A number per step and a shared one, as sources; the operator stays."""
    V, u, v = parts(mesh)
    p, q = number(mesh, 1.0), fem.Constant(mesh, np.array([0.5, -0.2]))
    x = ufl.SpatialCoordinate(mesh)
    R = (inner(grad(u), grad(v)) - p**2 * x[0] * v - inner(q, grad(v))) * dx
    return theta_evolution(
        R,
        u,
        initial=bump,
        dt=0.1,
        num_steps=STEPS,
        controls=[q, p],
        per_step=[p],
        bcs=[clamp_boundary(V)],
        name="heating",
    )


def burgers(mesh):
    """Nonlinear, initial state and a shared viscosity, a force per step."""
    V, u, v = parts(mesh)
    initial, f, nu = fem.Function(V, name="initial"), fem.Function(V, name="f"), number(mesh, 0.3)
    initial.interpolate(bump)
    R = (u * u.dx(0) * v + nu * inner(grad(u), grad(v)) - f * v) * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.05, num_steps=STEPS, theta="midpoint", controls=[nu, f], per_step=[f],
        bcs=[clamp_boundary(V)], name="burgers_all",
    )  # fmt: skip


def cubic(mesh):
    """Nonlinear reaction whose rate is a number per step."""
    V, u, v = parts(mesh)
    r = number(mesh, 1.0)
    initial = fem.Function(V, name="initial")
    initial.interpolate(bump)
    R = (inner(grad(u), grad(v)) + r * u**3 * v) * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=STEPS, theta=1, controls=[r], per_step=[r], name="cubic"
    )


def semi_implicit(mesh):
    """Linear in the new state, with the old one in the operator."""
    V, u, v = parts(mesh)
    previous, initial = fem.Function(V), fem.Function(V, name="initial")
    initial.interpolate(bump)
    F = ((u - previous) * v + 0.1 * (1.0 + previous**2) * inner(grad(u), grad(v))) * dx
    step = Problem(residual=F, state=u, controls=[previous], name="semi_implicit")
    return Evolution(step=step, previous=previous, initial=initial, num_steps=STEPS)


def bilinear(mesh):
    """Two components, an operator that is affine in numbers per step and shared, with a shared field in it."""
    V, u, v = parts(mesh, shape=(2,))
    previous, W = fem.Function(V), fem.Function(fem.functionspace(mesh, ("Lagrange", 1)), name="W")
    E, g = fem.Constant(mesh, np.array([0.3, -0.4])), number(mesh, 0.5)
    a, d, x = (u + previous) / 2, u - previous, ufl.SpatialCoordinate(mesh)

    def H(i):
        return 0.5 * inner(grad(a[i]), grad(v[i])) + (inner(E, x) + W + g) * a[i] * v[i]

    initial = fem.Function(V, name="initial")
    initial.interpolate(lambda x: np.stack([bump(x), x[0] * x[1]]))
    F = (d[1] * v[0] + d[0] * v[1] + 0.1 * (H(0) - H(1))) * dx
    step = Problem(residual=F, state=u, controls=[E, W, g], bcs=[clamp_boundary(V)], name="bilinear")
    return Evolution(step=step, previous=previous, initial=initial, num_steps=STEPS, per_step=[E])


def boundary(mesh):
    """Boundary values as controls: a field that all steps share, a number per step."""
    V, u, v = parts(mesh)
    g, b = fem.Function(V, name="g"), number(mesh, 0.4)
    g.interpolate(bump)
    R = inner(grad(u), grad(v)) * dx
    bcs = [clamp(V, "left", g), clamp(V, "right", b)]
    return theta_evolution(
        R, u, initial=bump, dt=0.1, num_steps=STEPS, controls=[g, b], per_step=[b], bcs=bcs, name="boundary"
    )


def initial_in_the_steps(mesh):
    """The initial state also stands in the equation, as what the state is drawn back to."""
    V, u, v = parts(mesh)
    initial = fem.Function(V, name="initial")
    initial.interpolate(bump)
    R = (inner(grad(u), grad(v)) + 2.0 * (u - initial) * v) * dx
    return theta_evolution(R, u, initial=initial, dt=0.1, num_steps=STEPS, controls=[initial], name="drawn_back")


class HyperbolicSine(Substitution):
    """u = sinh(w)."""

    def state(self, w):
        return np.sinh(w)

    def state_slope(self, w):
        return np.cosh(w)

    def state_curvature(self, w):
        return np.sinh(w)

    def unknown(self, u):
        return np.arcsinh(u)

    def unknown_slope(self, u):
        return 1.0 / np.sqrt(1.0 + u**2)

    def unknown_curvature(self, u):
        return -u / (1.0 + u**2) ** 1.5

    def check(self, comm, w, place):
        """Every w will do."""


def substituted(mesh):
    """Nonlinear steps for another unknown, a number per step, the initial state in the steps, too."""
    V, u, v = parts(mesh)
    initial, r = fem.Function(V, name="initial"), number(mesh, 1.0)
    initial.interpolate(bump)
    R = (inner(grad(u), grad(v)) + (r * u**3 - initial) * v) * dx
    evolution = theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=STEPS, theta=1, controls=[r, initial], per_step=[r], name="sinh"
    )
    return replace(evolution, substitution=HyperbolicSine())


def substituted_source(mesh):
    """Affine steps for another unknown, from an initial state that is no control."""
    V, u, v = parts(mesh)
    s, given = fem.Function(V, name="s"), fem.Function(V)
    given.interpolate(bump)
    R = (inner(grad(u), grad(v)) - s * v) * dx
    evolution = theta_evolution(
        R, u, initial=given, dt=0.1, num_steps=STEPS, controls=[s], initial_is_fixed=True, name="sinh_source"
    )
    return replace(evolution, substitution=HyperbolicSine())


ALL = [
    heat, heat_sources, heat_source_alone, heating, burgers, cubic, semi_implicit, bilinear, boundary,
    initial_in_the_steps, substituted, substituted_source,
]  # fmt: skip


def boundary_fields_per_step(mesh):
    """Boundary values and a source with a value per step; a coefficient in both the operator and the source."""
    V, u, v = parts(mesh, degree=2)
    Q = fem.functionspace(mesh, ("DG", 0))
    m, s, g, b = fem.Function(Q), fem.Function(Q), fem.Function(V), number(mesh, 0.4)
    m.x.array[:] = 0.1
    g.interpolate(bump)
    R = (ufl.exp(m) * inner(grad(u), grad(v)) - s * v + m * v) * dx
    return theta_evolution(
        R, u, initial=fem.Function(V, name="initial"), dt=0.1, num_steps=STEPS, controls=[b, m, g, s],
        per_step=[g, s, b], bcs=[clamp(V, "left", g), clamp(V, "right", b), clamp(V, "top", 1.0)], name="bc_steps",
    )  # fmt: skip


def vectors_and_matrices(mesh):
    """A vector and a matrix of numbers per step, both in an affine operator; the vector on the boundary, too."""
    V, u, v = parts(mesh, shape=(2,))
    q, A = fem.Constant(mesh, np.array([0.3, -0.2])), fem.Constant(mesh, np.array([[1.0, 0.2], [0.1, 0.8]]))
    initial = fem.Function(V, name="initial")
    initial.interpolate(lambda x: np.stack([bump(x), x[0]]))
    R = (inner(dot(grad(u), A), grad(v)) + inner(dot(grad(u), q), v) - inner(q, v)) * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=STEPS, theta=0.6, controls=[q, A], per_step=[q, A],
        bcs=[clamp(V, "left", q)], name="tensors",
    )  # fmt: skip


def product_of_numbers(mesh):
    """A shared number times one per step in the operator: affine in each, not in both."""
    V, u, v = parts(mesh)
    a, b = number(mesh, 1.1), number(mesh, 0.7)
    R = (a * b * inner(grad(u), grad(v)) + a * u * v - b**2 * v) * dx
    return theta_evolution(
        R, u, initial=bump, dt=0.1, num_steps=STEPS, controls=[a, b], per_step=[b], name="product"
    )  # fmt: skip


def oseen(mesh):
    """Velocity and pressure, transported by the old velocity; a boundary velocity and a force per step."""
    element = basix.ufl.mixed_element(
        [
            basix.ufl.element("Lagrange", mesh.basix_cell(), 2, shape=(2,)),
            basix.ufl.element("Lagrange", mesh.basix_cell(), 1),
        ]
    )
    W = fem.functionspace(mesh, element)
    w, previous, initial = fem.Function(W), fem.Function(W), fem.Function(W, name="initial")
    (u, p), (v, q), (old, _) = ufl.split(w), ufl.TestFunctions(W), ufl.split(previous)
    nu, f = number(mesh, 0.5), fem.Constant(mesh, np.array([1.0, 0.3]))
    more, g = fem.Function(fem.functionspace(mesh, ("DG", 0))), fem.Function(value_space(W.sub(0)))
    more.x.array[:] = 0.2
    g.interpolate(lambda x: np.stack([bump(x), 0.0 * x[0]]))
    initial.sub(0).interpolate(lambda x: np.stack([bump(x), x[0]]))
    stress = nu * (1.0 + more) * inner(grad(u), grad(v)) - p * ufl.div(v)
    F = inner(u - old, v) + 0.1 * (stress + inner(dot(grad(u), old), v) - inner(f, v)) + q * ufl.div(u) + 0.01 * p * q
    step = Problem(
        residual=F * dx, state=w, controls=[f, nu, more, g, previous], bcs=[clamp(W.sub(0), ["left", "bottom"], g)],
        name="oseen",
    )  # fmt: skip
    return Evolution(step=step, previous=previous, initial=initial, num_steps=STEPS, per_step=[g, f])


def upwind(mesh):
    """Transport of a broken field by a velocity per step, through interior and exterior facets."""
    V = fem.functionspace(mesh, ("DG", 1))
    u, v, n, initial = fem.Function(V), ufl.TestFunction(V), ufl.FacetNormal(mesh), fem.Function(V, name="initial")
    initial.interpolate(bump)
    beta = fem.Constant(mesh, np.array([1.0, 0.4]))
    c = fem.Function(fem.functionspace(mesh, ("Lagrange", 1)))
    # Smoothed: a switch of direction has no derivative.
    out = 0.5 * (dot(beta, n) + ufl.sqrt(dot(beta, n) ** 2 + 0.01))
    R = (
        (ufl.exp(c) * u * v - u * inner(beta, grad(v)) - c * v) * dx
        + (out("+") * u("+") - out("-") * u("-")) * ufl.jump(v) * ufl.dS
        + out * u * v * ds
    )
    return theta_evolution(
        R, u, initial=initial, dt=0.05, num_steps=STEPS, theta=1, controls=[beta, c], per_step=[beta], name="upwind"
    )


def numbers_on_facets(mesh):
    """An operator that is affine in numbers per step, each on facets or cells of its own."""
    V = fem.functionspace(mesh, ("DG", 1))
    u, v, initial = fem.Function(V), ufl.TestFunction(V), fem.Function(V, name="initial")
    initial.interpolate(bump)
    a, b = number(mesh, 0.4), fem.Constant(mesh, np.array([0.5, 1.0]))
    R = a * ufl.jump(u) * ufl.jump(v) * ufl.dS + b[0] * u * v * ds(domain=mesh) + b[1] * u * v * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.05, num_steps=STEPS, controls=[a, b], per_step=[a, b], name="facets"
    )


def curved_in_previous(mesh):
    """Linear in the new state, nonlinear in the old one outside of the operator; a finer source per step."""
    V, u, v = parts(mesh)
    previous, c = fem.Function(V), number(mesh, 0.5)
    s = fem.Function(fem.functionspace(mesh, ("Lagrange", 2)))
    s.interpolate(bump)
    F = (u - previous) * v + 0.1 * (
        inner(grad(u), grad(v)) + c * ufl.exp(-(previous**2)) * s * v + c * u * v * previous
    )
    step = Problem(residual=F * dx, state=u, controls=[s, c], name="curved_previous")
    return Evolution(step=step, previous=previous, initial=bump, num_steps=STEPS, per_step=[s, c])


def time_in_the_operator(mesh):
    """Time and a shared field in the operator, beside a number per step."""
    V, u, v = parts(mesh)
    t, k, c, initial = number(mesh, 0.0), fem.Function(V), number(mesh, 0.6), fem.Function(V, name="initial")
    initial.interpolate(bump)
    R = ((1.0 + ufl.sin(t) ** 2 + k) * inner(grad(u), grad(v)) + c * u * v - c * ufl.cos(t) * v) * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=STEPS, theta=0.7, controls=[k, c], per_step=[c], time=t, start=0.3,
        name="timed",
    )  # fmt: skip


def one_step(mesh):
    """A single step, whose per-step controls are shared ones as well."""
    V, u, v = parts(mesh)
    c, s, initial = number(mesh, 0.6), fem.Function(V), fem.Function(V, name="initial")
    initial.interpolate(bump)
    R = (c * inner(grad(u), grad(v)) - s * v) * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=1, controls=[c, s], per_step=[c, s], name="one_step"
    )  # fmt: skip


def number_times_field(mesh):
    """An operator that is affine in a number per step, whose slope holds a shared field and a live parameter."""
    V, u, v = parts(mesh)
    c, rate, s = number(mesh, 0.6), number(mesh, 2.0), fem.Function(fem.functionspace(mesh, ("DG", 0)))
    initial = fem.Function(V, name="initial")
    initial.interpolate(bump)
    R = (rate * inner(grad(u), grad(v)) + c * (ufl.exp(s) * u + rate * u.dx(0) - rate) * v) * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=STEPS, controls=[c, s], per_step=[c], bcs=[clamp(V, "left", 1.0)],
        name="number_field",
    )  # fmt: skip


def initial_on_the_boundary(mesh):
    """Nonlinear; the initial state is the boundary value of every step, beside a number per step."""
    V, u, v = parts(mesh)
    initial, b = fem.Function(V, name="initial"), number(mesh, 0.5)
    initial.interpolate(bump)
    R = ((1.0 + u**2) * inner(grad(u), grad(v)) + b * u**3 * v) * dx
    return theta_evolution(
        R, u, initial=initial, dt=0.1, num_steps=STEPS, controls=[initial, b], per_step=[b],
        bcs=[clamp(V, "left", initial), clamp(V, "right", b)], name="held_initial",
    )  # fmt: skip


CORNERS = [
    boundary_fields_per_step, vectors_and_matrices, product_of_numbers, oseen, upwind, numbers_on_facets,
    curved_in_previous, time_in_the_operator, one_step, number_times_field, initial_on_the_boundary,
]  # fmt: skip
