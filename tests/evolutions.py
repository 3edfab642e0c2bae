"""Equations in time that between them take every way through the steps."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import default_scalar_type, fem

from relax import Evolution, Problem, clamp_boundary, theta_evolution
from relax.boundary import clamp

dx, grad, inner = ufl.dx, ufl.grad, ufl.inner
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


ALL = [
    heat, heat_sources, heat_source_alone, heating, burgers, cubic, semi_implicit, bilinear, boundary,
    initial_in_the_steps,
]  # fmt: skip
