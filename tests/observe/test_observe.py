"""Observations: each point has one owner, in the caller's order; fields, integrals, several of them, and one's own."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem, geometry, mesh
from mpi4py import MPI

import relax
from relax import FieldValues, Functional, Observable, PointValues, ReducedMap, Stack, meshes
from relax.base import parallel
from relax.errors import BadInput, BadProblem, PointsOutsideMesh
from relax.observe import points_inside

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD

MESHES = {
    "interval": lambda comm=COMM: meshes.interval(7, comm=comm),
    "triangles": lambda comm=COMM: meshes.unit_square(4, comm=comm),
    "quadrilaterals": lambda comm=COMM: meshes.unit_square(4, cell="quadrilateral", comm=comm),
    "tetrahedra": lambda comm=COMM: meshes.unit_cube(3, comm=comm),
    "hexahedra": lambda comm=COMM: meshes.unit_cube(3, cell="hexahedron", comm=comm),
}


def linear(x):
    return 1.0 + 2.0 * x[0] - 3.0 * x[1] + 0.5 * x[2]


def points_of(domain):
    """Points inside cells, in vertices, on edges and faces, at the corners; shuffled, and one of them twice."""
    gdim, rng = domain.geometry.dim, np.random.default_rng(11)
    n = 7 if gdim == 1 else 4 if gdim == 2 else 3
    inside = rng.uniform(0.0, 1.0, (12, gdim))
    vertices = rng.integers(0, n + 1, (12, gdim)) / n
    edges = vertices.copy()
    edges[:, 0] = rng.uniform(0.0, 1.0, 12)
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * gdim)).reshape(gdim, -1).T
    points = np.concatenate([inside, vertices, edges, corners])
    points = points[rng.permutation(len(points))]
    return np.concatenate([points, points[:1]])


def state(domain, degree=1, shape=None):
    return fem.Function(fem.functionspace(domain, ("Lagrange", degree, *([shape] if shape else []))))


def owners_of(B):
    """How many ranks give each observation."""
    count = np.zeros(B.size)
    count[B.rows] += 1.0
    return COMM.allreduce(count)


# -- points ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["a vector field", "of a mixed state"])
def test_the_matrix_of_points(part):
    """Rows of B over this rank's degrees of freedom of the whole state: exact for what is quadratic."""
    domain = MESHES["triangles"]()
    if part == "a vector field":
        W = V = fem.functionspace(domain, ("Lagrange", 2, (2,)))
    else:
        cell = domain.basix_cell()
        elements = [basix.ufl.element("Lagrange", cell, 2, shape=(2,)), basix.ufl.element("Lagrange", cell, 1)]
        W = fem.functionspace(domain, basix.ufl.mixed_element(elements))
        V = W.sub(0)
    points, u = points_of(domain), fem.Function(W)
    B = PointValues(V, points)
    u.x.array[:] = np.random.default_rng(2).uniform(-1.0, 1.0, len(u.x.array))
    u.x.scatter_forward()
    (u if W is V else u.sub(0)).interpolate(lambda x: np.array([x[0] ** 2 - x[1], x[0] * x[1] + 0.5]))
    y = np.zeros(B.size)
    y[B.rows] = B.matrix @ u.x.array
    x, z = points.T
    close(parallel.sum_over_ranks(COMM, y), np.stack([x**2 - z, x * z + 0.5], axis=1).ravel(), 1e-13)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("name", MESHES)
def test_points_in_cells_and_between_them(name, degree):
    """Each point has exactly one owner, also on the border of cells and ranks, and keeps its place."""
    domain = MESHES[name]()
    u = state(domain, degree)
    points = points_of(domain)
    u.interpolate(linear)
    B = PointValues(u.function_space, points)
    assert B.size == len(points) and (owners_of(B) == 1.0).all()
    y = B.value(u)
    close(y, linear(np.pad(points, ((0, 0), (0, 3 - points.shape[1]))).T), 1e-12)
    everyone_has(y)


@pytest.mark.parametrize("name", MESHES)
def test_a_point_between_cells_has_one_value_of_a_discontinuous_field(name):
    """On any number of ranks the same cell gives the value: the one that came first in the mesh."""
    domain = MESHES[name]()
    u = fem.Function(fem.functionspace(domain, ("DG", 0)))
    u.x.array[: len(u.function_space.dofmap.list)] = 0.0
    u.x.array[u.function_space.dofmap.list[:, 0]] = domain.topology.original_cell_index
    points = points_of(domain)
    y = PointValues(u.function_space, points).value(u)
    everyone_has(y)
    alone = MESHES[name](MPI.COMM_SELF)
    places = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))
    near = geometry.compute_collisions_points(geometry.bb_tree(alone, alone.topology.dim, padding=1e-10), places)
    touching = geometry.compute_colliding_cells(alone, near, places)
    numbers = alone.topology.original_cell_index
    assert (y == [numbers[touching.links(i)].min() for i in range(len(points))]).all()
    again = PointValues(u.function_space, points[::-1]).value(u)
    assert (again == y[::-1]).all()


