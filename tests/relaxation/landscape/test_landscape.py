"""Relaxed landscapes: values and derivatives anywhere in x and t, as numpy and torch, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from dolfinx import fem
from mpi4py import MPI

from relax import meshes
from relax.base import parallel
from relax.errors import BadInput, PointsOutsideMesh
from relax.relaxation import RelaxedLandscape, cole_hopf
from relax.relaxation.landscape.history import checked_times, interpolation_weights
from relax.relaxation.landscape.recovery import Recovery, pairs

COMM = MPI.COMM_WORLD
BETA = 2.0
TIMES = (0.05, 0.1, 0.2)
# k for the cosine solution in [0, 1]^d, which the walls do not disturb, cells in a direction, steps in an interval.
WAVES = {1: ([np.pi], 64, 16), 2: ([np.pi, 2 * np.pi], 16, 8), 3: ([np.pi, np.pi, np.pi], 6, 2)}
MESHES = {1: meshes.interval, 2: meshes.unit_square, 3: meshes.unit_cube}


def wavy(x):
    return 0.3 * x[0] ** 2 + 0.4 * np.sin(3.0 * x[0])


@pytest.fixture(scope="module")
def line():
    """0.3 x² + 0.4 sin 3x on a line wide enough."""
    landscape = RelaxedLandscape(meshes.interval(300, (-7.0, 7.0)), wavy, beta=BETA, times=np.geomspace(0.02, 0.5, 13))
    yield landscape
    landscape.close()


@pytest.fixture(scope="module", params=WAVES, ids=lambda d: f"{d}-D")
def cosine(request):
    """The cosine solution and a landscape that solves for it."""
    k, n, steps = WAVES[request.param]
    form = cole_hopf.cosine(k, beta=BETA, amplitude=0.8)
    landscape = RelaxedLandscape(MESHES[request.param](n), form.f, beta=BETA, times=TIMES, degree=2, num_steps=steps)
    yield request.param, form, landscape
    landscape.close()


def inner_points(dim, num=20):
    return np.random.default_rng(2).uniform(0.1, 0.9, (num, dim))


# -- against closed forms ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_values_and_gradients_of_the_cosine_solution(cosine):
    """Errors of (h |k|)³, with constants (for gradients in units of |k|) as they are for interpolation at t = 0."""
    dim, form, landscape = cosine
    x = inner_points(dim)
    h = 1.0 / WAVES[dim][1]
    wave = float(np.linalg.norm(WAVES[dim][0]))
    for t in (0.0, *TIMES):
        assert np.abs(landscape.value(x, t) - form.u(x.T, t)).max() < 0.03 * (h * wave) ** 3
        assert np.abs(landscape.gradient(x, t) - form.gradient(x.T, t)).max() < 0.05 * wave * (h * wave) ** 3


@pytest.mark.slow
def test_hessians_are_those_of_quadrature(line):
    x = np.linspace(-2.0, 2.0, 21)
    for t in (line.times[1], line.times[6], 0.5):
        exact = cole_hopf.hessian(wavy, x, t, beta=BETA)
        # h²/8 of fourth derivatives, 0.4 · 3⁴ at the most.
        assert np.abs(line.hessian(x, t) - exact).max() < (14.0 / 300) ** 2 / 8.0 * 32.4
        assert line.hessian(x, t).shape == (21, 1, 1)
        # D²u <= 1/t, and the semi-concavity bound 1/(1/C + t) with C = 4.2, with 2 % of slack.
        assert line.hessian(x, t).max() <= 1.02 / (1.0 / 4.2 + t)


@pytest.mark.slow
def test_mixed_derivatives():
    """A quadratic that is not separable has the Hessian (I + t C)^-1 C: walls far away, on both kinds of cells."""
    C = np.array([[1.2, 0.7], [0.7, 1.5]])
    for cell in ("triangle", "quadrilateral"):
        mesh = meshes.rectangle((-3.0, -3.0), (3.0, 3.0), (24, 24), cell=cell)
        x = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 2))
        with RelaxedLandscape(
            mesh, lambda x: 0.5 * np.einsum("ij,in,jn->n", C, x[:2], x[:2]), beta=1.0, times=[0.1], num_steps=2
        ) as landscape:
            exact = np.linalg.solve(np.eye(2) + 0.1 * C, C)
            assert np.abs(landscape.hessian(x, 0.1) - exact).max() < 2e-2
            assert np.abs(landscape.gradient(x, 0.1) - x @ exact).max() < 2e-3
            assert np.abs(landscape.hessian(x, 0.0) - C).max() < 1e-9


def test_times_between_stored_ones(line):
    """13 times from 0.02 to 0.5 have the ratio 1.31; and below the first one the cuts of the first interval serve."""
    x = np.linspace(-2.0, 2.0, 37)
    for t in (0.0004, 0.003, 0.013, 0.03, 0.11, 0.27, 0.47):
        exact = cole_hopf.gibbs(wavy, x, t, beta=BETA)
        assert np.abs(line.value(x, t) - exact.value).max() < 5e-4
        assert np.abs(line.gradient(x, t) - exact.gradient).max() < 2e-3


def test_the_gradient_is_the_mean_of_the_gibbs_measure(line):
    x, t = np.linspace(-2.0, 2.0, 9), 0.5
    mean = cole_hopf.gibbs(wavy, x, t, beta=BETA).mean
    assert np.abs(x[:, None] - t * line.gradient(x, t) - mean).max() < 1e-4


def test_u_is_bounded_by_f_and_shifts_with_it(line):
    u = line.field(0.5)
    f = line.field(0.0)
    least = parallel.smallest(COMM, np.array([u.x.array.min(), f.x.array.min(), -u.x.array.max(), -f.x.array.max()]))
    assert least[0] >= least[1] and least[2] >= least[3]
    mesh = meshes.interval(60, (-4.0, 4.0))
    how = {"beta": 1.0, "times": [0.1], "num_steps": 2}
    with RelaxedLandscape(mesh, wavy, **how) as a, RelaxedLandscape(mesh, lambda x: wavy(x) + 3.0, **how) as b:
        x = np.linspace(-4.0, 4.0, 11)
        assert np.abs(b.value(x, 0.1) - a.value(x, 0.1) - 3.0).max() < 1e-9


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("degree", [1, 2])
def test_recovery_is_exact_for_polynomials_of_one_degree_more(degree, dim):
    """On distorted meshes, the boundary apart: there too few nodes may meet for one degree more."""
    mesh = MESHES[dim](5 if dim == 3 else 8)
    place = mesh.geometry.x
    place[:, :dim] += 0.02 * np.sin(9.0 * place[:, :dim].sum(axis=1, keepdims=True) + np.arange(dim))
    V = fem.functionspace(mesh, ("Lagrange", degree))
    x = V.tabulate_dof_coordinates()[:, :dim]
    weights = np.arange(1.0, dim + 1.0)
    s, power = x @ weights, degree + 1
    first, second = Recovery(V).derivatives(s**power)
    slope, bend = power * s ** (power - 1), power * (power - 1) * s ** (power - 2)
    inner = ((x > 0.3) & (x < 0.7)).all(axis=1)
    for i in range(dim):
        assert np.max(np.abs(first[:, i] - weights[i] * slope)[inner], initial=0.0) < 1e-6
    for k, (i, j) in enumerate(pairs(dim)):
        assert np.max(np.abs(second[:, k] - weights[i] * weights[j] * bend)[inner], initial=0.0) < 1e-5


def test_a_time_for_each_point(line):
    x, t = np.linspace(-2.0, 2.0, 5), np.array([0.1, 0.5, 0.1, 0.0, 0.3])
    for ask in (line.value, line.gradient, line.hessian):
        found = ask(x, t)
        assert all(np.allclose(found[i], ask(x[i : i + 1], t[i])[0], atol=1e-14) for i in range(5))
    assert line.value([], []).shape == (0,)
    with pytest.raises(BadInput, match="one for each of 5 points"):
        line.value(x, t[:2])


# -- f in all its forms ------------------------------------------------------------------------------------------------


def test_landscapes_given_in_other_ways_are_the_same():
    mesh = meshes.interval(60, (-4.0, 4.0))
    place = ufl.SpatialCoordinate(mesh)
    function = fem.Function(fem.functionspace(mesh, ("Lagrange", 2)))
    function.interpolate(wavy)
    x = np.linspace(-2.0, 2.0, 7)
    given = [wavy, 0.3 * place[0] ** 2 + 0.4 * ufl.sin(3.0 * place[0]), function]
    found = []
    for f in given:
        with RelaxedLandscape(mesh, f, beta=1.0, times=[0.1], num_steps=2) as landscape:
            found.append(landscape.value(x, 0.1))
            exact = wavy(x[None]) if f is wavy else landscape.value(x, 0.0)
            assert np.allclose(landscape.landscape(x), exact, atol=1e-14)
    assert np.allclose(found[0], found[1], atol=1e-10) and np.allclose(found[0], found[2], atol=1e-10)
    with RelaxedLandscape(mesh, 2.5, beta=1.0, times=[0.1]) as flat:
        assert np.allclose(flat.value(x, 0.1), 2.5, atol=1e-10)
        assert np.allclose(flat.gradient(x, 0.1), 0.0, atol=1e-8)


def test_a_rough_landscape_in_one_long_interval():
    """Jumps with slopes of 40: without cuts and damping Crank–Nicolson's method ends at 10, not near 1e-3."""
    x = np.linspace(-3.0, 3.0, 101)
    rough = x**2 + np.random.default_rng(0).uniform(-1.2, 1.2, 101)
    with RelaxedLandscape(
        meshes.interval(400, (-3.0, 3.0)), lambda at: np.interp(at[0], x, rough), beta=1.0, times=[0.2]
    ) as landscape:
        found = landscape.value(x, 0.2)
    # Mirrored at the walls, by quadrature over the pieces between nodes.
    y = np.linspace(-9.0, 9.0, 36001)
    mirrored = np.abs((y + 3.0) % 12.0 - 6.0)  # distance of the mirror image from the right wall
    phi = np.exp(-np.interp(3.0 - mirrored, x, rough))
    kernel = np.exp(-((x[:, None] - y) ** 2) / 0.4) / np.sqrt(0.4 * np.pi)
    exact = -np.log(kernel @ phi * (y[1] - y[0]))
    assert np.abs(found - exact).max() < 3e-3


