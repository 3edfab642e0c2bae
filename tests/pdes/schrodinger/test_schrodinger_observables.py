"""What is seen of a wave function: derivatives by the contract, values by closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, close, everyone_has
from dolfinx import fem, mesh
from observable_contract import ObservableContract
from waves import function, plane_wave, scalar_space, step, waves

import relax
from relax import ReducedMap, Stack, meshes
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.pdes.schrodinger import Density, Overlaps, Populations, energy, norm, position

# -- derivatives -------------------------------------------------------------------------------------------------------


class OnStep(ObservableContract):
    problem = staticmethod(step)


class TestOverlapsWithRealStates(OnStep):
    make = staticmethod(lambda problem: Overlaps(problem.state.function_space, waves(problem.state.function_space)))


class TestOverlapsWithComplexStates(OnStep):
    """A real and a complex one."""

    @staticmethod
    def make(problem):
        V = problem.state.function_space
        return Overlaps(V, [waves(V)[0], plane_wave(V)])


class TestOverlapsInThreeDimensions(OnStep):
    domain = staticmethod(lambda comm: meshes.unit_cube(2, comm=comm))
    make = TestOverlapsWithComplexStates.make


class TestPopulations(OnStep):
    make = staticmethod(lambda problem: Populations(problem.state.function_space, waves(problem.state.function_space)))


class TestPopulationsOfComplexStates(OnStep):
    @staticmethod
    def make(problem):
        V = problem.state.function_space
        return Populations(V, [plane_wave(V), waves(V)[1]])


class TestDensityAtNodes(OnStep):
    make = staticmethod(lambda problem: Density(problem.state.function_space))


class TestDensityAtPoints(OnStep):
    make = staticmethod(lambda problem: Density(problem.state.function_space, [(0.31, 0.42), (0.5, 0.5), (1.0, 0.0)]))


class TestNorm(OnStep):
    make = staticmethod(lambda problem: norm(problem.state))


class TestNormOnQuadrilaterals(OnStep):
    domain = staticmethod(lambda comm: meshes.unit_square(3, cell="quadrilateral", comm=comm))
    make = staticmethod(lambda problem: norm(problem.state))


class TestPosition(OnStep):
    make = staticmethod(lambda problem: position(problem.state))


class TestPositionInThreeDimensions(OnStep):
    domain = staticmethod(lambda comm: meshes.unit_cube(2, comm=comm))
    make = staticmethod(lambda problem: position(problem.state))


class TestPositionOnAnInterval(OnStep):
    domain = staticmethod(lambda comm: meshes.interval(5, comm=comm))
    make = staticmethod(lambda problem: position(problem.state))


class TestEnergy(OnStep):
    make = staticmethod(lambda problem: energy(problem.state, lambda x: 1.0 + x[0] ** 2))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_a_map_that_sees_all_of_it(layout):
    """Taylor orders, adjoints and Hessians from the psi before the step to every observable at once."""
    problem = step(meshes.unit_square(3))
    V, psi = problem.state.function_space, problem.state
    states = [*waves(V), plane_wave(V)]
    parts = [Overlaps(V, states), Populations(V, states), Density(V), norm(psi), position(psi), energy(psi, 2.0)]
    with ReducedMap(problem, Stack(parts), layout=layout) as G:
        assert relax.check_map(G).failures == []


# -- closed forms ------------------------------------------------------------------------------------------------------

BOXES = {
    "interval": lambda: meshes.interval(4),
    "triangles": lambda: meshes.unit_square(2),
    "quadrilaterals": lambda: meshes.unit_square(2, cell="quadrilateral"),
    "tetrahedra": lambda: meshes.unit_cube(2),
}
POTENTIALS = {
    "function of x": lambda V: lambda x: x[0] ** 2,
    "expression": lambda V: ufl.SpatialCoordinate(V.mesh)[0] ** 2,
    "Function": lambda V: function(scalar_space(V), lambda x: x[0] ** 2),
}


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("potential", POTENTIALS)
def test_a_polynomial(box, potential):
    """psi = x + i x^2 on unit boxes, P2: every integrand is a polynomial, so the values are exact up to rounding."""
    V = fem.functionspace(BOXES[box](), ("Lagrange", 2, (2,)))
    psi = function(V, lambda x: x[0] + 1j * x[0] ** 2)
    close(norm(psi).value(psi), [1 / 3 + 1 / 5], 1e-12)
    means = [1 / 4 + 1 / 6, *[0.5 * (1 / 3 + 1 / 5)] * (V.mesh.geometry.dim - 1)]
    close(position(psi).value(psi), means, 1e-12)
    close(energy(psi, POTENTIALS[potential](V)).value(psi), [0.5 * (1 + 4 / 3) + 1 / 5 + 1 / 7], 1e-12)
    # <1 + i x|psi> = the integral of (1 - i x) (x + i x^2) = x + x^3 + i (x^2 - x^2), and <i phi|psi> = -i <phi|psi>
    bra, turned = function(V, lambda x: 1 + 1j * x[0]), function(V, lambda x: 1j - x[0])
    real = function(scalar_space(V), lambda x: x[0])
    expected = [1 / 2 + 1 / 4, 0.0, 0.0, -(1 / 2 + 1 / 4), 1 / 3, 1 / 4]
    y = Overlaps(V, [bra, turned, real]).value(psi)
    everyone_has(y)
    close(y, expected, 1e-12)
    close(Overlaps(V, (real,)).value(psi), [1 / 3, 1 / 4], 1e-12)
    close(Populations(V, [bra, turned, real]).value(psi), [9 / 16, 9 / 16, 1 / 9 + 1 / 16], 1e-12)


def packet_errors(n, dim):
    """Errors of norm, position and energy of a Gaussian packet in the harmonic oscillator, interpolated in P2."""
    width, centre, k = 0.8, np.array([0.5, -0.3])[:dim], np.array([1.5, -0.7])[:dim]
    domain = meshes.interval(n, (-6, 6)) if dim == 1 else meshes.rectangle((-6, -6), (6, 6), (n, n))
    V = fem.functionspace(domain, ("Lagrange", 2, (2,)))

    def packet(x):
        away = sum((x[i] - centre[i]) ** 2 for i in range(dim))
        phase = sum(k[i] * x[i] for i in range(dim))
        return (np.pi * width**2) ** (-dim / 4) * np.exp(-away / (2 * width**2) + 1j * phase)

    psi, x = function(V, packet), ufl.SpatialCoordinate(domain)
    harmonic = 0.5 * ufl.dot(x, x)
    # |psi|^2 is a Gaussian of variance width^2 / 2 in each direction, and
    # |grad psi|^2 = (|x - x0|^2 / width^4 + k^2) |psi|^2.
    exact = 0.5 * (dim / (2 * width**2) + k @ k) + 0.5 * (dim * width**2 / 2 + centre @ centre)
    return np.array(
        [
            abs(norm(psi).value(psi)[0] - 1.0),
            np.abs(position(psi).value(psi) - centre).max(),
            abs(energy(psi, harmonic).value(psi)[0] - exact) / exact,
        ]
    )


@pytest.mark.parametrize("dim", [1, 2])
def test_a_gaussian_packet(dim):
    """Norm 1, position x0, energy k^2/2 + dim/(4 w^2) + (x0^2 + dim w^2/2)/2, up to the interpolation in P2.

    On uniform meshes the interpolation error of P2, cubic in each cell, is odd about the cell's middle, and the parts
    of order h^3 cancel from integrals that are quadratic in psi: order 4, so 16 for half of h, nearly reached here.
    """
    coarse, fine = packet_errors(24, dim), packet_errors(48, dim)
    assert (fine < 2e-4).all(), fine
    assert (fine <= coarse / 14.0).all(), coarse / fine


@pytest.mark.ranks(1, 2)
def test_populations_of_a_combination_of_eigenfunctions():
    """psi = sum of c_n phi_n with the box's sines: overlaps are c_n, populations |c_n|^2, and these add up to 1."""
    V = fem.functionspace(meshes.interval(48, (0.0, 2.0)), ("Lagrange", 3, (2,)))
    c = np.array([0.6, 0.48 - 0.36j, 0.3 + 0.1j, -0.2j])
    c /= np.linalg.norm(c)
    Q = scalar_space(V)
    sines = [lambda x, n=n: np.sin(n * np.pi * x[0] / 2.0) for n in (1, 2, 3, 4)]
    states = [function(Q, s) for s in sines]
    psi = function(V, lambda x: sum(a * s(x) for a, s in zip(c, sines, strict=True)))
    # Interpolants of degree 3 are off by (k h)^4 / 384 = 1.2e-5 at most, with k = 4 pi / 2 and h = 1 / 24; an overlap
    # has two of them, on a box of length 2; a population is a square of an overlap that is below 1.
    each = 2.0 * np.sqrt(2.0) * 1.23e-5
    np.testing.assert_allclose(Overlaps(V, states).value(psi).view(complex), c, atol=each)
    populations = Populations(V, states).value(psi)
    everyone_has(populations)
    np.testing.assert_allclose(populations, np.abs(c) ** 2, atol=2.0 * each)
    assert populations.sum() == pytest.approx(1.0, abs=4.0 * each)
    assert populations.sum() == pytest.approx(norm(psi).value(psi)[0], abs=4.0 * each)


