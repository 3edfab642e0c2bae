"""Batches marched densely: what the map itself gives, for all samples at once; what they cannot do they say."""

from __future__ import annotations

import dense_problems
import evolutions
import numpy as np
import problems
import pytest
import ufl
from contract import close
from dolfinx import fem
from mpi4py import MPI

import relax
from relax import BadInput, FieldValues, ReducedMap, SolveFailed, meshes
from relax.base.la.linear import LinearSolver
from relax.engine.batch import second_tangent_each
from relax.engine.dense import DenseMap, steps
from relax.engine.dense.affine import affine
from relax.engine.dense.banded import BandedOperators
from relax.engine.dense.inverses import AffineInverses
from relax.pdes import poisson, schrodinger

# Both solve the same small systems directly: condition numbers of at most 1e4 times rounding.
EQUAL = 1e-11


def square(n=2):
    """Every rank its own."""
    return meshes.unit_square(n, comm=MPI.COMM_SELF)


def pair(make):
    problem = make(square())
    G = ReducedMap(problem, dense_problems.seen(problem))
    return G, DenseMap(G)


@pytest.mark.parametrize("make", dense_problems.ALL, ids=lambda make: make.__name__)
@pytest.mark.slow
def test_equals_the_map(make, monkeypatch):
    """With operators that are kept, that are made again by each sweep, and with band factors."""
    rng = np.random.default_rng(5)
    problem = make(square())
    G = ReducedMap(problem, dense_problems.seen(problem))
    m = G.present_control() + 0.2 * rng.uniform(-1.0, 1.0, (2, G.size_in))
    a, b = rng.standard_normal((2, 2, 2, G.size_in))
    dy = rng.standard_normal((2, 2, G.size_out))
    each = G.linearize_each(m)
    values, J = [one.value for one in each], np.array([one.matrix() for one in each])
    H = np.array([one.hvp(y, rows) for one, y, rows in zip(each, dy, a, strict=True)])
    bent = second_tangent_each(each, a[:, :1], b[:, :1])
    many = rng.standard_normal((2, G.size_in + G.size_out, G.size_out))

    def check(points):
        close(points.values, values, EQUAL)
        close(points.jvp(a), np.einsum("spi,ski->skp", J, a), EQUAL)
        close(points.vjp(dy), dy @ J, EQUAL)
        close(points.vjp(many), many @ J, EQUAL)
        close(points.matrix(), J, EQUAL)
        # Where the derivative is everywhere the same both sides are rounding.
        assert np.abs(points.hvp(dy, a) - H).max() <= EQUAL * max(np.abs(H).max(), np.abs(J).max())
        gap = np.abs(points.second_tangent(a[:, :1], b[:, :1]) - bent).max()
        assert gap <= EQUAL * max(np.abs(bent).max(), np.abs(J).max())

    check(DenseMap(G).linearize(m))
    check(DenseMap(G, memory=1.0).linearize(m))
    monkeypatch.setattr(steps, "_BAND_FROM", 1)
    monkeypatch.setattr(steps, "_BAND_SHARE", 0.1)
    banded = DenseMap(G).linearize(m)
    assert isinstance(banded._operators, BandedOperators) == bool(banded._terms.A.slopes)
    check(banded)
    check(DenseMap(G, memory=1.0).linearize(m))
    G.close()


def test_a_finer_mesh_takes_band_factors():
    problem = schrodinger.dipole(meshes.interval(40, (0.0, 2.0), comm=MPI.COMM_SELF), num_steps=3, dt=0.1, degree=1)
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    m = np.random.default_rng(1).standard_normal((2, 3))
    points = DenseMap(G).linearize(m)
    # Neighbours and the other component of each, whatever order the mesh came in.
    assert isinstance(points._operators, BandedOperators)
    assert points._operators._band.lower == points._operators._band.upper == 3
    with G.linearize(m[1]) as lin:
        close(points.values[1], lin.value, EQUAL)
        close(points.matrix()[1], lin.matrix(), EQUAL)
    G.close()


def test_a_state_that_is_clamped_everywhere():
    """Nothing is left to solve for: the observation is what is given."""
    problem = problems.dirichlet_field(square(1))
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    m = np.random.default_rng(1).standard_normal((2, G.size_in))
    points = DenseMap(G).linearize(m)
    close(points.values, G(m), EQUAL)
    close(points.matrix()[1], G.linearize(m[1]).matrix(), EQUAL)
    problem = poisson.source(square(1))
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    points = DenseMap(G).linearize(m)
    assert not points.values.any() and not points.matrix().any()


