"""Clamped boundaries: every kind of space, of tag and of value, against what a condition writes into a vector."""

import basix.ufl
import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI

from relax import meshes
from relax.base import parallel
from relax.base.fem.coefficients import as_coefficient
from relax.errors import BadInput, BadProblem
from relax.problem import boundary

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD


@pytest.fixture(scope="module")
def domain():
    return meshes.unit_square(4)


def spaces(domain, kind):
    """The space in which the state lives, and the part of it that is clamped."""
    cell = domain.basix_cell()
    P1, P2 = (basix.ufl.element("Lagrange", cell, k) for k in (1, 2))
    P2_vector = basix.ufl.element("Lagrange", cell, 2, shape=(2,))
    if kind in ("scalar", "quadratic"):
        V = fem.functionspace(domain, P1 if kind == "scalar" else P2)
        return V, V
    if kind in ("vector", "component"):
        V = fem.functionspace(domain, ("Lagrange", 1, (2,)))
        return V, V if kind == "vector" else V.sub(1)
    W = fem.functionspace(domain, basix.ufl.mixed_element([P2_vector, P1]))
    parts = {
        "mixed vector": lambda: W.sub(0),
        "mixed scalar": lambda: W.sub(1),
        "mixed component": lambda: W.sub(0).sub(1),
    }
    return W, parts[kind]()


SCALAR = ["scalar", "quadratic", "component", "mixed scalar", "mixed component"]
VECTOR = ["vector", "mixed vector"]


def written(whole, condition):
    """A function that is 7 everywhere, but for what the condition writes into it."""
    u = fem.Function(whole)
    u.x.array[:] = 7.0
    condition.set(u.x.array, None, 1.0)
    u.x.scatter_forward()
    return u


def part(u, kind):
    """The clamped part of a function on the whole space, as a UFL expression."""
    return {
        "component": lambda: u[1],
        "mixed vector": lambda: ufl.as_vector([u[0], u[1]]),
        "mixed scalar": lambda: u[2],
        "mixed component": lambda: u[1],
    }.get(kind, lambda: u)()


def gap(u, expected, m):
    """The integral of |u - expected|^2."""
    form = fem.form(ufl.inner(u - expected, u - expected) * m)
    return parallel.sum_over_ranks(COMM, np.array([fem.assemble_scalar(form)]))[0]


def values(domain, V, shape):
    """The same linear datum 1 + x + 2y (times (1, 2) for a vector) in each way a user may give it."""
    x = ufl.SpatialCoordinate(domain)
    exact = 1 + x[0] + 2 * x[1]
    function = fem.Function(boundary.value_space(V))
    if shape:
        exact = ufl.as_vector([exact, 2 * exact])

        def of_x(x):
            return np.stack([1 + x[0] + 2 * x[1], 2 * (1 + x[0] + 2 * x[1])])
    else:

        def of_x(x):
            return 1 + x[0] + 2 * x[1]

    function.interpolate(of_x)
    return exact, {"function of x": of_x, "UFL": exact, "Function": function}


@pytest.mark.parametrize("way", ["function of x", "UFL", "Function"])
@pytest.mark.parametrize("kind", SCALAR + VECTOR)
def test_varying_values(domain, kind, way):
    W, V = spaces(domain, kind)
    exact, ways = values(domain, V, kind in VECTOR)
    u = part(written(W, boundary.clamp(V, ["left", "top"], ways[way])), kind)
    assert gap(u, exact, meshes.ds(domain, ["left", "top"])) == pytest.approx(0.0, abs=1e-24)
    assert gap(u, exact, meshes.ds(domain, "right")) > 1.0


@pytest.mark.parametrize("kind", SCALAR + VECTOR)
def test_numbers(domain, kind):
    W, V = spaces(domain, kind)
    given, expected = ([3.0, 4.0], ufl.as_vector([3.0, 4.0])) if kind in VECTOR else (3.0, 3.0)
    u = part(written(W, boundary.clamp(V, "left", given)), kind)
    assert gap(u, expected, meshes.ds(domain, "left")) == pytest.approx(0.0, abs=1e-24)
    if kind in VECTOR:
        one_for_all = part(written(W, boundary.clamp(V, 1, 5)), kind)
        assert gap(one_for_all, ufl.as_vector([5.0, 5.0]), meshes.ds(domain, 1)) == pytest.approx(0.0, abs=1e-24)


def test_numbers_of_a_matrix(domain):
    T, rows = fem.functionspace(domain, ("Lagrange", 1, (2, 2))), [[1.0, 2.0], [3.0, 4.0]]
    u = written(T, boundary.clamp(T, "left", rows))
    assert gap(u, ufl.as_matrix(rows), meshes.ds(domain, "left")) == pytest.approx(0.0, abs=1e-24)


@pytest.mark.parametrize("kind", [*SCALAR, "vector"])
def test_constants_are_live(domain, kind):
    W, V = spaces(domain, kind)
    constant = fem.Constant(domain, (1.0, 2.0) if kind == "vector" else 1.0)
    condition = boundary.clamp(V, "left", constant)
    constant.value = constant.value + 2.0
    u = part(written(W, condition), kind)
    expected = ufl.as_vector([3.0, 4.0]) if kind == "vector" else 3.0
    assert gap(u, expected, meshes.ds(domain, "left")) == pytest.approx(0.0, abs=1e-24)


@pytest.mark.parametrize("kind", SCALAR + VECTOR)
def test_functions_are_live(domain, kind):
    W, V = spaces(domain, kind)
    control = fem.Function(boundary.value_space(V))
    condition = boundary.clamp(V, "left", control)
    control.x.array[:] = 2.0
    u = part(written(W, condition), kind)
    expected = ufl.as_vector([2.0, 2.0]) if kind in VECTOR else 2.0
    assert gap(u, expected, meshes.ds(domain, "left")) == pytest.approx(0.0, abs=1e-24)