@pytest.mark.ranks(1, 2)
def test_density_at_nodes_and_points():
    """|psi|^2 in the order of the scalar space; at points by evaluating both components."""
    V = fem.functionspace(meshes.unit_square(3), ("Lagrange", 2, (2,)))
    Q = scalar_space(V)
    psi = function(V, lambda x: x[0] + 1j * x[0] * x[1])
    nodes = Density(V)
    exact = function(Q, lambda x: x[0] ** 2 * (1.0 + x[1] ** 2))
    layout = SpaceLayout(Q)
    assert nodes.size == layout.size and nodes.coordinates.shape == (layout.size, 3)
    y = nodes.value(psi)
    everyone_has(y)
    close(y, layout.gather(exact.x.array[: layout.num_owned]), 1e-12)
    close(y, nodes.coordinates[:, 0] ** 2 * (1.0 + nodes.coordinates[:, 1] ** 2), 1e-12)
    points = np.array([(0.9, 0.35), (0.1, 0.2), (0.0, 1.0)])
    some = Density(V, points)
    assert some.size == 3
    close(some.value(psi), points[:, 0] ** 2 * (1.0 + points[:, 1] ** 2), 1e-12)
    close(some.coordinates[:, :2], points, 1e-15)


def test_a_constant_potential_is_live():
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1, (2,)))
    psi = function(V, lambda x: 1.0 + 2.0j)
    depth = fem.Constant(V.mesh, 3.0)
    H = energy(psi, depth)
    close(H.value(psi), [15.0], 1e-13)
    assert any(p is depth for p in H.parameters)
    depth.value = -1.0
    close(H.value(psi), [-5.0], 1e-13)
    close(energy(psi, 2.0).value(psi), [10.0], 1e-13)