@pytest.mark.ranks(1, 2)
def test_routes_degrees_and_steep_landscapes(caplog):
    """beta = 1e3: the equation is stabilised, on elements of degree 1, which a warning says."""
    with RelaxedLandscape(
        meshes.interval(100, (-4.0, 4.0)), wavy, beta=1e3, times=[0.05, 0.1], num_steps=[2, 3]
    ) as steep:
        assert COMM.rank > 0 or "is stabilised, at first order" in caplog.text
        assert steep.space.ufl_element().degree == 1 and steep.routes == ("direct", "direct")
        assert steep.minimisers(0.1).values[0] == pytest.approx(-0.3126, abs=0.02)
    with RelaxedLandscape(
        meshes.interval(400, (-2.0, 2.0)), wavy, beta=1.0, times=[0.05], route="cole_hopf", degree=1
    ) as smooth:
        assert smooth.space.ufl_element().degree == 1 and smooth.routes == ("cole_hopf",)
        assert caplog.text.count("stabilised") <= 1


# -- numpy and torch ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shapes(cosine):
    dim, _, landscape = cosine
    x = inner_points(dim, 4)
    assert landscape.value(x, 0.1).shape == (4,)
    assert landscape.gradient(x, 0.1).shape == (4, dim)
    hessian = landscape.hessian(x, 0.1)
    assert hessian.shape == (4, dim, dim) and np.array_equal(hessian, hessian.transpose(0, 2, 1))
    nothing = np.empty((0, dim))
    assert landscape.value(nothing, 0.1).shape == (0,) and landscape.hessian(nothing, 0.1).shape == (0, dim, dim)
    assert landscape.value(x.tolist(), 0.1).shape == (4,)
    assert landscape.contains(np.vstack([x, x + 5.0])).tolist() == [True] * 4 + [False] * 4