@pytest.mark.parametrize("name", MESHES)
def test_vectors(name):
    """Components lie side by side."""
    domain = MESHES[name]()
    gdim = domain.geometry.dim
    u = state(domain, 1, (2,))
    u.interpolate(lambda x: np.stack([linear(x), -x[0]]))
    points = points_of(domain)
    y = PointValues(u.function_space, points).value(u).reshape(len(points), 2)
    close(y[:, 0], linear(np.pad(points, ((0, 0), (0, 3 - gdim))).T), 1e-12)
    close(y[:, 1], -points[:, 0], 1e-12)


def mixed_state(domain):
    cell, gdim = domain.basix_cell(), domain.geometry.dim
    parts = [basix.ufl.element("Lagrange", cell, 2, shape=(gdim,)), basix.ufl.element("Lagrange", cell, 1)]
    W = fem.functionspace(domain, basix.ufl.mixed_element(parts))
    w = fem.Function(W)
    w.sub(0).interpolate(lambda x: np.array([linear(x) * (i + 1) for i in range(gdim)]))
    w.sub(1).interpolate(lambda x: x[0] - x[1])
    w.x.scatter_forward()
    return w


@pytest.mark.parametrize("name", ["triangles", "quadrilaterals", "tetrahedra"])
def test_parts_of_mixed_states(name):
    """A field of a mixed state, a component of such a field, and several together."""
    w = mixed_state(MESHES[name]())
    W, gdim = w.function_space, w.function_space.mesh.geometry.dim
    points = points_of(W.mesh)
    values = linear(np.pad(points, ((0, 0), (0, 3 - gdim))).T)
    velocity, pressure = PointValues(W.sub(0), points), PointValues(W.sub(1), points)
    component = PointValues(W.sub(0).sub(1), points)
    close(velocity.value(w), np.outer(values, np.arange(1.0, gdim + 1)).ravel(), 1e-12)
    close(pressure.value(w), points[:, 0] - points[:, 1], 1e-12)
    close(component.value(w), 2.0 * values, 1e-12)
    stacked = Stack([pressure, component])
    close(stacked.value(w), np.concatenate([pressure.value(w), component.value(w)]), 1e-15)
    for B in (velocity, pressure, component, stacked):
        check_derivatives(B, w)
    assert "Stack" in str(raised_everywhere(BadProblem, lambda: PointValues(W, points)))


def test_components_of_a_vector():
    u = state(meshes.unit_square(3), 2, (2,))
    u.interpolate(lambda x: np.stack([x[0], 5.0 * x[1]]))
    B = PointValues(u.function_space.sub(1), [[0.3, 0.4], [1.0, 1.0]])
    close(B.value(u), [2.0, 5.0], 1e-12)
    check_derivatives(B, u)