def test_states_are_taken_as_they_were():
    """Overlaps are weighted once: a state that changes afterwards is not followed, and none is touched."""
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    psi, states = plane_wave(V), waves(V)
    kept = [s.x.array.copy() for s in states]
    B = Overlaps(V, states)
    for state, values in zip(states, kept, strict=True):
        np.testing.assert_array_equal(state.x.array, values)
    y = B.value(psi)
    states[0].x.array[:] = 7.0
    np.testing.assert_array_equal(B.value(psi), y)


def test_many_overlaps_are_one_reduction(monkeypatch):
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    psi, B = plane_wave(V), Overlaps(V, [*waves(V), plane_wave(V)])
    P = Populations(V, waves(V))
    calls = []
    reduce = parallel.sum_over_ranks
    monkeypatch.setattr(parallel, "sum_over_ranks", lambda comm, y: calls.append(y.shape) or reduce(comm, y))
    B.value(psi)
    P.value(psi)
    B.adjoint(psi, np.ones(6))
    assert calls == [(6,), (4,)]


@pytest.mark.ranks(2, 3)
def test_an_empty_rank():
    """A mesh of one cell leaves ranks without any."""
    domain = mesh.create_unit_square(COMM, 1, 1, cell_type=mesh.CellType.quadrilateral)
    V = fem.functionspace(domain, ("Lagrange", 1, (2,)))
    psi = function(V, lambda x: 1.0 + 1j * x[0])
    one = function(scalar_space(V), lambda x: 1.0)
    B = Stack([Overlaps(V, [one]), Populations(V, [one]), norm(psi), position(psi), Density(V, [(0.5, 0.5)])])
    expected = [1.0, 0.5, 1.25, 4 / 3, 1 / 2 + 1 / 4, 2 / 3, 1.25]
    close(B.value(psi), expected, 1e-12)
    w = np.arange(1.0, B.size + 1)
    n = SpaceLayout(V).num_owned
    # The adjoint in one direction: <B'(psi)^T w, psi> = w . B'(psi) psi, where B'(psi) psi is 2 B(psi) for squares.
    expected_slope = w @ (np.array(expected) * [1, 1, 2, 2, 2, 2, 2])
    assert parallel.dot(COMM, B.adjoint(psi, w), psi.x.array[:n]) == pytest.approx(expected_slope, rel=1e-12)
    assert Density(V).size == 4