def test_decay_in_closed_form():
    """u' = -c_n u by Crank-Nicolson: u_N = u_0 Π r(c_n), r = (1 - c dt/2) / (1 + c dt/2), and two derivatives."""
    mesh = meshes.interval(1, (0.0, 1.0), comm=MPI.COMM_SELF)
    V = fem.functionspace(mesh, ("DG", 0))
    u, c, dt, N = fem.Function(V), fem.Constant(mesh, 0.0), 0.1, 40
    R = c * u * ufl.TestFunction(V) * ufl.dx
    problem = relax.theta_evolution(R, u, initial=1.5, dt=dt, num_steps=N, controls=[c], per_step=[c], name="decay")
    G = ReducedMap(problem, FieldValues(V))
    m = np.random.default_rng(0).uniform(-1.0, 3.0, (6, N))
    below = 1.0 + 0.5 * dt * m
    factors = (1.0 - 0.5 * dt * m) / below
    # r'/r and r''/r.
    first, second = -dt / below**2 / factors, dt**2 / below**3 / factors
    value = 1.5 * factors.prod(axis=1)
    points = DenseMap(G).linearize(m)
    close(points.values, value[:, None], 1e-13)
    close(points.matrix(), (value[:, None] * first)[:, None], 1e-13)
    H = value[:, None, None] * first[:, :, None] * first[:, None, :]
    H[:, range(N), range(N)] = value[:, None] * second
    units = np.broadcast_to(np.eye(N), (6, N, N))
    close(points.hvp(np.ones((6, N, 1)), units), H, 1e-12)
    G.close()


def test_many_steps(monkeypatch):
    """384 steps of the dipole lose no more digits than the map's own; without a factorisation of PETSc's."""
    mesh = meshes.interval(15, (0.0, 2.0), comm=MPI.COMM_SELF)
    problem = schrodinger.dipole(mesh, num_steps=384, dt=0.05, degree=1)
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    m = np.random.default_rng(1).standard_normal((2, 384))
    seeds = np.random.default_rng(2).standard_normal((2, 3, G.size_out))
    with G.linearize(m[1]) as lin:
        value, gradients = lin.value, lin.vjp(seeds[1])
    monkeypatch.setattr(LinearSolver, "factor", lambda *_: pytest.fail("PETSc has factored an operator"))
    points = DenseMap(G).linearize(m)
    close(points.values[1], value, EQUAL)
    close(points.vjp(seeds)[1], gradients, EQUAL)
    G.close()


# -- parameters --------------------------------------------------------------------------------------------------------


def test_parameters_are_live():
    """A new batch sees them; points keep those that they were made at, where an observable depends on them, too."""
    mesh = square(3)
    rate, weight = fem.Constant(mesh, 1.0), fem.Constant(mesh, 1.0)
    problem = poisson.source(mesh, conductivity=rate)
    u = problem.state
    G = ReducedMap(problem, relax.Functional(weight * u**2 * ufl.dx))
    D = DenseMap(G)
    m = np.random.default_rng(0).standard_normal((2, G.size_in))
    before = D.linearize(m)
    J = before.matrix()
    rate.value, weight.value = 2.0, 10.0
    # u halves, its square is a fourth, and counts ten times.
    close(D(m), 2.5 * before.values, EQUAL)
    close(before.matrix(), J, 0.0)
    close(D.linearize(m).matrix(), 2.5 * J, EQUAL)
    assert weight.value == 10.0
    G.close()


def test_controls_that_are_seen():
    """Observables of the state and of controls: those of its step, of its sample, and its initial state."""
    mesh = square(2)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, before, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    f, u0, q = fem.Function(V), fem.Function(V), fem.Constant(mesh, 1.0)
    step = relax.Problem(
        residual=(u - before + 0.1 * (q * u - f)) * v * ufl.dx, state=u, controls=[f, q], name="beside"
    )
    problem = relax.Evolution(step=step, previous=before, num_steps=2, initial=u0, per_step=[q])
    seen = relax.Functional((q**2 * u * f + u0**2 * u) * ufl.dx)
    G = ReducedMap(problem, relax.Stack([relax.AtSteps(seen, [0, 1, 2]), FieldValues(V)]))
    rng = np.random.default_rng(5)
    m, a, b = rng.uniform(0.5, 1.0, (2, G.size_in)), *rng.standard_normal((2, 2, 2, G.size_in))
    dy, points, each = rng.standard_normal((2, 2, G.size_out)), DenseMap(G).linearize(m), G.linearize_each(m)
    close(points.values, [one.value for one in each], EQUAL)
    close(points.jvp(a), [one.jvp(rows) for one, rows in zip(each, a, strict=True)], EQUAL)
    close(points.vjp(dy), [one.vjp(rows) for one, rows in zip(each, dy, strict=True)], EQUAL)
    close(points.hvp(dy, a), [one.hvp(y, rows) for one, y, rows in zip(each, dy, a, strict=True)], EQUAL)
    close(points.second_tangent(a, b), second_tangent_each(each, a, b), EQUAL)
    G.close()


