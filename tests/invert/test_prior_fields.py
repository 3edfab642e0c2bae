"""Whittle–Matérn priors with several lengths, fields of them, on DG spaces, and by hIPPYlib's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from petsc4py import PETSc

from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput
from relax.invert.priors import SmoothnessPrior

COMM = MPI.COMM_WORLD
# Turned by half a radian, an axis a row.
AXES = np.array([[np.cos(0.5), np.sin(0.5)], [-np.sin(0.5), np.cos(0.5)]])
TRIANGLE, QUADRILATERAL = mesh.CellType.triangle, mesh.CellType.quadrilateral


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def space(element, n, *, cell=TRIANGLE, comm=COMM, dim=2, shape=()):
    domain = mesh.create_interval(comm, n, (0.0, 1.0)) if dim == 1 else mesh.create_unit_square(comm, n, n, cell)
    return fem.functionspace(domain, (*element, shape))


def nearest(V, *points):
    x = SpaceLayout(V).coordinates
    return [int(np.argmin(((x[:, : len(p)] - np.array(p)) ** 2).sum(axis=1))) for p in points]


def dense(prior):
    return prior.covariance(np.eye(prior.size))


def assembled(form):
    """A bilinear form as a dense matrix, by plain DOLFINx on one rank."""
    return fem.assemble_matrix(fem.form(form)).to_dense()


def matern(r):
    """The correlation in two dimensions, where ν = 1, at r lengths."""
    z = np.sqrt(8.0) * r
    return z * scipy.special.kv(1, z)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    "given",
    [
        {"length": [0.3, 0.12], "angle": 0.5},
        {"length": AXES.T @ np.diag([0.3, 0.12]) @ AXES},
    ],
    ids=["angle", "matrix"],
)
@pytest.mark.parametrize("element", [("Lagrange", 1), ("DG", 1)], ids=["P1", "DG1"])
def test_lengths_along_turned_axes(given, element):
    V = space(element, 32 if element[0] == "Lagrange" else 24)
    prior = SmoothnessPrior(V, std=1.5, **given)
    centre = np.array([0.5, 0.5])
    places = nearest(V, centre, *(centre + s * axis for axis, s in zip(AXES, (0.3, 0.12), strict=True)))
    x = SpaceLayout(V).coordinates[places, :2]
    columns = prior.covariance(np.eye(prior.size)[places])[:, places]
    std = np.sqrt(np.diag(columns))
    assert std == pytest.approx(1.5, rel=0.05)
    for i in (1, 2):
        lengths = np.hypot(*(AXES @ (x[i] - x[0]) / [0.3, 0.12]))
        assert columns[0, i] / (std[0] * std[i]) == pytest.approx(matern(lengths), abs=0.02)
    prior.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(("element", "n"), [(("Lagrange", 1), 200), (("DG", 0), 200), (("DG", 1), 80)])
def test_a_length_that_varies_in_one_dimension_is_a_change_of_coordinates(element, n):
    """With lengths 0.1 + 0.2 x the field is stationary in y = 5 log(1 + 2 x)."""
    V = space(element, n, dim=1)
    prior = SmoothnessPrior(V, length=lambda x: 0.1 + 0.2 * x[0], std=1.0)
    x = SpaceLayout(V).coordinates[:, 0]
    y = 5.0 * np.log(1.0 + 2.0 * x)
    C = dense(prior)
    std = np.sqrt(np.diag(C))
    inside = (y > y.min() + 1.5) & (y < y.max() - 1.5)
    assert np.abs(std[inside] - 1.0).max() < 0.01
    z = np.sqrt(12.0) * np.abs(y[:, None] - y)
    exact = (1.0 + z) * np.exp(-z)
    assert np.abs(C - exact)[np.ix_(inside, inside)].max() < 0.02
    # Beside the walls Robin's condition holds it nearly flat.
    assert 0.98 < std.min() and std.max() < 1.11
    prior.close()


@pytest.mark.ranks(1, 2)
def test_a_standard_deviation_that_varies_scales_the_field():
    V = space(("Lagrange", 1), 8)
    x = ufl.SpatialCoordinate(V.mesh)
    one = SmoothnessPrior(V, length=0.4, std=1.0)
    scaled = SmoothnessPrior(V, length=0.4, std=1.0 + x[0] * x[1])
    at = SpaceLayout(V).coordinates
    s = 1.0 + at[:, 0] * at[:, 1]
    assert np.allclose(dense(scaled), s[:, None] * dense(one) * s, rtol=0, atol=1e-13)
    assert np.allclose(scaled.sample(3), s * one.sample(3), rtol=0, atol=1e-13)
    # A length for each axis that is the same is one length.
    both = SmoothnessPrior(V, length=[0.4, 0.4], std=1.0)
    by_field = SmoothnessPrior(V, length=[0.4 * (1.0 + x[0]) / (1.0 + x[0]), 0.4], std=lambda x: 1.0 + 0.0 * x[0])
    assert np.allclose(dense(both), dense(one), rtol=0, atol=1e-13)
    assert np.allclose(dense(by_field), dense(one), rtol=0, atol=1e-13)


def test_finite_volumes_are_those_of_the_textbook():
    """On squares: five-point differences, cell volumes, and half a cell more to the wall."""
    n, length = 6, 0.5
    V = space(("DG", 0), n, cell=QUADRILATERAL)
    prior = SmoothnessPrior(V, length=length, std=1.0)
    kappa, h = np.sqrt(8.0) / length, 1.0 / n
    tau = 1.0 / (np.sqrt(4.0 * np.pi) * kappa)
    beta = 0.5508819467298667 * kappa
    line = np.diag(np.full(n, 2.0)) - np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1)
    line[0, 0] = line[-1, -1] = 1.0 + h * beta / (1.0 + 0.5 * h * beta)
    eye = np.eye(n)
    A = tau * (kappa**2 * h**2 * np.eye(n * n) + np.kron(line, eye) + np.kron(eye, line))
    exact = h**2 * np.linalg.inv(A @ A)
    # The layout's order is by x, then y, as that of the product.
    assert np.allclose(dense(prior), exact, rtol=0, atol=1e-12)
    prior.close()


@pytest.mark.parametrize(
    ("element", "cell", "n", "tolerance"),
    [
        (("DG", 0), TRIANGLE, 20, 0.03),
        (("DG", 0), QUADRILATERAL, 24, 0.05),
        (("DG", 1), QUADRILATERAL, 14, 0.05),
        (("DG", 2), TRIANGLE, 8, 0.05),
    ],
    ids=["DG0", "DG0 boxes", "DG1 boxes", "DG2"],
)
def test_dg_fields_have_the_std_asked_for(element, cell, n, tolerance):
    V = space(element, n, cell=cell)
    prior = SmoothnessPrior(V, length=0.25, std=2.0)
    inside, wall = nearest(V, (0.5, 0.5), (0.0, 0.5))
    columns = prior.covariance(np.eye(prior.size)[[inside, wall]])
    assert np.sqrt(columns[0, inside]) == pytest.approx(2.0, rel=tolerance)
    assert np.sqrt(columns[1, wall]) == pytest.approx(2.0, rel=0.1)
    prior.close()


@pytest.mark.parametrize("boundary", ["robin", "neumann"])
@pytest.mark.parametrize(("element", "theta"), [(("Lagrange", 1), None), (("Lagrange", 2), [[2.0, 0.5], [0.5, 1.0]])])
def test_gamma_and_delta_are_those_of_hippylib(element, theta, boundary):
    """Its BiLaplacianPrior, by plain DOLFINx and dense algebra: A = γ K + δ M + γ √(δ/γ)/1.42 B, R = A M⁻¹ A."""
    V = space(element, 5)
    gamma, delta = 0.1, 0.8
    prior = SmoothnessPrior(V, gamma=gamma, delta=delta, theta=theta, boundary=boundary, mean=1.0)
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    T = ufl.as_matrix([[1.0, 0.0], [0.0, 1.0]] if theta is None else theta)
    K, M, B = (assembled(f) for f in (ufl.inner(T * ufl.grad(u), ufl.grad(v)) * ufl.dx, u * v * ufl.dx, u * v * ufl.ds))
    A = gamma * K + delta * M + (boundary == "robin") * gamma * np.sqrt(delta / gamma) / 1.42 * B
    R = A @ np.linalg.solve(M, A)
    # From DOLFINx's order on one rank to that of control vectors.
    order = np.rint(SpaceLayout(V).gather(np.arange(len(M), dtype=float))).astype(int)
    R = R[np.ix_(order, order)]
    assert np.allclose(prior.precision(np.eye(len(M))), R, rtol=0, atol=1e-11 * np.abs(R).max())
    C = np.linalg.inv(R)
    assert np.allclose(dense(prior), C, rtol=0, atol=1e-11 * np.abs(C).max())
    L = prior.color(np.eye(len(M))) - prior.mean
    assert np.allclose(L.T @ L, C, rtol=0, atol=1e-11 * np.abs(C).max())
    m = prior.sample(4)
    assert prior.cost(m) == pytest.approx(0.5 * (m - 1.0) @ R @ (m - 1.0), rel=1e-11)
    prior.close()


FIELDS = {"length": lambda x: 0.2 + x[0], "std": lambda x: 1.0 + x[1]}
TURNED = {"length": [0.5, 0.2], "angle": lambda x: x[0], "std": lambda x: 1.0 + x[1]}
CASES = [
    pytest.param(("DG", 0), {"length": 0.3, "std": 0.8}, (), TRIANGLE, id="DG0"),
    pytest.param(("DG", 1), TURNED, (), QUADRILATERAL, id="DG1 fields"),
    pytest.param(("DG", 1), {**FIELDS, "std": 0.8}, (2,), TRIANGLE, id="DG1 vector"),
    pytest.param(("Lagrange", 1), FIELDS, (), TRIANGLE, id="P1 fields"),
    pytest.param(("Lagrange", 2), {"gamma": 0.1, "delta": 0.8}, (), TRIANGLE, id="P2 gamma delta"),
]


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize(("element", "given", "shape", "cell"), CASES)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_methods_are_consistent_and_the_same_on_any_number_of_ranks(element, given, shape, cell, layout):
    V, alone = (space(element, 6, cell=cell, comm=c, shape=shape) for c in (COMM, MPI.COMM_SELF))
    numbering = SpaceLayout(V)

    def spread(whole):
        return whole if layout == "replicated" else numbering.spread(whole)[: numbering.num_owned]

    here = SmoothnessPrior(V, mean=2.0, layout=layout, **given)
    there = SmoothnessPrior(alone, mean=2.0, **given)
    x = there.sample(7)
    mine = spread(x)
    assert np.allclose(here.sample(7), mine, rtol=0, atol=1e-11)
    assert here.cost(mine) == pytest.approx(there.cost(x), rel=1e-10)
    assert np.allclose(here.covariance(mine), spread(there.covariance(x)), rtol=0, atol=1e-11)
    assert np.allclose(here.covariance(here.precision(mine)), mine, rtol=0, atol=1e-9)
    assert np.allclose(here.color(here.whiten(mine)), mine, rtol=0, atol=1e-10)
    assert np.allclose(here.color(here.color_adjoint(mine)) - here.mean, here.covariance(mine), rtol=0, atol=1e-10)
    assert np.allclose(here.gradient(mine), here.precision(mine - here.mean), rtol=1e-10, atol=1e-9)
    here.close()
    there.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"length": 0.2}, "either length and std, or gamma and delta"),
        ({"length": 0.2, "std": 1.0, "gamma": 1.0}, "got length, std, gamma"),
        ({"length": [0.2], "std": 1.0}, "expected one number, or 2"),
        ({"length": [0.2, -1.0], "std": 1.0}, r"length\[1\]: expected a finite number above 0"),
        ({"length": [[1.0, 2.0], [2.0, 1.0]], "std": 1.0}, "expected above 0 everywhere"),
        ({"length": [[1.0, 2.0], [0.0, 1.0]], "std": 1.0}, "symmetric matrix"),
        ({"length": lambda x: x[0] - 0.5, "std": 1.0}, "length: expected above 0 everywhere"),
        ({"length": 0.2, "std": lambda x: x[0]}, "std: expected above 0 everywhere"),
        ({"length": 0.2, "std": 1.0, "angle": 0.3}, "angle: expected with a length for each axis"),
        ({"gamma": 0.1, "delta": -1.0}, "delta: expected a finite number above 0"),
        ({"gamma": 0.1, "delta": 1.0, "theta": [[1.0, 2.0], [2.0, 1.0]]}, "theta: expected above 0"),
    ],
)
def test_what_makes_no_prior(given, words):
    with pytest.raises(BadInput, match=words):
        SmoothnessPrior(space(("Lagrange", 1), 3), **given)


@pytest.mark.ranks(1, 2)
def test_what_finite_volumes_do_not_see():
    with pytest.raises(BadInput, match="see no direction"):
        SmoothnessPrior(space(("DG", 0), 3), length=[0.3, 0.5], std=1.0, angle=0.3)


@pytest.mark.ranks(2, 3)
def test_a_mesh_without_ghosts_has_no_jumps_between_ranks():
    domain = mesh.create_unit_square(COMM, 4, 4, ghost_mode=mesh.GhostMode.none)
    with pytest.raises(BadInput, match="shared_facet"):
        SmoothnessPrior(fem.functionspace(domain, ("DG", 0)), length=0.3, std=1.0)
