"""Generators and tags of meshes, against closed forms."""

import math

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from mesh_helpers import (
    COMM,
    coordinates,
    measure,
    num_cells,
)
from mpi4py import MPI

from relax import meshes
from relax.base import parallel
from relax.base.fem import compat
from relax.errors import BadInput

pytestmark = pytest.mark.ranks(1, 2, 3)

# generators


def test_interval_ends():
    domain = meshes.interval(5, (1.0, 3.0))
    assert measure(domain, meshes.dx(domain)) == pytest.approx(2.0)
    for tag, x in (("left", 1.0), ("right", 3.0)):
        assert measure(domain, meshes.ds(domain, tag)) == pytest.approx(1.0)
        np.testing.assert_allclose(coordinates(domain, meshes.facets(domain, tag))[:, 0], x)


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
def test_rectangle_sides(cell):
    domain = meshes.rectangle((-1.0, 0.0), (2.0, 0.5), (4, 3), cell=cell)
    assert domain.topology.cell_name() == cell
    lengths = {"left": 0.5, "right": 0.5, "bottom": 3.0, "top": 3.0}
    assert meshes.tags_of(domain).facet_names == {"left": 1, "right": 2, "bottom": 3, "top": 4}
    for tag, length in lengths.items():
        assert measure(domain, meshes.ds(domain, tag)) == pytest.approx(length)
    assert measure(domain, meshes.ds(domain, ["left", 3])) == pytest.approx(3.5)
    assert measure(domain, meshes.ds(domain)) == pytest.approx(7.0)


@pytest.mark.parametrize("cell", ["tetrahedron", "hexahedron"])
def test_unit_cube_sides(cell):
    domain = meshes.unit_cube(2, cell=cell)
    axes = {"left": (0, 0), "right": (0, 1), "bottom": (2, 0), "top": (2, 1), "front": (1, 0), "back": (1, 1)}
    for tag, (axis, place) in axes.items():
        assert measure(domain, meshes.ds(domain, tag)) == pytest.approx(1.0)
        np.testing.assert_allclose(coordinates(domain, meshes.facets(domain, tag))[:, axis], place, atol=1e-14)


def test_unit_square_counts():
    assert num_cells(meshes.unit_square(3)) == 18
    assert num_cells(meshes.unit_square(3, cell="quadrilateral")) == 9


def test_generators_on_a_communicator_of_one_rank():
    domain = meshes.unit_square(2, comm=MPI.COMM_SELF)
    assert meshes.facets(domain, "left").size == 2


def test_disk_converges():
    """A polygon inscribed in a circle: its area is wrong by O(h^2)."""
    errors = []
    for h in (0.4, 0.2, 0.1):
        domain = meshes.disk(h, radius=2.0, centre=(1.0, -1.0))
        errors.append(4 * math.pi - measure(domain, meshes.dx(domain, "disk")))
        assert measure(domain, meshes.ds(domain, "boundary")) == pytest.approx(4 * math.pi, rel=h**2)
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, 2.0, atol=0.3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: meshes.unit_square(0),
        lambda: meshes.unit_square(2.5),
        lambda: meshes.unit_square(2, cell="hexagon"),
        lambda: meshes.unit_cube(2, cell="triangle"),
        lambda: meshes.interval(3, (1.0, 1.0)),
        lambda: meshes.rectangle((0, 0), (1, float("nan")), (1, 1)),
        lambda: meshes.disk(0.0),
    ],
)
def test_generators_refuse(make):
    with pytest.raises(BadInput, match="expected"):
        make()


@pytest.mark.parametrize("make", [lambda: meshes.unit_square(1), lambda: meshes.interval(1), lambda: meshes.disk(1.0)])
def test_fewer_cells_than_ranks(make):
    domain = make()
    assert measure(domain, meshes.dx(domain)) > 0.9
    for tag in meshes.tags_of(domain).facet_names:
        assert parallel.any_rank(COMM, meshes.facets(domain, tag).size > 0)


# tags


def test_names_and_numbers_are_one():
    domain = meshes.unit_square(3)
    for name, number in meshes.tags_of(domain).facet_names.items():
        np.testing.assert_array_equal(meshes.facets(domain, name), meshes.facets(domain, number))
    both = meshes.facets(domain, ["left", 2, "left"])
    np.testing.assert_array_equal(both, np.union1d(meshes.facets(domain, 1), meshes.facets(domain, "right")))


def test_tags_reach_the_spaces_of_the_mesh():
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1, (2,)))
    for space in (V, V.sub(0), V.sub(0).collapse()[0], fem.Function(V).function_space):
        assert meshes.tags_of(space.mesh).facets is not None


@pytest.mark.parametrize("tag", ["lft", 17, ["left", "lft"], ["left", 17]])
def test_unknown_tag_lists_those_there_are(tag):
    with pytest.raises(BadInput, match=r"1 \('left'\), 2 \('right'\), 3 \('bottom'\), 4 \('top'\)"):
        meshes.facets(meshes.unit_square(2), tag)


@pytest.mark.parametrize("tags", [[], True, 1.5, [None]])
def test_what_is_no_tag(tags):
    with pytest.raises(BadInput, match="expected a name, a number"):
        meshes.facets(meshes.unit_square(2), tags)


def test_untagged():
    domain = meshes.unit_square(2)
    with pytest.raises(BadInput, match="no cell tags"):
        meshes.dx(domain, "matrix")
    bare = mesh.create_unit_square(COMM, 2, 2)
    with pytest.raises(BadInput, match="no facet tags"):
        meshes.ds(bare, 1)
    assert measure(bare, meshes.ds(bare)) == pytest.approx(4.0)


def test_set_tags():
    domain = mesh.create_unit_square(COMM, 4, 4)
    left_half = mesh.locate_entities(domain, 2, lambda x: x[0] <= 0.5)
    values = mesh.meshtags(domain, 2, left_half, np.full(left_half.size, 9, dtype=np.int32))
    meshes.set_tags(domain, meshes.Tags(cells=values, cell_names={"half": 9}))
    assert measure(domain, meshes.dx(domain, "half")) == pytest.approx(0.5)
    with pytest.raises(BadInput, match="dimension 1"):
        meshes.set_tags(domain, meshes.Tags(facets=values))


def test_tagged_and_plain_measures_in_one_form():
    domain = meshes.unit_square(2)
    one = fem.Constant(domain, 1.0)
    mixed = one * meshes.ds(domain, "left") + one * ufl.ds(domain=domain) + one * ufl.dx(domain=domain)
    form = fem.form(compat.one_subdomain_data(mixed))
    total = parallel.sum_over_ranks(COMM, np.array([fem.assemble_scalar(form)]))[0]
    assert total == pytest.approx(1.0 + 4.0 + 1.0)


def test_ds_in_the_interior_is_refused():
    domain = meshes.unit_square(4)
    middle = mesh.locate_entities(domain, 1, lambda x: np.isclose(x[0], 0.5))
    values = mesh.meshtags(domain, 1, middle, np.full(middle.size, 1, dtype=np.int32))
    meshes.set_tags(domain, meshes.Tags(facets=values))
    with pytest.raises(BadInput, match="on the boundary"):
        meshes.ds(domain, 1)
