"""Minima of relaxed landscapes, and following them as t goes to 0."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from scipy.optimize import minimize_scalar

from relax import meshes
from relax.base import parallel
from relax.errors import BadInput, PointsOutsideMesh
from relax.relaxation import RelaxedLandscape, cole_hopf, gallery, hopf_lax

COMM = MPI.COMM_WORLD


def wavy(x):
    return 0.3 * x[0] ** 2 + 0.4 * np.sin(3.0 * x[0])


def rugged(x):
    """0 at 0, with a well every pi/2: of the 20 coordinates of a start few are in the central one."""
    return 0.05 * x[0] ** 2 + 0.5 * (1.0 - np.cos(4.0 * x[0]))


def wells(x):
    """A deep narrow well at (1, 0.5) and a wide shallow one at (-0.8, -0.4)."""
    near = (x[0] - 1.0) ** 2 + (x[1] - 0.5) ** 2
    far = (x[0] + 0.8) ** 2 + (x[1] + 0.4) ** 2
    return -1.2 * np.exp(-near / 0.05) - np.exp(-far / 0.5)


@pytest.fixture(scope="module")
def line():
    landscape = RelaxedLandscape(meshes.interval(280, (-6.0, 6.0)), wavy, beta=2.0, times=np.geomspace(0.02, 1.0, 8))
    yield landscape
    landscape.close()


@pytest.fixture(scope="module")
def plane():
    mesh = meshes.rectangle((-2.0, -2.0), (2.0, 2.0), (50, 50))
    landscape = RelaxedLandscape(mesh, wells, beta=4.0, times=[0.05, 0.2], num_steps=4)
    yield landscape
    landscape.close()


# -- minimisers --------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("t", [0.0, 0.02, 0.1])
def test_minimisers_of_a_line(line, t):
    """Against minima of f and of quadrature, bracketed in turn."""

    def u(x):
        return float(wavy(np.array([x])) if t == 0.0 else cole_hopf.value(wavy, [x], t, beta=2.0)[0])

    grid = np.linspace(-5.0, 5.0, 401)
    values = np.array([u(x) for x in grid])
    lowest = np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])) + 1
    exact = [minimize_scalar(u, bracket=(grid[i - 1], grid[i], grid[i + 1]), tol=1e-10) for i in lowest]
    exact.sort(key=lambda found: found.fun)
    minima = line.minimisers(t)
    assert len(minima) == len(exact) and not minima.at_boundary.any()
    assert np.abs(minima.x[:, 0] - [m.x for m in exact]).max() < 2e-4
    assert np.abs(minima.values - [m.fun for m in exact]).max() < 5e-5
    assert np.abs(line.gradient(minima.x, t)).max() < 1e-7
    assert all(np.array_equal(minima.x, other) for other in parallel.on_each_rank(COMM, minima.x))


@pytest.mark.slow
def test_a_wide_well_wins_over_a_narrow_one(plane):
    """The deepest minimum of f is the narrow well; at t = 0.2 the wide one is, and the narrow one may be gone."""
    first = plane.minimisers(0.0)
    # The narrow well is some three cells wide.
    assert np.abs(first.x[0] - [1.0, 0.5]).max() < 5e-3 and first.values[0] == pytest.approx(-1.2, abs=5e-3)
    assert np.abs(first.x[1] - [-0.8, -0.4]).max() < 1e-3
    later = plane.minimisers(0.2)
    assert np.abs(later.x[0] - [-0.8, -0.4]).max() < 0.05
    # Without viscosity the deepest one stays the deepest.
    axis = np.linspace(-2.0, 2.0, 81)
    u = hopf_lax(wells(np.stack(np.meshgrid(axis, axis, indexing="ij"))), [axis, axis], 0.2).value
    i, j = np.unravel_index(u.argmin(), u.shape)
    assert (axis[i], axis[j]) == pytest.approx((1.0, 0.5))


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_minima_at_walls_and_of_plains():
    mesh = meshes.unit_square(6)
    # Downhill to each corner, and so over each border between ranks from either side.
    for a, b in ((1.0, 2.0), (-1.0, 2.0), (1.0, -2.0), (-1.0, -2.0)):
        with RelaxedLandscape(
            mesh, lambda x, a=a, b=b: a * x[0] + b * x[1], beta=1.0, times=[0.1], num_steps=1
        ) as slope:
            minima = slope.minimisers(0.0)
            assert minima.at_boundary.tolist() == [True] and np.allclose(minima.x, [[a < 0.0, b < 0.0]])
            assert minima.values[0] == pytest.approx(min(a, 0.0) + min(b, 0.0), abs=1e-12)
    with RelaxedLandscape(mesh, 1.0, beta=1.0, times=[0.1], num_steps=1) as plain:
        assert len(plain.minimisers(0.0)) == len(plain.minimisers(0.1)) == 1
    cube = meshes.unit_cube(4)
    with RelaxedLandscape(cube, lambda x: np.sum((x - 0.4) ** 2, axis=0), beta=1.0, times=[0.1], num_steps=1) as bowl:
        minima = bowl.minimisers(0.0)
        assert len(minima) == 1 and np.abs(minima.x - 0.4).max() < 1e-8


# -- descents ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_a_rugged_landscape_in_20_dimensions(beta):
    """One line serves all coordinates of a separable f. Walls where a hill of slope 2 is not seen from [-6, 6]."""
    x0 = np.random.default_rng(0).uniform(-6.0, 6.0, (200, 20))
    mesh = meshes.interval(601, (-18.0, 18.1))  # no node at the minimum
    with RelaxedLandscape(mesh, rugged, beta=beta, times=np.geomspace(0.02, 2.0, 15), num_steps=4) as landscape:
        found = landscape.descend(x0.reshape(-1, 1), np.geomspace(2.0, 0.02, 200))
    f = found.values.reshape(200, 20).sum(axis=1)
    assert f.max() < 1e-6
    assert np.allclose(f, rugged(found.x.T).reshape(200, 20).sum(axis=1), atol=1e-15)


def test_what_gradient_descent_and_colder_relaxations_make_of_it():
    x = np.random.default_rng(0).uniform(-6.0, 6.0, (200, 20))
    for _ in range(2000):
        x -= 0.05 * (0.1 * x + 2.0 * np.sin(4.0 * x))
    assert rugged(x.reshape(1, -1)).reshape(200, 20).sum(axis=1).mean() > 5.0


def test_one_step_goes_to_the_mean_of_the_gibbs_measure(line):
    x = np.linspace(-2.0, 2.0, 9)[:, None]
    found = line.descend(x, [1.0], path=True)
    assert found.path.shape == (2, 9, 1) and np.array_equal(found.path[0], x)
    assert np.abs(found.x - cole_hopf.gibbs(wavy, x, 1.0, beta=2.0).mean).max() < 1e-3
    half = line.descend(x, [1.0], rate=0.5)
    assert np.allclose(half.x, 0.5 * (x + found.x)) and half.path is None
    assert np.array_equal(line.descend(x, [0.0]).x, x)


def test_all_starts_of_a_line_end_in_the_global_minimum(line):
    found = line.descend(np.linspace(-4.0, 4.0, 33), 60)
    least = line.minimisers(0.0)
    assert len(least) == 2
    # At the last time, t = 0.02, the minimum is away from that of f by about t f'''/(2 beta f'').
    assert np.abs(found.x - least.x[0]).max() < 0.05
    assert np.allclose(found.values, wavy(found.x.T)) and found.times.shape == (60,)
    assert found.times[0] == 1.0 and found.times[-1] == pytest.approx(0.02)
    # Without relaxation to begin with, each start goes to the minimum of its own valley.
    stuck = line.descend(np.linspace(-4.0, 4.0, 33), [0.02], steps=600).x
    away = np.abs(stuck - line.minimisers(0.02).x.T)
    assert away.min(axis=1).max() < 1e-6 and len(np.unique(away.argmin(axis=1))) == 2


@pytest.mark.slow
def test_a_descent_in_the_plane_does_not_end_in_the_narrow_well(plane):
    starts = np.random.default_rng(1).uniform(-1.9, 1.9, (30, 2))
    found = plane.descend(starts, np.linspace(0.2, 0.05, 60))
    in_wide = np.linalg.norm(found.x - [-0.8, -0.4], axis=1) < 0.1
    nearer = np.linalg.norm(starts - [-0.8, -0.4], axis=1) < 1.0
    assert in_wide[nearer].all() and nearer.sum() > 3


def test_steps_that_would_leave_the_mesh():
    """-2x² with a slope that leads out: clipped at the wall of a box, halved at that of a disk."""
    with RelaxedLandscape(
        meshes.interval(40, (-1.0, 1.0)), lambda x: -2.0 * x[0] ** 2, beta=1.0, times=[0.3], route="direct"
    ) as line:
        found = line.descend([0.5], [0.3] * 10, rate=8.0)
        assert found.x[0, 0] == pytest.approx(1.0)
    disk = meshes.disk(0.2)
    with RelaxedLandscape(disk, lambda x: -(x[0] ** 2) - x[1] ** 2, beta=1.0, times=[0.3], num_steps=2) as hill:
        starts = np.array([[0.5, 0.5], [-0.7, 0.1], [0.0, -0.2]])
        found = hill.descend(starts, [0.3] * 20, rate=4.0)
        assert hill.contains(found.x).all()
        assert (np.linalg.norm(found.x, axis=1) > np.linalg.norm(starts, axis=1)).all()


def test_torch_starts_give_torch_ends(line):
    torch = pytest.importorskip("torch")
    x = torch.linspace(-2.0, 2.0, 5)[:, None].requires_grad_()
    found = line.descend(x, [1.0, 0.5], path=True)
    assert isinstance(found.x, torch.Tensor) and found.x.dtype == torch.float32 and not found.x.requires_grad
    assert found.path.shape == (3, 5, 1) and isinstance(found.values, torch.Tensor)
    assert np.allclose(found.x.numpy(), line.descend(x.detach().numpy(), [1.0, 0.5]).x, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"schedule": []}, "schedule"),
        ({"schedule": [1.5]}, "schedule: expected times between 0 and 1"),
        ({"schedule": [-0.1]}, "schedule"),
        ({"schedule": 0}, "schedule"),
        ({"schedule": [0.1], "rate": 0.0}, "rate"),
        ({"schedule": [0.1], "steps": 0}, "steps"),
    ],
)
def test_mistakes(line, how, message):
    with pytest.raises(BadInput, match=message):
        line.descend([0.0], **how)


@pytest.mark.ranks(1, 2)
def test_starts_outside_are_named(line):
    with pytest.raises(PointsOutsideMesh, match=r"1: \(9.0,\)"):
        line.descend([0.0, 9.0], [0.1])


# -- the gallery -------------------------------------------------------------------------------------------------------


def test_gallery_of_deep_relaxation():
    """32, 1, 5, 1 local minima; the curves against quadrature with mirrored walls, and against all pairs."""
    found = gallery.deep_relaxation()
    assert found.minima == (32, 1, 5, 1)
    x, f = found.x, found.f
    assert x[f.argmin()] == pytest.approx(-0.162, abs=1e-3) and x[found.viscous.argmin()] == pytest.approx(
        -0.15, abs=0.02
    )
    assert x[found.hopf_lax.argmin()] == x[f.argmin()]
    kernel = sum(np.exp(-((x[:, None] - y) ** 2) / 0.4) for y in (x, -6.0 - x, 6.0 - x)) / np.sqrt(0.4 * np.pi)
    kernel *= x[1] - x[0]
    kernel[:, [0, -1]] *= 0.5
    assert np.abs(found.viscous + np.log(kernel @ np.exp(-f))).max() < 5e-3
    assert np.abs(found.heat - kernel @ f).max() < 2e-2  # backward Euler in 40 steps
    assert np.array_equal(found.hopf_lax, (f + (x[:, None] - x) ** 2 / 0.2).min(axis=1)) or np.allclose(
        found.hopf_lax, (f + (x[:, None] - x) ** 2 / 0.2).min(axis=1), atol=1e-12
    )
    assert list(found.curves)[0] == "f" and len(found.curves) == 4
    assert gallery.local_minima([3.0, 1.0, 2.0, 0.0, 1.0, -5.0]) == 2
