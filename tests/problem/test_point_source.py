"""Loads at points, against closed forms, and against the transpose of values at points."""

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import COMM, LAYOUTS, close, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from ufl import dx, grad, inner

from relax import (
    FieldValues,
    PointSource,
    PointsOutsideMesh,
    PointValues,
    Problem,
    ReducedMap,
    check_map,
    clamp_boundary,
    control_values,
    dual_weighted_residual,
    meshes,
    theta_evolution,
)
from relax.base.fem.forms import assembled
from relax.errors import BadInput, BadProblem

pytestmark = pytest.mark.ranks(1, 2, 3)

# In a cell, on a facet, at a vertex, two of them in one cell; one of them twice.
POINTS = np.array([[0.31, 0.27], [0.5, 0.6], [0.25, 0.75], [0.32, 0.26], [0.31, 0.27]])


def taylor_hood(domain):
    cell = domain.basix_cell()
    P2, P1 = basix.ufl.element("P", cell, 2, shape=(2,)), basix.ufl.element("P", cell, 1)
    return fem.functionspace(domain, basix.ufl.mixed_element([P2, P1]))


def skew_quads():
    domain = meshes.unit_square(4, cell="quadrilateral")
    x = domain.geometry.x
    x[:, 0] += 0.1 * x[:, 0] * x[:, 1]
    return domain


SPACES = {
    "P1": lambda: (fem.functionspace(meshes.unit_square(4), ("Lagrange", 1)),) * 2,
    "P3 vector": lambda: (fem.functionspace(meshes.unit_square(4), ("Lagrange", 3, (2,))),) * 2,
    "part of a mixed space": lambda: (W := taylor_hood(meshes.unit_square(4)), W.sub(0)),
    "Crouzeix-Raviart": lambda: (fem.functionspace(meshes.unit_square(4), ("CR", 1)),) * 2,
    "skew quadrilaterals": lambda: (fem.functionspace(skew_quads(), ("Lagrange", 2)),) * 2,
}


@pytest.mark.parametrize("space", SPACES)
def test_transpose_of_values_at_points(space):
    whole, part = SPACES[space]()
    u, seen = fem.Function(whole), PointValues(part, POINTS)
    f = PointSource(part, POINTS)
    assert f.size == seen.size
    f.values = s = np.random.default_rng(1).standard_normal(f.size)
    v = ufl.TestFunction(whole)
    load = assembled(fem.form(inner(f, v if whole is part else ufl.split(v)[0]) * dx), fem.Function(whole))
    close(load, seen.adjoint(u, s), 1e-12)
    # The same load again: of the point that stands there twice the sum alone is known.
    back = f.values
    last = f.size // len(POINTS)
    close(back[last:-last], s[last:-last], 1e-9)
    close(back[:last] + back[-last:], s[:last] + s[-last:], 1e-9)


def poisson_1d(comm=COMM):
    domain = meshes.interval(16, comm=comm)
    V = fem.functionspace(domain, ("Lagrange", 1))
    return V, fem.Function(V), ufl.TestFunction(V)