def test_torch_tensors_have_derivatives(cosine):
    torch = pytest.importorskip("torch")
    dim, _, landscape = cosine
    points = inner_points(dim, 4)
    x = torch.tensor(points, requires_grad=True)
    u = landscape.value(x, 0.1)
    assert isinstance(u, torch.Tensor) and np.allclose(u.detach().numpy(), landscape.value(points, 0.1))
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    assert np.allclose(slope.detach().numpy(), landscape.gradient(points, 0.1), atol=1e-14)
    direction = torch.tensor(np.random.default_rng(0).normal(size=(4, dim)))
    (bent,) = torch.autograd.grad((slope * direction).sum(), x)
    expected = np.einsum("nij,nj->ni", landscape.hessian(points, 0.1), direction.numpy())
    assert np.allclose(bent.numpy(), expected, atol=1e-13)
    # Weighted rows, in single precision, and without a graph.
    half = torch.tensor(points, dtype=torch.float32, requires_grad=True)
    weights = torch.arange(1.0, 5.0)
    (landscape.value(half, 0.1) * weights).sum().backward()
    assert half.grad.dtype == torch.float32
    expected = weights.numpy()[:, None] * landscape.gradient(points, 0.1)
    assert np.allclose(half.grad.numpy(), expected, atol=1e-5)
    assert not landscape.hessian(x, 0.1).requires_grad and landscape.hessian(x, 0.1).shape == (4, dim, dim)
    with pytest.raises(BadInput, match="derivatives are in x alone"):
        landscape.value(x, torch.tensor(0.1, requires_grad=True))


def test_torch_points_of_a_line(line):
    torch = pytest.importorskip("torch")
    x = torch.linspace(-1.0, 1.0, 5, dtype=torch.float64, requires_grad=True)
    line.value(x, 0.1).sum().backward()
    assert x.grad.shape == (5,)
    assert np.allclose(x.grad.numpy(), line.gradient(x.detach().numpy(), 0.1)[:, 0])


