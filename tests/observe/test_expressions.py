"""Expressions of the state and of controls: at points, interpolated, projected."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from observable_contract import ObservableContract
from ufl import dx, exp, grad, inner

import relax
from relax import (
    AtSteps,
    BadProblem,
    ExpressionField,
    ExpressionValues,
    FieldValues,
    ReducedMap,
    Stack,
    TimeIntegral,
    check_map,
    meshes,
)
from relax.base.fem.layout import SpaceLayout
from relax.base.fem.points import owned_points

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD
#: On edges and in vertices, too.
POINTS = np.array([(0.31, 0.42), (0.5, 0.5), (0.77, 0.18), (1.0, 0.6), (1 / 3, 2 / 3)])


def bent():
    """Quadrilaterals that are no parallelograms."""
    domain = meshes.unit_square(3, cell="quadrilateral")
    x = domain.geometry.x
    x[:, 0] += 0.1 * np.sin(3.0 * x[:, 1]) * x[:, 0] * (1.0 - x[:, 0])
    return domain


SPACES = {
    "P3": (lambda: meshes.unit_square(3), ("Lagrange", 3)),
    "Q2, bent": (bent, ("Lagrange", 2)),
    "edges": (lambda: meshes.unit_cube(2), ("N1curl", 2)),
    "facets": (lambda: meshes.unit_cube(2, cell="tetrahedron"), ("RT", 2)),
}


@pytest.mark.parametrize("name", SPACES)
def test_what_dolfinx_gives_in_the_cell(name):
    """Values, gradients and coordinates together, against an expression of DOLFINx at each point by itself."""
    make, family = SPACES[name]
    domain = make()
    V, gdim = fem.functionspace(domain, family), domain.geometry.dim
    u, x = fem.Function(V), ufl.SpatialCoordinate(domain)
    u.interpolate((lambda x: np.sin(3.0 * x[:3])) if V.value_shape else (lambda x: np.sin(4.0 * x[0] - x[1])))
    u.x.scatter_forward()
    form = ufl.tr(grad(u)) * u + x if V.value_shape else grad(u) * u + x * ufl.div(grad(u))
    points = np.random.default_rng(3).uniform(0.1, 0.9, (3, gdim))
    y = ExpressionValues(form, points).value(u).reshape(3, gdim)
    _, mine, cells = owned_points(domain, points)
    for i, cell in zip(mine, cells, strict=True):
        nodes = domain.geometry.x[domain.geometry.dofmap[cell], :gdim]
        reference = domain.geometry.cmap.pull_back(points[i : i + 1], nodes)
        alone = fem.Expression(form, reference, comm=MPI.COMM_SELF).eval(domain, np.array([cell], dtype=np.int32))
        close(y[i], np.ravel(alone), 1e-11)


class Cubic:
    """A state of quadratic elements."""

    @staticmethod
    def problem(domain):
        return relax.pdes.poisson.source(domain, degree=2)


class TestAtPoints(Cubic, ObservableContract):
    make = staticmethod(lambda p: ExpressionValues(exp(p.state) * grad(p.state), POINTS))


class TestInterpolated(Cubic, ObservableContract):
    """On a space of continuous fields, where the flux jumps between cells."""

    make = staticmethod(
        lambda p: ExpressionField(exp(p.state) * grad(p.state), fem.functionspace(p.mesh, ("Lagrange", 1, (2,))))
    )


class TestProjected(Cubic, ObservableContract):
    make = staticmethod(
        lambda p: ExpressionField(
            exp(p.state) * grad(p.state)[0], fem.functionspace(p.mesh, ("Lagrange", 1)), projection=True
        )
    )


def test_fields():
    """Of what lies in the space both are exact, in the order of FieldValues; the projection is the best in L2."""
    domain = meshes.unit_square(3)
    u, x = fem.Function(fem.functionspace(domain, ("Lagrange", 2))), ufl.SpatialCoordinate(domain)
    u.interpolate(lambda x: x[0] ** 2 + x[0] * x[1])
    V = fem.functionspace(domain, ("DG", 1, (2,)))
    exact = fem.Function(V)
    exact.interpolate(lambda x: np.array([2.0 * x[0] + x[1], x[0]]))
    expected = FieldValues(V).value(exact)
    close(ExpressionField(grad(u), V).value(u), expected, 1e-12)
    close(ExpressionField(grad(u), V, projection=True).value(u), expected, 1e-12)
    W = fem.functionspace(domain, ("DG", 0))
    best = fem.Function(W)
    best.x.array[:] = SpaceLayout(W).spread(ExpressionField(u**2 * x[0], W, projection=True).value(u))
    gap = fem.assemble_vector(fem.form((best - u**2 * x[0]) * ufl.TestFunction(W) * dx)).array
    assert np.abs(gap).max(initial=0.0) < 1e-14


def diffusion(domain):
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, m, a = fem.Function(V), fem.Function(fem.functionspace(domain, ("Lagrange", 1))), fem.Constant(domain, 1.0)
    v, d = ufl.TestFunction(V), fem.Function(fem.functionspace(domain, ("DG", 0)))
    d.x.array[:] = 1.0
    F = (inner(exp(m) * grad(u), grad(v)) + u**3 * v - a * v) * dx
    return relax.Problem(residual=F, state=u, controls=[m, a], bcs=[relax.clamp_boundary(V)], name="flux"), d


def fluxes(problem, d):
    """The flux with its coefficient, at points and as fields."""
    u, (m, a) = problem.state, problem.controls
    flux = d * exp(m) * grad(u) + a**2 * m * grad(m)
    V, W = (fem.functionspace(problem.mesh, (*family, (2,))) for family in (("Lagrange", 1), ("DG", 0)))
    return Stack([ExpressionValues(flux, POINTS), ExpressionField(flux, V), ExpressionField(flux, W, projection=True)])


@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_derivatives_of_fluxes(layout):
    problem, d = diffusion(meshes.unit_square(2))
    with ReducedMap(problem, fluxes(problem, d), layout=layout) as G:
        assert check_map(G).adjoint_gap < 1e-12
        before = G(G.present_control())
        d.x.array[:] = 2.0  # a coefficient is live
        assert not np.allclose(G(G.present_control()), before)


def test_the_same_numbers_as_on_one_rank():
    results = []
    for comm in (COMM, MPI.COMM_SELF):
        problem, d = diffusion(meshes.unit_square(2, comm=comm))
        with ReducedMap(problem, fluxes(problem, d)) as G:
            rng = np.random.default_rng(3)
            point, way = rng.uniform(0.5, 1.0, (2, G.size_in))
            seed, lin = rng.standard_normal(G.size_out), G.linearize(point)
            results.append([lin.value, lin.jvp(way), lin.vjp(seed), lin.hvp(seed, way)])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


def test_in_time():
    """At steps, and integrated, with a control of each step in the expression."""
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, before, v, q = fem.Function(V), fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
    x = ufl.SpatialCoordinate(domain)
    F = ((u - before) * v + 0.1 * inner(grad(u), grad(v)) - q * x[0] * v) * dx
    step = relax.Problem(residual=F, state=u, controls=[q], name="warming")
    evolution = relax.Evolution(step=step, previous=before, num_steps=2, initial=fem.Function(V), per_step=[q])
    seen = ExpressionValues(q**2 * u * grad(u), POINTS[:2])
    with ReducedMap(evolution, Stack([AtSteps(seen, [1, 2]), TimeIntegral(seen, 0.1)])) as G:
        assert check_map(G).adjoint_gap < 1e-12


def test_the_error_of_the_mesh():
    """What other spaces have, too: the estimate of a value at a point is that of PointValues."""
    problem, _ = diffusion(meshes.unit_square(3))
    u, totals = problem.state, []
    V = fem.functionspace(problem.mesh, ("DG", 0))
    mean = relax.Functional(u * dx)
    for seen in (relax.PointValues(u.function_space, POINTS[:1]), ExpressionValues(u, POINTS[:1])):
        with ReducedMap(problem, seen) as G, G.linearize(G.present_control()) as lin:
            totals.append(relax.dual_weighted_residual(lin, [1.0]).total)
    for seen in (mean, ExpressionField(u, V, projection=True)):
        with ReducedMap(problem, seen) as G, G.linearize(G.present_control()) as lin:
            size = 1.0 if seen is mean else 1.0 / 18.0  # the area of a cell
            totals.append(relax.dual_weighted_residual(lin, size * np.ones(G.size_out)).total)
    assert totals[1] == pytest.approx(totals[0], rel=1e-6)
    assert totals[3] == pytest.approx(totals[2], rel=1e-6)


def test_what_is_refused():
    domain, other = meshes.unit_square(2), meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, stranger = fem.Function(V), fem.Function(fem.functionspace(other, ("Lagrange", 1)))
    normal, twisted = ufl.FacetNormal(domain), bent()
    w = fem.Function(fem.functionspace(twisted, ("Lagrange", 1)))
    for make, words in (
        (lambda: ExpressionValues(u * normal, POINTS), "within cells"),
        (lambda: ExpressionValues([u, u], POINTS), "as_vector"),
        (lambda: ExpressionValues(u * stranger, POINTS), "one mesh"),
        (lambda: ExpressionValues(ufl.SpatialCoordinate(domain)[0], POINTS), "the state"),
        (lambda: ExpressionValues(w * ufl.CellVolume(twisted), POINTS), "flat sides"),
        (lambda: ExpressionField(grad(u), V), "of shape"),
        (lambda: ExpressionField(grad(u), fem.functionspace(domain, ("RT", 1))), "point values"),
        (lambda: ExpressionField(stranger, V), "the mesh of the state"),
    ):
        assert words in str(raised_everywhere(BadProblem, make))
    raised_everywhere(relax.PointsOutsideMesh, lambda: ExpressionValues(u, [(2.0, 2.0)]))
    problem = relax.pdes.poisson.source(domain)
    error = raised_everywhere(BadProblem, lambda: ReducedMap(problem, ExpressionValues(u, POINTS)))
    assert "does not stand in the expression" in str(error)
