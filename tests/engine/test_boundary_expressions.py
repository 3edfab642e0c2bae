"""Boundary values that are expressions: what they follow, and derivatives through them."""

from __future__ import annotations

import basix.ufl
import dolfinx.fem.petsc as fem_petsc
import numpy as np
import pytest
import ufl
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem

from relax import (
    AtSteps,
    BadProblem,
    FieldValues,
    Problem,
    ReducedMap,
    check_map,
    clamp,
    control_values,
    meshes,
    pdes,
    theta_evolution,
)
from relax.problem.boundary import value_space

pytestmark = pytest.mark.ranks(1, 2, 3)

grad, inner, dx = ufl.grad, ufl.inner, ufl.dx


@pytest.fixture(scope="module")
def mesh():
    return meshes.unit_square(4)


def conditions(kind, V, q, c, M, p):
    """Fields, entries of a vector and of a matrix, parameters; nonlinear, in parts of spaces, one over the other."""
    x = ufl.SpatialCoordinate(V.mesh)
    if kind == "scalar":
        return [clamp(V, "left", ufl.exp(c[0] * x[1]) * q**2 + c[1] * p), clamp(V, "bottom", q * M[1, 0])]
    if kind == "parts":
        return [
            clamp(V.sub(1), "left", ufl.sin(q * c[0])),
            clamp(V, "right", 0.0),
            clamp(V.sub(0), "left", M[0, 1] * c[1] * x[1]),
        ]
    return [
        clamp(V, "left", M * ufl.as_vector([ufl.sin(x[1]), q]) + c[0] ** 2 * ufl.as_vector([p, x[1]])),
        clamp(V, "bottom", 1.0),
    ]


@pytest.mark.parametrize(("kind", "degree"), [("scalar", 3), ("parts", 1), ("vector", 2)])
def test_derivatives_see_the_boundary(mesh, kind, degree):
    """Taylor orders two and three, adjoint and Hessian, of a nonlinear equation with the controls inside, too."""
    shape = () if kind == "scalar" else (2,)
    V = fem.functionspace(mesh, ("Lagrange", degree, shape) if shape else ("Lagrange", degree))
    q, p = fem.Function(fem.functionspace(mesh, ("Lagrange", 2))), fem.Constant(mesh, 0.7)
    c, M = fem.Constant(mesh, np.array([0.3, 1.2])), fem.Constant(mesh, np.array([[1.0, 0.4], [0.7, 1.5]]))
    u, v = fem.Function(V), ufl.TestFunction(V)
    F = (1 + 0.1 * inner(u, u)) * inner(grad(u), grad(v)) * dx - (q + c[0]) * (sum(v) if shape else v) * dx
    problem = Problem(residual=F, state=u, controls=[q, c, M], bcs=conditions(kind, V, q, c, M, p), name="follow")
    G = ReducedMap(problem, FieldValues(V))
    assert not G.residual.is_affine
    m = control_values(G, lambda x: 1 + x[0] * x[1], c.value.copy(), M.value.copy())
    assert check_map(G, m).failures == []
    with G.linearize(m) as lin:
        everyone_has(lin.hvp(np.cos(np.arange(G.size_out)), np.sin(np.arange(G.size_in))))


def diffusion(mesh, value, controls, name):
    """A linear equation whose left side is held at a value, and u on all of it."""
    V = fem.functionspace(mesh, ("Lagrange", 2))
    u, v = fem.Function(V), ufl.TestFunction(V)
    x = ufl.SpatialCoordinate(mesh)
    F = (1 + x[0]) * inner(grad(u), grad(v)) * dx - v * dx
    bcs = [clamp(V, "left", value(V)), clamp(V, "right", 0.0)]
    return ReducedMap(Problem(residual=F, state=u, controls=controls(V), bcs=bcs, name=name), FieldValues(V))


def test_the_chain_rule_by_hand(mesh):
    """The same numbers as with the boundary value itself for a control: value, gradient, Hessian action."""
    a, x = fem.Constant(mesh, 0.6), ufl.SpatialCoordinate(mesh)
    given = []

    def function(V):
        given.append(fem.Function(value_space(V)))
        return given[0]

    G = diffusion(mesh, lambda V: ufl.exp(a * x[1]), lambda V: [a], "follow_one")
    by_value = diffusion(mesh, function, lambda V: given, "follow_values")
    y = [control_values(by_value, lambda x, k=k: x[1] ** k * np.exp(0.6 * x[1])) for k in range(3)]
    close(G([0.6]), by_value(y[0]))
    w = np.cos(np.arange(G.size_out))
    with G.linearize([0.6]) as lin, by_value.linearize(y[0]) as expected:
        slope = expected.vjp(w)
        close(lin.vjp(w), [slope @ y[1]])
        close(lin.hvp(w, [1.0]), [slope @ y[2]])
        close(lin.jvp([1.0]), expected.jvp(y[1]))


