"""Small linear systems that a DenseMap marches: between them every way into a step. Each is a function of a mesh."""

from __future__ import annotations

import evolutions
import numpy as np
import ufl
from dolfinx import fem

from relax import AtSteps, Evolution, FieldValues, Functional, Problem, Stack, TimeIntegral, clamp, theta_evolution
from relax.meshes import interval
from relax.pdes import heat, poisson, schrodinger

dx, grad, inner = ufl.dx, ufl.grad, ufl.inner


def seen(problem):
    """The last state, two others, and a quartic of some, and its integral in time."""
    u = problem.state
    quartic, everything = Functional(inner(u, u) ** 2 * dx), FieldValues(u.function_space)
    if not isinstance(problem, Evolution):
        return Stack([everything, quartic])
    return Stack(
        [everything, AtSteps(everything, [0, 1]), AtSteps(quartic, [0, -1]), TimeIntegral(quartic, 0.1)],
    )


def _box(mesh):
    return interval(6, (0.0, 1.0), comm=mesh.comm)


def _wave(x):
    return np.exp(-20.0 * (x[0] - 0.45) ** 2 + 3j * x[0])


def dipole(mesh):
    """A number per step in both operators."""
    return schrodinger.dipole(_box(mesh), num_steps=3, dt=0.1, degree=1, potential=1.0)


def wave(mesh):
    """Besides, the initial state, and a matrix that is not symmetric."""
    return schrodinger.evolution(
        _box(mesh), lambda x: 8.0 * x[0], initial=_wave, dt=0.02, num_steps=3, controls=("field", "initial"),
        degree=1, absorber=lambda x: 2.0 * x[0] ** 2, name="dense_wave",
    )  # fmt: skip


def heat_initial_and_source(mesh):
    """Fields alone, values on a wall, no number anywhere."""
    return heat.evolution(
        mesh, initial=lambda x: x[0], dt=0.1, num_steps=3, controls=("source", "initial"),
        dirichlet={"left": lambda x: x[1] + 1.0},
    )  # fmt: skip


def heat_source_per_step(mesh):
    """A field for each step, by backward Euler."""
    return heat.evolution(
        mesh, initial=lambda x: x[0], dt=0.1, num_steps=3, theta=1, controls=("initial", "source_per_step")
    )


def advection(mesh):
    """A velocity per step and a shared reaction in the operator, the first on a wall, too; a source per step."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, s = fem.Function(V, name="u"), ufl.TestFunction(V), fem.Function(V, name="s")
    b, r = fem.Constant(mesh, np.array([0.8, -0.3])), fem.Constant(mesh, 0.4)
    R = (0.1 * inner(grad(u), grad(v)) + inner(b, grad(u)) * v + r * (u - 1.0) * v - s * v) * dx
    return theta_evolution(
        R, u, initial=evolutions.bump, dt=0.1, num_steps=3, theta=0.7, controls=[r, b, s], per_step=[b, s],
        bcs=[clamp(V, "left", r), clamp(V, "right", 0.5)], name="dense_advection",
    )  # fmt: skip


def number_times_source(mesh):
    """A number that multiplies the state, a field and what is given, and nothing else: no inverse at 0."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, s, c = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(mesh, 1.3)
    F = (c * inner(grad(u), grad(v)) - c * s * v - 2.0 * c * v) * dx
    return Problem(residual=F, state=u, controls=[c, s], bcs=[clamp(V, "left", s)], name="dense_number")


def timed(mesh):
    """Time in the operator and in what is given, beside a number per step."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, t, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, 0.0), fem.Constant(mesh, 0.6)
    R = ((1.0 + ufl.sin(t) ** 2) * inner(grad(u), grad(v)) + c * u * v - (c + 2.0) * ufl.cos(t) * v) * dx
    return theta_evolution(
        R, u, initial=evolutions.bump, dt=0.1, num_steps=3, theta=0.7, controls=[c], per_step=[c], time=t, start=0.3,
        name="dense_timed",
    )  # fmt: skip


ALL = [
    dipole, wave, heat_initial_and_source, heat_source_per_step, advection, number_times_source, timed,
    poisson.source, evolutions.boundary, evolutions.initial_in_the_steps, evolutions.vectors_and_matrices,
    evolutions.one_step,
]  # fmt: skip