def test_a_given_initial_state_is_live():
    problem = schrodinger.dipole(meshes.interval(6, (0.0, 1.0), comm=MPI.COMM_SELF), num_steps=2, dt=0.1, degree=1)
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    D = DenseMap(G)
    m = np.ones((2, 2))
    before = D(m)
    problem.initial_state.x.array[:] *= -3.0
    close(D(m), -3.0 * before, EQUAL)
    G.close()


# -- operators ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["general", "defective", "singular_at_0", "two_scalars"])
def test_inverses(kind):
    """By partial fractions where these are good, by LAPACK where not."""
    rng = np.random.default_rng(3)
    base, slope, more = rng.standard_normal((3, 5, 5))
    slopes = {0: slope[None]}
    if kind == "defective":
        base, slopes = np.eye(5), {0: np.eye(5, k=1)[None]}
    elif kind == "singular_at_0":
        base[0] = 0.0
    elif kind == "two_scalars":
        slopes[1] = more[None]
    pencil = AffineInverses(affine(base[None], slopes))
    c = rng.standard_normal((4, 3, 2))
    exact = np.linalg.inv(
        base + np.einsum("lsj,jab->lsab", c[..., : len(slopes)], np.concatenate(list(slopes.values())))
    )
    close(pencil.inverses(0, 4, c), exact, EQUAL)
    close(pencil.inverses(1, 3, c[1:3]), exact[1:3], EQUAL)


def test_a_singular_operator_says_so():
    problem = dense_problems.number_times_source(square())
    D = DenseMap(ReducedMap(problem, FieldValues(problem.state.function_space)))
    m = np.zeros((1, D.size_in))
    with pytest.raises(SolveFailed, match="singular"):
        D(m)


def test_an_observation_that_is_not_finite_says_so():
    """The fourth power of 1e100."""
    _, D = pair(dense_problems.heat_source_per_step)
    m = np.zeros((2, D.size_in))
    # The initial state comes first, then the sources: none in the first two steps.
    m[1, -9:] = 1e100
    with np.errstate(all="ignore"), pytest.raises(SolveFailed, match="heat: step 3 of 3.*not finite"):
        D(m)


# -- refusals ----------------------------------------------------------------------------------------------------------


def followed_boundary(mesh):
    """A boundary value that is an expression of a control."""
    V, u, v = evolutions.parts(mesh)
    a = evolutions.number(mesh, 0.5)
    F = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    return relax.Problem(residual=F, state=u, controls=[a], bcs=[relax.clamp(V, "left", 2.0 * a)], name="followed")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (followed_boundary, "an expression of controls or the time"),
        (evolutions.burgers, "linear in the state"),
        (evolutions.cubic, "linear in the state"),
        (evolutions.bilinear, "operator without fields"),
        (evolutions.semi_implicit, "operator without fields"),
        (evolutions.product_of_numbers, "affine in all numbers together"),
        (evolutions.heating, "affine in all numbers together"),
        (evolutions.substituted_source, "substitution"),
        (poisson.diffusion, "'log_conductivity'"),
        (problems.squared_source, "affine in its fields"),
        (problems.reaction_constant, "controls[0]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refusals(make, words):
    problem = make(square())
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    with pytest.raises(BadInput, match="without dense=True") as caught:
        DenseMap(G)
    assert "expected" in str(caught.value) and "got" in str(caught.value) and words in str(caught.value)
    G.close()


def test_large_systems_are_refused():
    problem = poisson.source(square(33))
    with pytest.raises(BadInput, match="at most 1000 values.*got 1024"):
        DenseMap(ReducedMap(problem, problems.field(problem)))


def test_other_layouts_maps_and_numbers_are_refused():
    problem = poisson.source(square())
    observable = FieldValues(problem.state.function_space)
    with pytest.raises(BadInput, match="replicated"):
        DenseMap(ReducedMap(problem, observable, layout="owned"))
    with pytest.raises(BadInput, match="ReducedMap, got Problem"):
        DenseMap(problem)
    G = ReducedMap(problem, observable)
    with pytest.raises(BadInput, match="memory"):
        DenseMap(G, memory=0.0)
    D = DenseMap(G)
    with pytest.raises(BadInput, match=r"\(S, 9\)"):
        D.linearize(np.zeros(9))
    with pytest.raises(BadInput, match=r"\(\.\.\., 9\)"):
        D(np.zeros((2, 8)))
    assert D(np.zeros((0, 9))).shape == (0, 9)
    assert D(np.zeros(9)).shape == (9,)