# -- ranks -------------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(2, 3)
def test_the_same_numbers_on_any_number_of_ranks():
    """Against a landscape that each rank has for itself."""
    x = np.linspace(-3.0, 3.0, 25)
    how = {"beta": BETA, "times": [0.05, 0.1], "num_steps": 2}
    mine, ours = (meshes.interval(150, (-7.0, 7.0), comm=comm) for comm in (MPI.COMM_SELF, COMM))
    with RelaxedLandscape(mine, wavy, **how) as alone, RelaxedLandscape(ours, wavy, **how) as shared:
        for t in (0.01, 0.05, 0.08):
            assert np.abs(alone.value(x, t) - shared.value(x, t)).max() < 1e-9
            assert np.abs(alone.gradient(x, t) - shared.gradient(x, t)).max() < 1e-9
            assert np.abs(alone.hessian(x, t) - shared.hessian(x, t)).max() < 1e-7
        assert np.abs(alone.minimisers(0.05).x - shared.minimisers(0.05).x).max() < 1e-9
        ends = [landscape.descend(x, [0.1, 0.08, 0.05]).x for landscape in (alone, shared)]
        assert np.abs(ends[0] - ends[1]).max() < 1e-9


@pytest.mark.ranks(1, 2)
def test_every_rank_has_the_whole_answer_bitwise(cosine):
    dim, _, landscape = cosine
    found = landscape.gradient(inner_points(dim), 0.15)
    assert all(np.array_equal(found, other) for other in parallel.on_each_rank(COMM, found))


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_points_outside_are_named(line):
    with pytest.raises(PointsOutsideMesh, match=r"1 of 2 points lie outside the mesh: 1: \(7.5,\)"):
        line.value([0.0, 7.5], 0.1)
    with pytest.raises(BadInput, match="expected shape"):
        line.value(np.zeros((2, 2)), 0.1)
    with pytest.raises(BadInput, match="finite coordinates"):
        line.value([np.nan], 0.1)


@pytest.mark.parametrize("t", [-0.1, 0.51, np.nan])
def test_times_outside_are_refused(line, t):
    with pytest.raises(BadInput, match="expected a time between 0 and 0.5"):
        line.value([0.0], t)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": np.inf}, "hopf_lax"),
        ({"beta": 0.0}, "beta"),
        ({"times": []}, "times"),
        ({"times": [0.1, 0.1]}, "times"),
        ({"times": [0.0]}, "above 0"),
        ({"times": [-0.1, 0.1]}, "times"),
        ({"num_steps": [1, 2, 3]}, "num_steps"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 2.5}, "num_steps"),
        ({"degree": 3}, "degree"),
        ({"route": "heat"}, "route"),
    ],
)
def test_mistakes(changes, message):
    how = {"beta": 1.0, "times": [0.1, 0.2], **changes}
    with pytest.raises(BadInput, match=message):
        RelaxedLandscape(meshes.interval(10), wavy, **how)


def test_a_closed_landscape_says_so():
    landscape = RelaxedLandscape(meshes.interval(10), wavy, beta=1.0, times=[0.1], num_steps=1)
    landscape.close()
    landscape.close()
    with pytest.raises(BadInput, match="closed"):
        landscape.value([0.5], 0.1)


def test_interpolation_in_time_is_exact_for_cubics_in_the_root_of_t():
    times = checked_times([2.0, 0.1, 0.2, 0.5, 1.0])
    assert times[0] == 0.0 and (np.diff(times) > 0.0).all()
    for t in (0.1, 0.13, 0.4, 0.7, 1.9, 2.0):
        weights = interpolation_weights(times, t)
        assert sum(weights.values()) == pytest.approx(1.0)
        root = np.sqrt(times)
        for power in range(4):
            assert sum(w * root[i] ** power for i, w in weights.items()) == pytest.approx(np.sqrt(t) ** power)
    assert interpolation_weights(times, 0.05) == pytest.approx({0: 0.5, 1: 0.5})
    assert interpolation_weights(times, 0.0) == {0: 1.0}
    assert sum(interpolation_weights(checked_times([0.1, 1.0]), 0.5).values()) == pytest.approx(1.0)


def test_padding():
    """Walls at that distance change nothing in the sixth digit: against walls twice as far, with the same cells."""
    x, t, beta = np.linspace(-1.0, 1.0, 5), 0.2, 1.0
    pad = RelaxedLandscape.padding(beta=beta, t=t, slope=2.2)
    found = []
    for times in (1, 2):
        mesh = meshes.interval(120 * times, (-times * (1.0 + pad), times * (1.0 + pad)))
        with RelaxedLandscape(mesh, wavy, beta=beta, times=[t], num_steps=4, route="direct") as landscape:
            found.append(landscape.value(x, t))
    assert np.abs(found[0] - found[1]).max() < 1e-6
