"""Problems that are known up to a constant only are refused; those that hold it, however weakly, are solved."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere
from dolfinx import fem

from relax import BadProblem, Evolution, Functional, Problem, ReducedMap, SolveFailed, clamp, clamp_boundary, meshes

pytestmark = pytest.mark.ranks(1, 2)


def scalar(factor=lambda u: 1.0, reaction=0.0, degree=1, source=0.0):
    """-div(factor grad u) + reaction u = f, nothing clamped."""
    V = fem.functionspace(meshes.unit_square(4), ("Lagrange", degree))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, source)
    F = ufl.inner(factor(u) * ufl.grad(u), ufl.grad(v)) * ufl.dx - f * v * ufl.dx
    return Problem(residual=F + reaction * u * v * ufl.dx if reaction else F, state=u, controls=[f])


def elasticity(held=None):
    """In pascals, pulled on all sides."""
    V = fem.functionspace(meshes.unit_square(4), ("Lagrange", 2, (2,)))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, (1e6, 0.0))
    F = 210e9 * ufl.inner(ufl.sym(ufl.grad(u)), ufl.sym(ufl.grad(v))) * ufl.dx - ufl.inner(f, v) * ufl.dx
    return Problem(residual=F, state=u, controls=[f], bcs=[] if held is None else [clamp(held(V), "left")])


def stokes(pressure="free", viscosity=1.0, in_time=False):
    """In a closed box."""
    mesh = meshes.unit_square(4)
    cell = mesh.basix_cell()
    P2, P1 = basix.ufl.element("Lagrange", cell, 2, shape=(2,)), basix.ufl.element("Lagrange", cell, 1)
    W = fem.functionspace(mesh, basix.ufl.mixed_element([P2, P1]))
    w, f = fem.Function(W), fem.Constant(mesh, (1.0, 0.0))
    (u, p), (v, q) = ufl.split(w), ufl.TestFunctions(W)
    F = (viscosity * ufl.inner(ufl.grad(u), ufl.grad(v)) - p * ufl.div(v) - q * ufl.div(u) - ufl.inner(f, v)) * ufl.dx
    bcs = [clamp_boundary(W.sub(0))]
    if pressure == "a small term":
        F -= 1e-6 * p * q * ufl.dx
    if pressure == "in a vertex":
        Q, _ = W.sub(1).collapse()
        at = fem.locate_dofs_geometrical((W.sub(1), Q), lambda x: np.isclose(x[0], 0.0) & np.isclose(x[1], 0.0))
        bcs.append(fem.dirichletbc(fem.Function(Q), at, W.sub(1)))
    if not in_time:
        return Problem(residual=F, state=w, controls=[f], bcs=bcs)
    before = fem.Function(W)
    F += ufl.inner(u - ufl.split(before)[0], v) / 0.1 * ufl.dx
    step = Problem(residual=F, state=w, controls=[f, before], bcs=bcs)
    return Evolution(step=step, previous=before, initial=fem.Function(W), num_steps=2)


REFUSED = {
    "Neumann": (scalar, "the state"),
    "Neumann, quartic": (lambda: scalar(degree=4), "the state"),
    "nonlinear": (lambda: scalar(lambda u: 1.0 + ufl.inner(ufl.grad(u), ufl.grad(u)), source=0.1), "the state"),
    "elasticity": (elasticity, "part 0 of the state"),
    "elasticity, held along x": (lambda: elasticity(lambda V: V.sub(0)), "part 1 of the state"),
    "Stokes": (stokes, "part 1 of the state"),
    "Stokes, in time": (lambda: stokes(in_time=True), "part 1 of the state"),
    "Stokes, viscous": (lambda: stokes(viscosity=1e9), "part 1 of the state"),
}
SOLVED = {
    "a weak reaction": lambda: scalar(reaction=1e-6, source=1e-6),
    "elasticity, held": lambda: elasticity(lambda V: V),
    "Stokes, a small term": lambda: stokes("a small term"),
    "Stokes, viscous, a small term": lambda: stokes("a small term", viscosity=1e3),
    "Stokes, in time, in a vertex": lambda: stokes("in a vertex", in_time=True),
    "Stokes, in a vertex": lambda: stokes("in a vertex"),
}


def energy(problem):
    return ReducedMap(problem, Functional(ufl.inner(problem.state, problem.state) * ufl.dx))


@pytest.mark.parametrize("name", REFUSED)
def test_a_constant_that_nothing_holds_is_refused(name):
    """Whatever the solver makes of it: another constant on each number of ranks."""
    make, what = REFUSED[name]
    with energy(make()) as G:
        # Newton's method may fail before the end, and is told why.
        kind = (SolveFailed, BadProblem) if name == "nonlinear" else BadProblem
        words = str(raised_everywhere(kind, lambda: G(G.present_control())))
        assert f"a constant is added to {what}, " in words and "relax.clamp" in words


@pytest.mark.parametrize("name", SOLVED)
def test_a_constant_that_something_holds_is_found(name):
    with energy(SOLVED[name]()) as G:
        y = G(G.present_control())
        assert np.isfinite(y).all() and y > 0.0
        if name == "a weak reaction":
            close(y, [1.0], 1e-6)