def test_affine_values_keep_the_operator_and_take_blocks(mesh):
    a, x = fem.Constant(mesh, np.array([0.6, -0.2])), ufl.SpatialCoordinate(mesh)
    G = diffusion(mesh, lambda V: a[0] + a[1] * ufl.sin(x[1]), lambda V: [a], "follow_affine")
    assert G.residual.is_affine
    rows = np.random.default_rng(3).standard_normal((5, 2))
    close(G(rows), [G(row) for row in rows])
    jump = diffusion(mesh, lambda V: ufl.conditional(ufl.gt(a[0], 0.5), 1.0, x[1]), lambda V: [a], "follow_jump")
    assert not jump.residual.is_affine


def test_parameters_are_live_and_a_point_keeps_its_own(mesh):
    a, p = fem.Constant(mesh, 0.6), fem.Constant(mesh, 2.0)
    G = diffusion(mesh, lambda V: p * a**2, lambda V: [a], "follow_parameter")
    w = np.cos(np.arange(G.size_out))
    lin = G.linearize([0.6])
    slope = lin.vjp(w)
    p.value = 4.0
    close(G([0.6]), 2.0 * lin.value - G([0.0]))
    close(lin.vjp(w), slope)
    assert p.value == 4.0
    with G.linearize([0.6]) as now:
        close(now.vjp(w), 2.0 * slope)


def test_values_that_follow_the_time(mesh):
    """u = a + b sin(t) x on the left, b with a value in each step: the loop of plain DOLFINx, and derivatives."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    a, b, t = fem.Constant(mesh, 0.4), fem.Constant(mesh, 1.0), fem.Constant(mesh, 0.0)
    x = ufl.SpatialCoordinate(mesh)
    value = a**2 + b * ufl.sin(3.0 * t) * x[1]
    N, dt, theta = 4, 0.1, 0.5
    evolution = theta_evolution(
        inner(grad(u), grad(v)) * dx, u, initial=0.0, dt=dt, num_steps=N, theta=theta, controls=[a, b], per_step=[b],
        bcs=[clamp(V, "left", value)], time=t, start=0.2, name="follow_time",
    )  # fmt: skip
    G = ReducedMap(evolution, AtSteps(FieldValues(V), [2, N]))
    strengths = [1.0, -0.5, 2.0, 0.7]
    m = control_values(G, 0.4, strengths)
    assert check_map(G, m).failures == []

    before, trial = fem.Function(V), ufl.TrialFunction(V)
    wall = fem.Function(V)
    now = theta * trial + (1 - theta) * before
    F = inner(trial - before, v) * dx + dt * inner(grad(now), grad(v)) * dx
    facets = meshes.facets(mesh, "left")
    bc = fem.dirichletbc(wall, fem.locate_dofs_topological(V, 1, facets))
    options = {"ksp_type": "preonly", "pc_type": "lu"}
    seen = []
    for n, strength in enumerate(strengths):
        wall.interpolate(lambda x, s=strength, t=0.2 + (n + 1) * dt: 0.16 + s * np.sin(3.0 * t) * x[1])
        more = {"petsc_options_prefix": "plain"} if "petsc_options_prefix" in PLAIN else {}
        before.x.array[:] = (
            fem_petsc.LinearProblem(*ufl.system(F), bcs=[bc], petsc_options=options, **more).solve().x.array
        )
        seen.append(FieldValues(V).value(before))
    close(G(m), np.concatenate([seen[1], seen[3]]))


PLAIN = fem_petsc.LinearProblem.__init__.__code__.co_varnames


def test_the_equations_at_hand_take_them(mesh):
    """Through ``dirichlet=``, beside a control of the equation's own."""
    p = fem.Constant(mesh, 1.0)
    problem = pdes.poisson.source(mesh, dirichlet={"left": 2.0 * p})
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    zero = np.zeros(G.size_in)
    first = G(zero)
    p.value = 3.0
    close(G(zero), 3.0 * first)


def test_what_has_no_nodes_is_refused(mesh):
    V = fem.functionspace(mesh, basix.ufl.element("RT", mesh.basix_cell(), 1))
    value = fem.Constant(mesh, 2.0) * ufl.SpatialCoordinate(mesh)
    error = raised_everywhere(BadProblem, lambda: clamp(V, "left", value))
    assert "expected Lagrange elements" in str(error)
