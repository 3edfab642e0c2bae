"""Densities along the scoping: mass, sign, equilibrium, a closed form, the gallery, meshes that will not do."""

from __future__ import annotations

import numpy as np
import pytest
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem
from dolfinx.mesh import CellType, create_rectangle, create_unit_cube
from mpi4py import MPI

from relax import meshes
from relax.errors import BadInput
from relax.relaxation import RelaxedLandscape, density, gallery, hopf_lax

COMM = MPI.COMM_WORLD


def field(mesh, f, degree=1):
    u = fem.Function(fem.functionspace(mesh, ("Lagrange", degree)))
    u.interpolate(f)
    return u


def wells(x):
    return 1.5 * np.sin(5.0 * x[0]) + 2.0 * x[1] ** 2 + x[0] * x[2]


def one(x):
    return np.ones(x.shape[1])


MESHES = {
    "interval": lambda: meshes.interval(40),
    "triangles": lambda: meshes.unit_square(9),
    "disk": lambda: meshes.disk(0.3),
    "squares": lambda: create_rectangle(COMM, [[0.0, 0.0], [1.0, 1.0]], [8, 8], CellType.quadrilateral),
    "tetrahedra": lambda: meshes.unit_cube(4),
    "cubes": lambda: create_unit_cube(COMM, 3, 3, 3, CellType.hexahedron),
}


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("name", MESHES)
def test_mass_sign_and_equilibrium(name):
    """exp(-u/D) at the nodes stays; any other density goes there; none is negative, however steep u is beside D."""
    mesh, D = MESHES[name](), 0.4
    u = field(mesh, wells)
    rest = density(u, [0.5, 2.0], start=lambda x: np.exp(-wells(x) / D), diffusion=D, num_steps=2)
    for rho in rest.fields[1:]:
        close(rho.x.array, rest.fields[0].x.array, 1e-12)
    far = density(u, [1e5], start=lambda x: 1.0 * (x[0] > 0.5), diffusion=D, num_steps=12)
    close(far.fields[-1].x.array, rest.fields[0].x.array, 1e-6)
    steep = density(u, [0.1, 1.0], start=lambda x: 1.0 * (x[0] > 0.5), diffusion=1e-4, num_steps=3)
    for found in (far, steep):
        assert np.abs(found.mean(one) - 1.0).max() < 1e-12
        assert min(rho.x.array.min() for rho in found.fields) >= 0.0
    assert steep.mean(wells)[2] < steep.mean(wells)[0]


@pytest.mark.ranks(1, 2, 3)
def test_the_closed_form_of_a_parabola():
    """Mean m exp(-s) and variance D + (v - D) exp(-2s), at first order in the steps; D of diffusion, not 2 D."""
    mesh, D, m, v = meshes.interval(160, (-3.0, 3.0)), 0.1, 1.2, 0.04
    u = field(mesh, lambda x: 0.5 * x[0] ** 2)
    s = np.array([0.0, 0.4, 1.0])
    errors = []
    for num_steps in (20, 40):
        found = density(
            u, s, start=lambda x: np.exp(-0.5 * (x[0] - m) ** 2 / v), diffusion=D, num_steps=num_steps
        ).mean(lambda x: np.stack([x[0], x[0] ** 2]))
        everyone_has(found)
        expected = np.stack([m * np.exp(-s), D + (v - D) * np.exp(-2 * s) + (m * np.exp(-s)) ** 2], axis=1)
        errors.append(np.abs(found - expected).max())
    assert errors[1] < 8e-3 and 1.7 < errors[0] / errors[1] < 2.3


@pytest.mark.ranks(1, 2)
def test_the_same_in_the_plane():
    """Means decay as exp(-s) and E |x|² goes to 2 D, on triangles that know no direction."""
    mesh, D = meshes.disk(0.12), 0.02
    u = field(mesh, lambda x: 0.5 * (x[0] ** 2 + x[1] ** 2))
    rho = density(u, [0.5, 8.0], start=lambda x: np.exp(-20.0 * ((x[0] - 0.3) ** 2 + x[1] ** 2)), diffusion=D)
    found = rho.mean(lambda x: np.stack([x[0], x[1], x[0] ** 2 + x[1] ** 2]))
    everyone_has(found)
    assert np.abs(found[1, :2] - found[0, :2] * np.exp(-0.5)).max() < 0.01
    assert abs(found[2, 2] - 2.0 * D) < 0.004


