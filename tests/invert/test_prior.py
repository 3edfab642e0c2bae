"""Whittle-Matern priors: closed forms, consistency of the methods, the same numbers on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from dolfinx import fem, mesh
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.layout import SpaceLayout, control_layout
from relax.errors import BadInput
from relax.invert.priors import BlockPrior, IdentityPrior, SmoothnessPrior

COMM = MPI.COMM_WORLD


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def interval(n=200, comm=COMM):
    return mesh.create_interval(comm, n, (0.0, 1.0))


def square(n=12, comm=COMM, cell=mesh.CellType.triangle):
    return mesh.create_unit_square(comm, n, n, cell)


def cube(n=6, comm=COMM):
    return mesh.create_unit_cube(comm, n, n, n)


def lagrange(domain, degree=1, shape=()):
    return fem.functionspace(domain, ("Lagrange", degree, shape))


def values(V, f, layout):
    """f of x as a control vector."""
    u = fem.Function(V)
    u.interpolate(f)
    owned = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
    return control_layout(layout, V.mesh.comm, [u]).join([u.x.array[:owned]])


def spike(V, point):
    """The dual vector that picks the value at the node nearest to a point that is a node."""
    return values(V, lambda x: np.exp(-1e8 * sum((x[i] - point[i]) ** 2 for i in range(len(point)))), "replicated")


# Interior points: discretisation alone keeps these from std and from the Matern correlation at x = length, which is
# (1 + sqrt 12) exp(-sqrt 12) = 0.1397 in 1-D, sqrt 8 K_1(sqrt 8) = 0.1397 in 2-D, exp(-2) = 0.1353 in 3-D.
@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("make", "length", "centre", "beside", "tolerance", "correlation"),
    [
        (lambda: lagrange(interval(200)), 0.2, (0.5,), (0.7,), 0.005, 0.1397),
        (lambda: lagrange(square(40)), 0.2, (0.5, 0.5), (0.7, 0.5), 0.03, 0.1397),
        (lambda: lagrange(square(20), 2), 0.2, (0.5, 0.5), (0.7, 0.5), 0.05, 0.1397),
        (lambda: lagrange(square(20, cell=mesh.CellType.quadrilateral), 2), 0.2, (0.5, 0.5), (0.7, 0.5), 0.03, 0.1397),
        (lambda: lagrange(cube(12)), 1 / 3, (0.5, 0.5, 0.5), (5 / 6, 0.5, 0.5), 0.05, 0.1353),
    ],
    ids=["1-D P1", "2-D P1", "2-D P2", "2-D Q2", "3-D P1"],
)
def test_std_and_correlation_in_the_interior(make, length, centre, beside, tolerance, correlation):
    V = make()
    prior = SmoothnessPrior(V, length=length, std=1.7)
    here, there = spike(V, centre), spike(V, beside)
    column, other = prior.covariance(np.stack([here, there]))
    assert np.sqrt(here @ column) == pytest.approx(1.7, rel=tolerance)
    found = (there @ column) / np.sqrt((here @ column) * (there @ other))
    assert found == pytest.approx(correlation, abs=0.02)
    prior.close()


@pytest.mark.parametrize("make", [lambda: lagrange(interval(400)), lambda: lagrange(square(80))], ids=["1-D", "2-D"])
def test_robin_makes_the_std_on_a_flat_boundary_that_of_the_interior(make):
    V = make()
    wall = spike(V, (0.0, 0.5)[: V.mesh.geometry.dim])
    std = {}
    for boundary in ("robin", "neumann"):
        prior = SmoothnessPrior(V, length=0.2, std=1.0, boundary=boundary)
        std[boundary] = np.sqrt(wall @ prior.covariance(wall))
        prior.close()
    assert std["robin"] == pytest.approx(1.0, rel=0.03)
    assert std["neumann"] == pytest.approx(np.sqrt(2.0), rel=0.03)


SPACES = [
    pytest.param(lambda c: lagrange(interval(30, c), 3), id="1-D P3"),
    pytest.param(lambda c: lagrange(square(12, c)), id="2-D P1"),
    pytest.param(lambda c: lagrange(square(6, c), 2), id="2-D P2"),
    pytest.param(lambda c: lagrange(square(8, c), 1, (2,)), id="2-D P1 vector"),
    pytest.param(lambda c: lagrange(square(6, c, mesh.CellType.quadrilateral), 2), id="2-D Q2"),
    pytest.param(lambda c: lagrange(cube(4, c)), id="3-D P1"),
    pytest.param(lambda c: lagrange(cube(3, c), 2), id="3-D P2"),
]


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("make", SPACES)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_methods_are_mutually_consistent(make, layout):
    V = make(COMM)
    prior = SmoothnessPrior(V, length=0.3, std=0.8, mean=lambda x: 1.0 + x[0], layout=layout)
    dot = control_layout(layout, COMM, [fem.Function(V)]).dot
    x, y = prior.sample(1), prior.sample(2)
    scale = parallel.largest(COMM, float(np.abs(prior.precision(x)).max(initial=0.0)))

    assert np.allclose(prior.covariance(prior.precision(x)), x, rtol=0, atol=1e-9)
    assert np.allclose(prior.precision(prior.covariance(x)), x, rtol=0, atol=1e-9)
    assert np.allclose(prior.whiten(prior.color(x)), x, rtol=0, atol=1e-10)
    assert np.allclose(prior.color(prior.whiten(x)), x, rtol=0, atol=1e-10)
    assert dot(prior.covariance(x), y) == pytest.approx(dot(x, prior.covariance(y)), rel=1e-10)
    assert dot(prior.precision(x), y) == pytest.approx(dot(x, prior.precision(y)), rel=1e-8)
    assert np.allclose(prior.gradient(x), prior.precision(x - prior.mean), rtol=0, atol=1e-12 * scale)
    assert dot(prior.color_adjoint(x), y) == pytest.approx(dot(x, prior.color(y) - prior.mean), rel=1e-10)
    white = prior.whiten(x)
    assert prior.cost(x) == pytest.approx(0.5 * dot(white, white), rel=1e-10)
    assert prior.cost(x) == pytest.approx(0.5 * dot(x - prior.mean, prior.gradient(x)), rel=1e-10)
    assert prior.cost(prior.mean) == 0.0
    both = prior.covariance(np.stack([x, y]))
    assert np.allclose(both, [prior.covariance(x), prior.covariance(y)], rtol=0, atol=1e-12)
    prior.close()


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("make", SPACES)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_numbers_do_not_depend_on_ranks_or_layout(make, layout):
    """Against the same problem on one rank, whose vectors have the same order."""
    V, alone = make(COMM), make(MPI.COMM_SELF)
    numbering = SpaceLayout(V)

    def spread(whole):
        return whole if layout == "replicated" else numbering.spread(whole)[: numbering.num_owned]

    here = SmoothnessPrior(V, length=0.3, std=0.8, mean=lambda x: x[0], layout=layout)
    there = SmoothnessPrior(alone, length=0.3, std=0.8, mean=lambda x: x[0])
    assert np.allclose(here.mean, spread(there.mean), rtol=0, atol=1e-14)
    sample = there.sample(7)
    assert np.allclose(here.sample(7), spread(sample), rtol=0, atol=1e-11)
    assert here.cost(spread(sample)) == pytest.approx(there.cost(sample), rel=1e-11)
    assert np.allclose(here.covariance(spread(sample)), spread(there.covariance(sample)), rtol=0, atol=1e-11)
    here.close()
    there.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.slow
def test_samples_have_the_covariance_of_the_prior():
    V = lagrange(interval(24))
    prior = SmoothnessPrior(V, length=0.3, std=2.0, mean=1.0)
    n = 4000
    draws = np.stack([prior.sample(seed) for seed in range(n)])
    exact = prior.covariance(np.eye(prior.size))
    spread = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / n)
    # The entries of a sample covariance scatter by `spread`; 5 of these is beyond chance in 25 x 25 entries.
    assert (np.abs(np.cov(draws.T) - exact) < 5.0 * spread).all()
    assert (np.abs(draws.mean(axis=0) - 1.0) < 5.0 * np.sqrt(np.diag(exact) / n)).all()
    assert np.array_equal(prior.sample(3), draws[3])
    prior.close()


def test_cost_does_not_depend_on_the_mesh():
    costs = []
    for n in (100, 400):
        prior = SmoothnessPrior(lagrange(interval(n)), length=0.3, std=1.0)
        bump = values(prior.space, lambda x: np.exp(-50.0 * (x[0] - 0.5) ** 2), "replicated")
        costs.append(prior.cost(bump))
        prior.close()
    assert costs[0] == pytest.approx(costs[1], rel=2e-3)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_means(layout):
    V = lagrange(square(4), 1, (2,))
    listed = SmoothnessPrior(V, length=1.0, std=1.0, mean=[1.0, 2.0], layout=layout)
    vector = SmoothnessPrior(V, length=1.0, std=1.0, mean=np.array(listed.mean), layout=layout)
    assert np.array_equal(listed.mean, vector.mean)
    assert np.array_equal(listed.mean, values(V, lambda x: np.array([1.0 + 0 * x[0], 2.0 + 0 * x[0]]), layout))
    listed.close()
    vector.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_block_and_identity(layout):
    V = lagrange(square(5))
    field = SmoothnessPrior(V, length=0.5, std=1.0, layout=layout)
    numbers = IdentityPrior(3, std=0.5, mean=2.0, layout=layout, comm=COMM)
    prior = BlockPrior([field, numbers])
    assert parallel.total(COMM, prior.size) == (field_size(V) + 3) * (COMM.size if layout == "replicated" else 1)
    m = prior.sample(4)
    assert np.array_equal(m, prior.sample(4))
    assert prior.cost(m) == pytest.approx(field.cost(m[: field.size]) + numbers.cost(m[field.size :]))
    assert np.allclose(prior.covariance(prior.precision(m)), m)
    assert np.allclose(prior.color(prior.whiten(m)), m)
    assert np.allclose(prior.color(prior.color_adjoint(m)) - prior.mean, prior.covariance(m))
    assert np.allclose(prior.gradient(m), prior.precision(m - prior.mean))
    assert numbers.cost(numbers.mean + 0.5) == pytest.approx(1.5)
    one, other = np.split(BlockPrior([numbers, numbers]).sample(4), 2)
    assert (one != other).all()
    prior.close()


def field_size(V):
    return V.dofmap.index_map.size_global * V.dofmap.index_map_bs


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 0.0}, "length: expected a finite number above 0"),
        ({"std": -1.0}, "std: expected a finite number above 0"),
        ({"std": "one"}, "std: expected a finite number above 0"),
        ({"layout": "scattered"}, "layout: expected"),
        ({"boundary": "periodic"}, "boundary: expected"),
        ({"mean": np.zeros(3)}, "mean: expected shape"),
        ({"mean": np.nan}, "finite number"),
    ],
)
def test_bad_arguments(change, words):
    with pytest.raises(BadInput, match=words):
        SmoothnessPrior(lagrange(square(3)), **{"length": 0.2, "std": 1.0, **change})


def test_spaces_that_it_is_not_written_for():
    with pytest.raises(BadInput, match="Lagrange or DG"):
        SmoothnessPrior(fem.functionspace(square(3), ("RT", 1)), length=0.2, std=1.0)


@pytest.mark.ranks(1, 2)
def test_blocks_of_two_layouts():
    with pytest.raises(BadInput, match="same layout"):
        BlockPrior([IdentityPrior(2, std=1.0), IdentityPrior(2, std=1.0, layout="owned", comm=COMM)])


def test_an_unresolved_length_is_mentioned(caplog):
    with caplog.at_level("WARNING", logger="relax"):
        SmoothnessPrior(lagrange(square(3)), length=0.05, std=1.0).close()
    assert "correlation length" in caplog.text


def test_a_wrong_vector():
    prior = SmoothnessPrior(lagrange(square(3)), length=0.5, std=1.0)
    with pytest.raises(BadInput, match="expected shape"):
        prior.cost(np.zeros(prior.size + 1))
    prior.close()