def test_whole_mixed_space(domain):
    W, _ = spaces(domain, "mixed scalar")
    u = written(W, boundary.clamp_boundary(W))
    assert gap(u, ufl.as_vector([0.0, 0.0, 0.0]), meshes.ds(domain)) == 0.0
    with pytest.raises(BadInput, match="W.sub"):
        boundary.clamp(W, "left", 1.0)


def test_names_numbers_and_markers_agree(domain):
    V, _ = spaces(domain, "quadratic")
    ways = ["left", 1, [1], lambda x: np.isclose(x[0], 0.0)]
    dofs = [boundary.clamp(V, way).dof_indices()[0] for way in ways]
    for other in dofs[1:]:
        np.testing.assert_array_equal(dofs[0], other)


def test_a_marker_may_find_facets_on_one_rank_alone(domain):
    V, _ = spaces(domain, "scalar")
    u = written(V, boundary.clamp(V, lambda x: np.isclose(x[0], 0.0) & (x[1] < 0.3), 1.0))
    x, y, _ = V.tabulate_dof_coordinates().T
    np.testing.assert_array_equal(u.x.array, np.where(np.isclose(x, 0.0) & (y < 0.3), 1.0, 7.0))


def test_clamp_boundary_is_all_sides(domain):
    V, _ = spaces(domain, "quadratic")
    sides = boundary.clamp(V, ["left", "right", "bottom", "top"]).dof_indices()[0]
    np.testing.assert_array_equal(boundary.clamp_boundary(V, 2.0).dof_indices()[0], sides)


def test_facets_in_the_interior():
    domain = meshes.unit_square(4)
    middle = mesh.locate_entities(domain, 1, lambda x: np.isclose(x[0], 0.5))
    tags = mesh.meshtags(domain, 1, middle, np.full(middle.size, 1, dtype=np.int32))
    meshes.set_tags(domain, meshes.Tags(facets=tags))
    V = fem.functionspace(domain, ("Lagrange", 1))
    owned = boundary.clamp(V, 1).dof_indices()[1]
    assert parallel.total(COMM, owned) == 5


def test_every_rank_that_shares_a_dof_knows_it():
    """A dof on the clamped side may be owned by, or a ghost of, a rank that holds none of the clamped facets."""
    domain = meshes.unit_square(6)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u = written(V, boundary.clamp(V, "left", 1.0))
    points = V.tabulate_dof_coordinates()
    np.testing.assert_array_equal(u.x.array, np.where(np.isclose(points[:, 0], 0.0), 1.0, 7.0))


@pytest.mark.parametrize(
    ("tags", "match"),
    [
        ("lft", "no facet tag 'lft'"),
        (99, "no facet tag 99"),
        (lambda x: np.full(x.shape[1], False), "marks no facet"),
        ([], "expected a name"),
    ],
)
def test_tags_that_mark_nothing(domain, tags, match):
    with pytest.raises(BadInput, match=match):
        boundary.clamp(spaces(domain, "scalar")[1], tags)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        "one",
        None,
        [1.0, 2.0],
        1j,
        lambda x: np.ones((2, x.shape[1])),
        lambda x: np.where(x[0] < 0.1, np.nan, 1.0),
        lambda x: 1j * x[0],
        ufl.as_vector([1.0, 2.0]),
    ],
)
def test_bad_values(domain, value):
    with pytest.raises(BadInput):
        boundary.clamp(spaces(domain, "scalar")[1], "left", value)


def test_a_value_that_is_bad_elsewhere_is_fine(domain):
    V = spaces(domain, "scalar")[1]
    boundary.clamp(V, "left", lambda x: np.where(x[0] > 0.9, np.nan, 1.0))


def test_functions_of_other_spaces(domain):
    V = spaces(domain, "scalar")[1]
    same_element = fem.functionspace(domain, ("Lagrange", 1))
    other_mesh = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1))
    W, part_of_w = spaces(domain, "mixed vector")
    for space, value in [
        (V, fem.Function(spaces(domain, "quadratic")[0])),
        (V, fem.Function(same_element)),
        (V, fem.Function(other_mesh)),
        (part_of_w, fem.Function(W)),
        (part_of_w, fem.Function(V)),
        (V, fem.Constant(domain, (1.0, 2.0))),
        (part_of_w, fem.Constant(domain, (1.0, 2.0))),
    ]:
        with pytest.raises(BadProblem, match="value_space"):
            boundary.clamp(space, "left", value)


def test_a_space_without_dofs_on_facets(domain):
    with pytest.raises(BadInput, match="no degrees of freedom on facets"):
        boundary.clamp_boundary(fem.functionspace(domain, ("DG", 0)))


def test_as_coefficient(domain):
    V = spaces(domain, "vector")[0]
    x = ufl.SpatialCoordinate(domain)
    assert as_coefficient(x, V) is x
    held = fem.Function(V)
    assert as_coefficient(held, V) is held
    number = as_coefficient(2, V)
    assert isinstance(number, fem.Constant) and number.value.tolist() == [2.0, 2.0]
    constant_in_space = as_coefficient(lambda x: (1.0, 2.0), V)
    assert gap(constant_in_space, ufl.as_vector([1.0, 2.0]), meshes.dx(domain)) == pytest.approx(0.0, abs=1e-28)
    with pytest.raises(BadInput, match=r"\(2, \d+\)"):
        as_coefficient(lambda x: x, V)