def test_green_function():
    """-u'' = Σ s_i δ(x - x_i), u(0) = u(1) = 0: at nodes linear elements are exact, and symmetric in the points."""
    V, u, v = poisson_1d()
    x = np.array([0.25, 0.5, 0.6875])
    f = PointSource(V, x)
    problem = Problem(residual=(inner(grad(u), grad(v)) - f * v) * dx, state=u, controls=[f], bcs=[clamp_boundary(V)])
    G = ReducedMap(problem, PointValues(V, x))
    green = np.minimum.outer(x, x) - np.outer(x, x)
    s = np.array([1.0, -2.0, 0.5])
    with G.linearize(s) as lin:
        close(lin.value, green @ s)
        close(lin.matrix(), green)
        close(lin.vjp(s), green @ s)
    between = PointSource(V, [0.4])  # the load of the two nodes of its cell, whose interpolant the state is
    between.values = 3.0
    F = (inner(grad(u), grad(v)) - (f + between) * v) * dx
    G = ReducedMap(Problem(residual=F, state=u, controls=[f], bcs=[clamp_boundary(V)], name="two"), PointValues(V, x))
    close(G(np.zeros(3)), 3.0 * (np.minimum(x, 0.4) - 0.4 * x))
    close(G(s), green @ s + 3.0 * (np.minimum(x, 0.4) - 0.4 * x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_derivatives(layout):
    """-Δu + u³ = Σ s_i δ(x - x_i)."""
    domain = meshes.unit_square(4)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, f = fem.Function(V), ufl.TestFunction(V), PointSource(V, POINTS[:4])
    F = (inner(grad(u), grad(v)) + u**3 * v - f * v) * dx
    problem = Problem(residual=F, state=u, controls=[f], bcs=[clamp_boundary(V)], name="loads")
    G = ReducedMap(problem, FieldValues(V), layout=layout)
    mine = slice(0, 4 if layout == "replicated" or COMM.rank == 0 else 0)
    s = np.array([3.0, 1.0, -4.0, 2.0])
    m = control_values(G, s)
    np.testing.assert_array_equal(m, s[mine])
    if COMM.size < 3:
        assert check_map(G, m).failures == []
    f.values = s
    close(f.values, s, 1e-12)
    w = np.ones(G.size_out)
    with G.linearize(m) as lin:
        gradient = lin.vjp(w)
        d = np.array([1.0, 0.0, 0.5, -0.5])[mine]
        shift = 1e-4 * d
        slope = w @ (G(m + shift) - G(m - shift)) / 2e-4
        assert G.dot(gradient, d) == pytest.approx(slope, rel=1e-6)


def test_in_each_step_against_matrices():
    """u_t - u'' = Σ s_i(t_n) δ(x - x_i) by implicit Euler, beside the same in NumPy on one rank."""
    x, dt, steps = np.array([0.3, 0.8]), 0.05, 3
    V, u, v = poisson_1d()
    f = PointSource(V, x)
    R = (inner(grad(u), grad(v)) - f * v) * dx
    evolution = theta_evolution(
        R, u, initial=0.0, initial_is_fixed=True, dt=dt, num_steps=steps, theta=1, controls=[f], per_step=[f],
        bcs=[clamp_boundary(V)], name="impulses",
    )  # fmt: skip
    G = ReducedMap(evolution, PointValues(V, x))
    s = np.random.default_rng(4).standard_normal((steps, 2))

    alone, a, b = poisson_1d(MPI.COMM_SELF)
    trial = ufl.TrialFunction(alone)
    M, K = (fem.assemble_matrix(fem.form(g * dx)).to_dense() for g in (trial * b, inner(grad(trial), grad(b))))
    P = PointValues(alone, x).matrix.toarray()
    nodes = alone.tabulate_dof_coordinates()[:, 0]
    free = (nodes > 1e-9) & (nodes < 1 - 1e-9)
    A, M, P = (M + dt * K)[free][:, free], M[free][:, free], P[:, free]
    to_end = [np.linalg.solve(A, dt * P.T)]
    for _ in range(steps - 1):
        to_end.insert(0, np.linalg.solve(A, M @ to_end[0]))
    J = np.concatenate([P @ E for E in to_end], axis=1)
    with G.linearize(s.ravel()) as lin:
        close(lin.value, J @ s.ravel())
        close(lin.vjp([1.0, -2.0]), np.array([1.0, -2.0]) @ J)


def test_mistakes():
    domain = meshes.unit_square(2)
    for space in (fem.functionspace(domain, ("RT", 1)), taylor_hood(domain)):
        assert "Lagrange" in str(raised_everywhere(BadProblem, lambda V=space: PointSource(V, POINTS)))
    V = fem.functionspace(domain, ("Lagrange", 1))
    raised_everywhere(PointsOutsideMesh, lambda: PointSource(V, [[2.0, 0.0]]))
    assert "point_source: values" in str(
        raised_everywhere(BadInput, lambda: setattr(PointSource(V, POINTS), "values", [1.0]))
    )
    u, v, f = fem.Function(V), ufl.TestFunction(V), PointSource(V, POINTS)
    problem = Problem(residual=(u - f) * v * dx, state=u, controls=[f], name="mistakes")
    with ReducedMap(problem, FieldValues(V)).linearize(np.ones(5)) as lin:
        assert "PointSource" in str(raised_everywhere(BadInput, lambda: dual_weighted_residual(lin, lin.value)))