def check_derivatives(B, u, second=False):
    """Tangent by difference, adjoint by the inner product, second derivative by difference of adjoints."""
    V, rng = u.function_space, np.random.default_rng(5)
    n = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
    du, here = fem.Function(V), u.x.array.copy()
    # Before any rank-dependent number of draws: seeds are the same on every rank.
    dy = rng.standard_normal(B.size)
    du.x.array[:n] = rng.standard_normal(n)
    du.x.scatter_forward()
    tangent, adjoint, curved = B.tangent(u, du), B.adjoint(u, dy).copy(), B.second(u, dy, du).copy()
    everyone_has(tangent)
    assert adjoint.shape == curved.shape == (n,)
    pairing = COMM.allreduce(adjoint @ du.x.array[:n])
    assert abs(dy @ tangent - pairing) <= 1e-11 * max(np.abs(dy) @ np.abs(tangent), 1.0)
    step = 1e-4
    values, slopes = [], []
    for sign in (1.0, -1.0):
        u.x.array[:] = here + sign * step * du.x.array
        values.append(B.value(u))
        slopes.append(B.adjoint(u, dy).copy())
    u.x.array[:] = here
    # Central differences: step**2 of truncation, 1e-16 / step of rounding.
    np.testing.assert_allclose((values[0] - values[1]) / (2 * step), tangent, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose((slopes[0] - slopes[1]) / (2 * step), curved, rtol=1e-6, atol=1e-8)
    assert second == bool(COMM.allreduce(np.abs(curved).max(initial=0.0), op=MPI.MAX) > 0.0)


@pytest.mark.parametrize("name", MESHES)
def test_derivatives_of_point_values(name):
    u = state(MESHES[name](), 2)
    u.interpolate(lambda x: np.sin(x[0]))
    check_derivatives(PointValues(u.function_space, points_of(u.function_space.mesh)), u)


@pytest.mark.parametrize("name", ["tetrahedra", "hexahedra"])
@pytest.mark.parametrize("family", ["RT", "N1curl"])
def test_a_point_on_one_rank_of_elements_on_facets_and_edges(name, family):
    """All ranks number edges and faces for them, also those that have no point to evaluate at."""
    u = fem.Function(fem.functionspace(MESHES[name](), (family, 1)))
    B = PointValues(u.function_space, [[0.41, 0.43, 0.47]])
    # To interpolate numbers them, too, and must not come to the help of a rank that waits.
    COMM.Barrier()
    u.interpolate(lambda x: np.array([np.full(x.shape[1], i) for i in (1.0, 2.0, 3.0)]))
    close(B.value(u), [1.0, 2.0, 3.0], 1e-12)


def test_points_outside_are_named_on_every_rank():
    """By their places in the list and their coordinates; the first few of many."""
    V = state(meshes.unit_square(3)).function_space
    error = raised_everywhere(PointsOutsideMesh, lambda: PointValues(V, [[0.5, 0.5], [1.5, 0.25], [0.1, -2.0]]))
    text = str(error)
    assert (
        "2 of 3 points" in text and "1: (1.5, 0.25)" in text and "2: (0.1, -2.0)" in text and "(0.5, 0.5)" not in text
    )
    assert "points_inside" in text
    many = raised_everywhere(PointsOutsideMesh, lambda: PointValues(V, np.full((50, 2), 7.0)))
    assert "and 45 more" in str(many)


def test_a_hole_is_outside():
    """Not the bounding box counts, but the cells."""
    domain = meshes.disk(0.3)
    assert points_inside(domain, [[0.0, 0.0], [0.71, 0.71], [0.0, -0.95]]).tolist() == [True, False, True]


def test_the_last_digits_of_a_point_on_the_boundary():
    V = state(meshes.unit_square(3)).function_space
    assert PointValues(V, [[1.0 + 1e-13, 0.5], [-1e-14, 1.0 / 3.0]]).size == 2
    raised_everywhere(PointsOutsideMesh, lambda: PointValues(V, [[1.0 + 1e-6, 0.5]]))


@pytest.mark.parametrize("points", [[], [[0.1]], [0.1, 0.2], [[0.1, np.nan]], "here", [[0.1, 0.2, 0.3, 0.4]]], ids=str)
def test_points_of_a_wrong_kind(points):
    V = state(meshes.unit_square(2)).function_space
    error = raised_everywhere(BadInput, lambda: PointValues(V, points))
    assert str(error).startswith("points: expected")


def test_points_that_are_wrong_on_one_rank_only():
    """Every rank is told, none waits."""
    V = state(meshes.unit_square(2)).function_space
    points = [[0.5, 0.5]] if COMM.rank < COMM.size - 1 else [[0.5, np.inf]]
    assert "finite" in str(raised_everywhere(BadInput, lambda: PointValues(V, points)))


def test_one_dimension_takes_a_plain_list():
    u = state(meshes.interval(5, (0.0, 2.0)))
    u.interpolate(lambda x: 3.0 * x[0])
    close(PointValues(u.function_space, [2.0, 0.0, 0.7]).value(u), [6.0, 0.0, 2.1], 1e-12)


def test_rank_0_names_the_points():
    """Ranks that drew different random points observe rank 0's."""
    u = state(meshes.unit_square(3))
    u.interpolate(linear)
    B = PointValues(u.function_space, np.random.default_rng(COMM.rank).uniform(size=(4, 2)))
    everyone_has(B.points)
    close(B.value(u), linear(B.points.T), 1e-12)


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MESHES)
def test_field_values_and_their_coordinates(name):
    u = state(MESHES[name](), 2)
    u.interpolate(linear)
    B = FieldValues(u.function_space)
    assert B.size == u.function_space.dofmap.index_map.size_global and B.coordinates.shape == (B.size, 3)
    close(B.value(u), linear(B.coordinates.T), 1e-12)
    everyone_has(B.coordinates)
    check_derivatives(B, u)


def test_field_values_of_parts():
    w = mixed_state(meshes.unit_square(3))
    W = w.function_space
    velocity, pressure = FieldValues(W.sub(0)), FieldValues(W.sub(1))
    assert velocity.size + pressure.size == W.dofmap.index_map.size_global
    close(pressure.value(w), pressure.coordinates[:, 0] - pressure.coordinates[:, 1], 1e-12)
    close(velocity.value(w).reshape(-1, 2)[:, 1], 2.0 * linear(velocity.coordinates[::2].T), 1e-12)
    for B in (velocity, pressure, FieldValues(W)):
        check_derivatives(B, w)


