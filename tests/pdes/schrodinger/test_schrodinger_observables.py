"""What is seen of a wave function: derivatives by the contract, values by closed forms, refusals on every rank."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, ObservableContract, close, everyone_has, raised_everywhere
from dolfinx import fem, mesh

import relax
from relax import PointValues, Problem, ReducedMap, Stack, clamp_boundary, meshes
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput, BadProblem, PointsOutsideMesh
from relax.pdes.schrodinger import Density, Overlaps, Populations, energy, norm, position

DT = 0.1


def step(domain, degree=2):
    """A Crank-Nicolson step of i psi_t = -1/2 Lap psi + x psi, psi = 0 on the boundary; psi before is the control."""
    V = fem.functionspace(domain, ("Lagrange", degree, (2,)))
    psi, before, v = fem.Function(V, name="psi"), fem.Function(V, name="before"), ufl.TestFunction(V)
    before.interpolate(lambda x: np.stack([1.0 + x[0], x[0] ** 2]))
    x, mean = ufl.SpatialCoordinate(domain), 0.5 * (psi + before)
    # i psi_t = H psi is (-u_1, u_0)_t = H (u_0, u_1).
    turned = ufl.as_vector([before[1] - psi[1], psi[0] - before[0]]) / DT
    F = (ufl.inner(turned - x[0] * mean, v) - 0.5 * ufl.inner(ufl.grad(mean), ufl.grad(v))) * ufl.dx
    return Problem(residual=F, state=psi, controls=[before], bcs=[clamp_boundary(V)], name="schrodinger_step")


def function(V, f):
    """f interpolated: complex values of points as pairs where V has two components."""
    u = fem.Function(V)
    pairs = V.value_shape == (2,)

    def values(x):
        z = np.broadcast_to(f(x), x.shape[1:])
        return np.stack([z.real, z.imag]) if pairs else z.real

    u.interpolate(values)
    u.x.scatter_forward()
    return u


def scalar_space(V):
    return fem.functionspace(V.mesh, ("Lagrange", V.ufl_element().degree))


def waves(V, degree=2):
    """Two real states."""
    Q = fem.functionspace(V.mesh, ("Lagrange", degree))
    return [function(Q, lambda x, n=n: np.sin(n * np.pi * x[0]) + x[1] * x[2] + x[1]) for n in (1, 2)]


def plane_wave(V):
    return function(V, lambda x: np.exp(1j * (2.0 * x[0] - x[1])))


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
    assert [p is depth for p in H.parameters] == [True]
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


# -- refusals ----------------------------------------------------------------------------------------------------------

WRONG_SPACES = [("Lagrange", 2), ("Lagrange", 2, (3,)), ("DG", 1, (2,)), ("N1curl", 1)]


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("element", WRONG_SPACES, ids=str)
def test_spaces_that_hold_no_wave_function(element):
    V = fem.functionspace(meshes.unit_square(2), element)
    u, phi = fem.Function(V), fem.Function(fem.functionspace(V.mesh, ("Lagrange", 2)))
    for name, action in (
        ("Overlaps", lambda: Overlaps(V, [phi])),
        ("Populations", lambda: Populations(V, [phi])),
        ("Density", lambda: Density(V)),
        ("norm", lambda: norm(u)),
        ("position", lambda: position(u)),
        ("energy", lambda: energy(u, 0.0)),
    ):
        text = str(raised_everywhere(BadProblem, action))
        assert text.startswith(f"{name}: expected") and '("Lagrange", degree, (2,))' in text


@pytest.mark.ranks(1, 2)
def test_things_that_are_no_space_and_no_state():
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2, 2)))
    W = fem.functionspace(V.mesh, ("Lagrange", 2, (2,)))
    for action in (lambda: Density(V), lambda: Density(W.sub(0)), lambda: Density(fem.Function(W)), lambda: norm(W)):
        assert "expected" in str(raised_everywhere(BadProblem, action))


@pytest.mark.ranks(1, 2)
def test_potentials_that_are_no_numbers():
    psi = fem.Function(fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,))))
    x = ufl.SpatialCoordinate(psi.function_space.mesh)
    for potential, words in ((x, "scalar"), (np.nan, "finite"), (lambda x: 1j * x[0], "real"), ([1.0, 2.0], "finite")):
        assert words in str(raised_everywhere(BadInput, lambda potential=potential: energy(psi, potential)))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("make", [Overlaps, Populations])
def test_states_that_do_not_fit(make):
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    elsewhere = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2))
    phi = waves(V)[0]
    for states, kind, words in (
        ([], BadInput, "at least one"),
        (phi, BadInput, "[phi]"),
        ([phi, 1.0], BadInput, "float at place 1"),
        (3, BadInput, "int"),
        ([phi, fem.Function(elsewhere)], BadProblem, "state 1 on another mesh"),
        ([fem.Function(fem.functionspace(V.mesh, ("Lagrange", 1)))], BadProblem, "state 0 in"),
        ([fem.Function(fem.functionspace(V.mesh, ("Lagrange", 2, (3,))))], BadProblem, "state 0 in"),
    ):
        assert words in str(raised_everywhere(kind, lambda states=states: make(V, states)))


@pytest.mark.ranks(1, 2)
def test_states_that_are_wrong_on_one_rank_only():
    """Every rank is told, none waits."""
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    last = COMM.rank == COMM.size - 1
    states = waves(V)
    none = [] if last else states
    assert "at least one" in str(raised_everywhere(BadInput, lambda: Overlaps(V, none)))
    if COMM.size > 1:
        fewer = states[:1] if last else states
        assert "got 1 to 2" in str(raised_everywhere(BadInput, lambda: Overlaps(V, fewer)))


@pytest.mark.ranks(1, 2)
def test_observations_of_another_state():
    problem = step(meshes.unit_square(2))
    V = fem.functionspace(problem.mesh, ("Lagrange", 2, (2,)))
    psi = fem.Function(V)
    for B in (Overlaps(V, waves(V)), Populations(V, waves(V)), Density(V), Density(V, [(0.5, 0.5)])):
        error = raised_everywhere(BadProblem, lambda B=B: ReducedMap(problem, B))
        assert "the space of the state" in str(error) and str(error).startswith(type(B).__name__)
    for B in (norm(psi), position(psi), energy(psi, 0.0)):
        error = raised_everywhere(BadProblem, lambda B=B: ReducedMap(problem, B))
        assert "does not stand in the form" in str(error)


@pytest.mark.ranks(1, 2)
def test_points_outside():
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    raised_everywhere(PointsOutsideMesh, lambda: Density(V, [(2.0, 0.5)]))
    assert PointValues(V, [(0.5, 0.5)]).size == 2 and Density(V, [(0.5, 0.5)]).size == 1