@pytest.mark.ranks(1, 2)
def test_scoping_goes_from_most_to_least_smoothed():
    """A landscape, its fields at even times, and the first of them alone for a short while."""
    mesh, T = meshes.interval(40, (-2.0, 2.0)), 0.5
    landscape = RelaxedLandscape(
        mesh, lambda x: 0.3 * x[0] ** 2 + 0.4 * np.sin(3 * x[0]), beta=2.0, times=np.geomspace(0.05, T, 8), num_steps=2
    )
    start, how = (lambda x: np.exp(-8.0 * (x[0] - 1.0) ** 2)), {"diffusion": 0.3, "num_steps": 20}
    given = density(landscape, [3.0], start=start, **how)
    fields = [landscape.field(t) for t in np.linspace(T, 0.0, 21)]
    close(density(fields, [3.0], start=start, **how).fields[-1].x.array, given.fields[-1].x.array, 1e-10)
    backwards = density(fields[::-1], [3.0], start=start, **how)
    assert np.abs(backwards.fields[-1].x.array - given.fields[-1].x.array).max() > 0.01
    # A list is linear in between.
    half = density([fields[0], fields[-1]], [1.0], start=start, diffusion=0.3, num_steps=1).fields[-1]
    close(half.x.array, density(fields[-1], [1.0], start=start, diffusion=0.3, num_steps=1).fields[-1].x.array, 1e-12)


@pytest.mark.ranks(2, 3)
def test_same_numbers_on_any_number_of_ranks():
    def mean(comm):
        mesh = meshes.rectangle((0.0, 0.0), (1.0, 1.0), (7, 5), comm=comm)
        found = density(field(mesh, wells), [0.1, 0.4], start=one, diffusion=0.1, num_steps=3)
        return found.mean(lambda x: np.stack([x[0], x[1] ** 2]))

    together = mean(COMM)
    everyone_has(together)
    close(together, mean(MPI.COMM_SELF), 1e-12)


def test_the_gallery_of_deep_relaxation():
    """From 2.5 the viscous landscape leads to the global minimum, the inviscid one half the way, f itself nowhere."""
    x, f = gallery.rugged_parabola()
    mesh = meshes.interval(len(x) - 1, gallery.ENDS)

    def curve(values):
        return field(mesh, lambda p: np.interp(p[0], x, values))

    viscous = RelaxedLandscape(
        mesh, lambda p: np.interp(p[0], x, f), beta=1.0, times=np.geomspace(0.005, 0.2, 10), num_steps=4, degree=1
    )
    inviscid = [curve(hopf_lax(f, x, t).value) for t in np.linspace(0.1, 1e-3, 10)] + [curve(f)]
    for landscape, D, expected in [
        (viscous, 0.1, (0.04, 0.71)),
        (inviscid, 0.1, (0.73, 0.00)),
        (curve(f), 0.2, (2.43, 0.00)),
    ]:
        rho = density(
            landscape, [9.3], start=lambda p: np.exp(-0.5 * ((p[0] - 2.5) / 0.1) ** 2), diffusion=D, num_steps=100
        )
        found = rho.mean(lambda p: np.stack([p[0], np.abs(p[0] - x[f.argmin()]) < 0.5]))[-1]
        assert np.abs(found - expected).max() < 0.03, found


def sheared():
    mesh = meshes.unit_square(4)
    mesh.geometry.x[:, 0] += 0.8 * mesh.geometry.x[:, 1]
    return mesh


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landscape": lambda: field(sheared(), wells)}, "obtuse angles"),
        ({"landscape": lambda: wells}, "expected a RelaxedLandscape"),
        ({"landscape": list}, "expected a RelaxedLandscape"),
        ({"landscape": lambda: fem.Function(fem.functionspace(meshes.unit_square(2), ("DG", 0)))}, "continuous"),
        ({"landscape": lambda: field(meshes.unit_square(2), lambda x: np.nan * x[0])}, "finite values"),
        ({"start": lambda x: x[0] - 0.5}, "at least 0"),
        ({"start": lambda x: np.nan * x[0]}, "at least 0"),
        ({"start": 0.0}, "mass at the nodes"),
        ({"diffusion": 0.0}, "diffusion"),
        ({"num_steps": 0}, "num_steps"),
        ({"times": [0.0]}, "one time above 0"),
        ({"times": [1.0, 0.5]}, "increasing"),
        ({"times": "soon"}, "increasing"),
    ],
)
def test_what_will_not_do(change, message):
    given = {"landscape": lambda: field(meshes.unit_square(2), wells), "times": [1.0], "start": 1.0, "diffusion": 0.1}
    given |= change
    landscape, times = given.pop("landscape")(), given.pop("times")
    assert message in str(raised_everywhere(BadInput, lambda: density(landscape, times, **given)))


@pytest.mark.ranks(1, 2)
def test_a_mean_of_another_shape():
    rho = density(field(meshes.interval(4), lambda x: x[0]), [1.0], start=1.0, diffusion=1.0)
    raised_everywhere(BadInput, lambda: rho.mean(lambda x: np.ones(3)))
    close(rho.mean(lambda x: 2.0), [2.0, 2.0], 1e-12)