# -- integrals, stacks, one's own --------------------------------------------------------------------------------------


def flux(u):
    domain = u.function_space.mesh
    return ufl.dot(ufl.grad(u), ufl.FacetNormal(domain)) * meshes.ds(domain, "right")


INTEGRALS = {
    "linear": (lambda u: u * ufl.dx, 1.0, False),
    "quadratic": (lambda u: u**2 * ufl.dx, 4.0 / 3.0, True),
    "flux": (flux, 2.0, False),
    "cosine": (lambda u: ufl.cos(u) * ufl.dx, 0.5 * np.sin(2.0), True),
}


@pytest.mark.parametrize("name", INTEGRALS)
def test_functionals(name):
    """An integral over all cells of all ranks, each counted once; also one that has no second derivative."""
    form, exact, second = INTEGRALS[name]
    u = state(meshes.unit_square(4), 2)
    u.interpolate(lambda x: 2.0 * x[0])
    J = Functional(form(u))
    assert J.size == 1
    # FFCx's quadrature of the cosine is good to 1e-6; the others are polynomials.
    assert abs(J.value(u)[0] - exact) < (1e-5 if name == "cosine" else 1e-12)
    check_derivatives(J, u, second)


def test_functionals_that_make_no_sense():
    u, other = state(meshes.unit_square(2)), state(meshes.unit_square(2))
    raised_everywhere(BadProblem, lambda: Functional(u**2))
    raised_everywhere(BadProblem, lambda: Functional(u * ufl.TestFunction(u.function_space) * ufl.dx))
    problem = relax.pdes.poisson.source(u.function_space.mesh)
    error = raised_everywhere(BadProblem, lambda: ReducedMap(problem, Functional(other * ufl.dx)))
    assert "does not stand in the form" in str(error)


def test_observations_of_another_state():
    problem = relax.pdes.poisson.source(meshes.unit_square(2))
    other = fem.functionspace(problem.mesh, ("Lagrange", 2))
    for B in (FieldValues(other), PointValues(other, [[0.5, 0.5]]), Stack([FieldValues(other)])):
        error = raised_everywhere(BadProblem, lambda B=B: ReducedMap(problem, B))
        assert "the space of the state" in str(error)


def test_stacks():
    u = state(meshes.unit_square(3))
    u.interpolate(linear)
    parts = [PointValues(u.function_space, [[0.2, 0.3]]), Functional(u**2 * ufl.dx), FieldValues(u.function_space)]
    B = Stack(parts)
    assert B.size == 2 + parts[2].size and not B.is_linear and Stack([parts[0], parts[2]]).is_linear
    close(B.value(u), np.concatenate([part.value(u) for part in parts]), 1e-15)
    check_derivatives(B, u, second=True)
    assert "at least one" in str(raised_everywhere(BadInput, lambda: Stack([])))


class Energy(Observable):
    """The sum of the cubes of all values, and no second derivative given: the default finds it."""

    size = 1

    def value(self, u):
        return parallel.sum_over_ranks(COMM, np.array([np.sum(self._owned(u) ** 3)]))

    def tangent(self, u, du):
        return parallel.sum_over_ranks(COMM, np.array([np.sum(3.0 * self._owned(u) ** 2 * self._owned(du))]))

    def adjoint(self, u, dy):
        return 3.0 * dy[0] * self._owned(u) ** 2

    @staticmethod
    def _owned(u):
        return u.x.array[: u.function_space.dofmap.index_map.size_local]


def test_an_observable_of_ones_own():
    """Three methods are enough, and the state is as it was after the default for the second derivative."""
    u = state(meshes.unit_square(3))
    u.interpolate(linear)
    before = u.x.array.copy()
    check_derivatives(Energy(), u, second=True)
    assert (u.x.array == before).all()
    problem = relax.pdes.poisson.diffusion(meshes.unit_square(4))
    with ReducedMap(problem, Energy()) as G:
        relax.check_map(G)


def test_an_empty_rank():
    """A mesh of one cell leaves ranks without any."""
    domain = mesh.create_unit_square(COMM, 1, 1, cell_type=mesh.CellType.quadrilateral)
    u = state(domain)
    u.interpolate(linear)
    B = Stack(
        [PointValues(u.function_space, [[0.5, 0.5], [1.0, 0.0]]), FieldValues(u.function_space), Functional(u * ufl.dx)]
    )
    close(B.value(u)[:2], [0.5, 3.0], 1e-12)
    check_derivatives(B, u)
