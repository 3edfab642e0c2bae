"""Problems known up to a null space: solved orthogonally to it, with every derivative, or refused with the amount."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from enclosed_flow import stokes
from mpi4py import MPI
from ufl import div, dx, grad, inner, sym

import relax
from relax.base import parallel
from relax.errors import BadInput, BadProblem, SolveFailed

COMM = MPI.COMM_WORLD
pytestmark = pytest.mark.ranks(1, 2, 3)


def neumann(options=None, nullspace="constants", advection=0.0, power=0.0, cells=8):
    """-div((1 + u'^2 power) exp(m) grad u) + advection = f - mean(f), insulated, with the log of a coefficient."""
    domain = mesh.create_unit_square(COMM, cells, cells + 1)
    V, Q = fem.functionspace(domain, ("Lagrange", 2)), fem.functionspace(domain, ("Lagrange", 1))
    u, m, f = fem.Function(V, name="u"), fem.Function(Q, name="m"), fem.Constant(domain, 1.5)
    v = ufl.TestFunction(V)
    x, y = ufl.SpatialCoordinate(domain)
    k = ufl.exp(m) * (1.0 + power * inner(grad(u), grad(u)))
    # A swirl that no wall stops, in the form whose integrals over v = 1 and over u = 1 differ.
    wind = advection * ufl.as_vector((ufl.sin(2 * x) + y, x * y))
    F = k * inner(grad(u), grad(v)) * dx - f * (x - 0.5) * v * dx
    if advection:
        F += inner(wind, grad(u)) * v * dx
    m.interpolate(lambda x: 0.3 * np.sin(3 * x[0]) * x[1])
    problem = relax.Problem(residual=F, state=u, controls=[m, f], nullspace=nullspace, name="neumann")
    return relax.ReducedMap(problem, relax.FieldValues(V), options=options)


def mean(G):
    u = G.problem.state
    return COMM.allreduce(fem.assemble_scalar(fem.form(u * dx)))


@pytest.mark.parametrize(
    ("options", "power"),
    [(None, 0.0), (None, 2.0), (relax.AMG_CG, 0.0), (relax.AMG_GMRES, 0.0), (relax.AMG_CG, 0.5)],
)
def test_neumann(options, power):
    """The state has mean zero; all derivatives; the solution is that of a problem that a reaction holds."""
    G = neumann(options, power=power)
    m = G.present_control()
    u = G(m)
    assert abs(mean(G)) < 1e-12
    report = relax.check_map(G, m)
    assert report.adjoint_gap < (1e-12 if options is None else 1e-7)
    G.close()
    if not power:
        held = fem.Constant(G.problem.mesh, 1e-8)
        v = ufl.TestFunction(G.problem.state.function_space)
        F = G.problem.residual + held * G.problem.state * v * dx
        held_problem = relax.Problem(residual=F, state=G.problem.state, controls=G.problem.controls, name="held")
        with relax.ReducedMap(held_problem, G.observable) as H:
            assert np.abs(H(m) - u).max() < 1e-6


def test_a_batch_and_a_block():
    """Several controls at once, and many right-hand sides, as one by one."""
    with neumann() as G:
        m = G.present_control()
        rows = np.stack([m, 1.1 * m, 0.7 * m])
        np.testing.assert_allclose(G(rows), [G(row) for row in rows], atol=1e-13)
        with G.linearize(m) as lin:
            J = lin.matrix()
            seed = np.cos(np.arange(G.size_out))
            np.testing.assert_allclose(seed @ J, lin.vjp(seed), atol=1e-12)


def test_incompatible_sources():
    """The amount is said, in words, on every rank; derivatives leave it out."""
    domain = mesh.create_unit_square(COMM, 6, 6)
    V = fem.functionspace(domain, ("Lagrange", 1))
    for power, words in ((0.0, "add up to"), (1.0, "add up to")):
        u, f, v = fem.Function(V), fem.Function(V, name="f"), ufl.TestFunction(V)
        F = (1.0 + power * inner(grad(u), grad(u))) * inner(grad(u), grad(v)) * dx - f * v * dx
        problem = relax.Problem(residual=F, state=u, controls=[f], nullspace="constants", name="source")
        with relax.ReducedMap(problem, relax.FieldValues(V)) as G:
            with pytest.raises(SolveFailed, match=words) as caught:
                G(np.ones(G.size_in))
            assert "first guess" not in str(caught.value)
            with pytest.raises(SolveFailed, match=words):
                G(np.ones((2, G.size_in)))
            x = relax.FieldValues(V).coordinates
            balanced = x[:, 0] - 0.5
            G(balanced)
            with G.linearize(balanced) as lin:
                assert np.abs(lin.jvp(balanced) - G(balanced)).max() < (1e-12 if not power else 1.0)
                gradient = lin.vjp(np.cos(np.arange(G.size_out)))
                assert abs(gradient.sum()) < 1e-12 * np.abs(gradient).sum()


def test_steps_in_a_batch():
    """Steps with a null space: a batch says what one control says, also where zero sources are not balanced."""
    domain = mesh.create_unit_square(COMM, 5, 5)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, before, f, v = fem.Function(V), fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    none, one = fem.Constant(domain, 0.0), fem.Constant(domain, 1.0)
    F = inner(grad(u), grad(v)) * dx - (f - one) * v * dx + none * before * v * dx
    step = relax.Problem(residual=F, state=u, controls=[f], nullspace="constants", name="steady")
    evolution = relax.Evolution(step=step, previous=before, initial=0.0, num_steps=2, per_step=[f])
    with relax.ReducedMap(evolution, relax.FieldValues(V)) as G:
        balanced = np.tile(relax.FieldValues(V).coordinates[:, 0] + 0.5, 2)
        np.testing.assert_allclose(G(np.stack([balanced, balanced])), [G(balanced)] * 2, atol=1e-14)
        for use in (G, G.linearize_each):
            with pytest.raises(SolveFailed, match="add up to"):
                use(np.stack([balanced, 2.0 * balanced]))


@pytest.mark.parametrize("options", [None, relax.AMG_GMRES])
def test_a_nonlinear_state_is_seen_in_any_units(options):
    """Sources off balance by a hundredth are seen in a large domain; a guess that is a root is put into its gauge."""
    size = 1e7
    domain = mesh.create_rectangle(COMM, [[0, 0], [size, size]], [6, 6])
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, (0.0, 0.0))
    u.x.array[:] = 5.0
    x = ufl.SpatialCoordinate(domain)[0] / size
    F = (1 + size**2 * inner(grad(u), grad(u))) * inner(grad(u), grad(v)) * dx
    F -= (f[0] * (x - 0.5) + f[1]) / size**2 * v * dx
    problem = relax.Problem(residual=F, state=u, controls=[f], nullspace="constants", name="large")
    with relax.ReducedMap(problem, relax.FieldValues(V), options=options) as G:
        assert np.abs(G([0.0, 0.0])).max() < 1e-12
        assert np.abs(G([1.0, 0.0])).max() > 0.01
        with pytest.raises(SolveFailed, match="add up to"):
            G([1.0, 0.01])


def test_a_first_guess_of_a_large_constant():
    """It costs no digits: the state is that from zero."""
    with neumann(power=1.0, cells=4) as G:
        m = G.present_control()
        expected = G(m)
    far = neumann(power=1.0, cells=4)
    problem = far.problem
    far.close()
    problem.state.x.array[:] = 5e6
    with relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space)) as G:
        np.testing.assert_allclose(G(m), expected, atol=1e-9)


def test_a_factor_as_a_preconditioner():
    """A Krylov method with a factor, which a singular matrix does not have."""
    domain = mesh.create_unit_square(COMM, 6, 6)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
    F = inner(grad(u), grad(v)) * dx - c * (ufl.SpatialCoordinate(domain)[0] - 0.5) * v * dx
    problem = relax.Problem(residual=F, state=u, controls=[c], nullspace="constants", name="factored")
    package = "petsc" if COMM.size == 1 else "mumps"
    options = {**relax.AMG_CG, "pc_type": "lu", "pc_factor_mat_solver_type": package}
    seen = relax.FieldValues(V)
    with relax.ReducedMap(problem, seen) as G, relax.ReducedMap(problem, seen, options=options) as H:
        np.testing.assert_allclose(H([1.0]), G([1.0]), atol=1e-9)


def test_another_null_space_of_the_transpose():
    """Advection: ∫ of the equation over a weight that is not 1 says whether there is a state. That weight is found."""
    with neumann(advection=3.0) as G:
        m = G.present_control()
        with pytest.raises(SolveFailed, match="add up to"):
            G(m)
        # Zero sources are always balanced.
        m[-1] = 0.0
        assert np.abs(G(m)).max() < 1e-12
    domain = mesh.create_unit_square(COMM, 8, 8)
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, v, k, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0), fem.Function(V)
    x, y = ufl.SpatialCoordinate(domain)
    wind = ufl.as_vector((ufl.sin(2 * x) + y, x * y))
    # A source of the form A g, which a state g belongs to for every k.
    g = ufl.cos(2 * x) * y
    parts = lambda w: k * inner(grad(w), grad(v)) * dx + inner(wind, grad(w)) * v * dx  # noqa: E731
    F = parts(u) - parts(f)
    f.interpolate(fem.Expression(g, relax.base.fem.compat.interpolation_points(V)))
    problem = relax.Problem(residual=F, state=u, controls=[k, f], nullspace="constants", name="advected")
    with relax.ReducedMap(problem, relax.FieldValues(V)) as G:
        assert np.ptp(G(G.present_control()) - G.present_control()[1:]) < 1e-11
    with relax.ReducedMap(problem, relax.Functional(u**4 * dx)) as G:
        m = G.present_control()
        report = relax.check_map(G, m)
        assert report.adjoint_gap < 1e-12


def test_few_pressures():
    """Six of them: random numbers tell constants from the rest on any number of ranks."""
    case = stokes(advection=0.0, n=1, rows=2)
    with relax.ReducedMap(case.problem, relax.Functional(case.w[2] ** 2 * dx)) as G:
        assert G([0.7])[0] > 0.0


def test_enclosed_flow():
    """Navier and Stokes between walls: the pressure has mean zero, velocity and its derivatives are those of a pin."""
    case = stokes()
    velocity = relax.Functional(inner(case.w[0], case.w[0]) * dx)
    pressure = relax.Functional(case.w[2] ** 2 * dx)
    with relax.ReducedMap(case.problem, relax.Stack([velocity, pressure])) as G:
        m = G.present_control()
        value = G(m)
        assert abs(COMM.allreduce(fem.assemble_scalar(fem.form(case.w[2] * dx)))) < 1e-13
        assert relax.check_map(G, m).adjoint_gap < 1e-12
    Q, _ = case.W.sub(1).collapse()
    corner = fem.locate_dofs_geometrical((case.W.sub(1), Q), lambda x: np.isclose(x[0], 0) & np.isclose(x[1], 0))
    pin = fem.dirichletbc(fem.Function(Q), corner, case.W.sub(1))
    pinned = relax.Problem(
        residual=case.problem.residual, state=case.w, controls=case.problem.controls,
        bcs=[*case.problem.bcs, pin], name="pinned",
    )  # fmt: skip
    with relax.ReducedMap(pinned, velocity) as G:
        assert np.allclose(G(m), value[:1], rtol=1e-9)


@pytest.mark.parametrize("options", [None, "stokes"])
def test_a_lid_that_slides_along_itself(options):
    """What its motion adds to the pressures' equations is rounding, and no flux; one that moves up is refused."""
    case = stokes(advection=0.0, n=4)
    along, up = fem.Constant(case.W.mesh, 1.0), fem.Constant(case.W.mesh, 0.0)
    top = relax.clamp(case.W.sub(0), lambda x: np.isclose(x[1], 1.0), value=ufl.as_vector((along, up)))
    made = relax.Problem(
        residual=case.problem.residual, state=case.w, controls=[*case.problem.controls, along, up],
        bcs=[*case.problem.bcs, top], nullspace="constants", name="lid",
    )  # fmt: skip
    seen = relax.Functional(inner(case.w[0], case.w[0]) * dx)
    with relax.ReducedMap(made, seen, options=options) as G:
        assert G([0.7, 1.0, 0.0])[0] > 0.01
        with pytest.raises(SolveFailed, match="add up to"):
            G([0.7, 1.0, 1e-3])


@pytest.mark.parametrize("options", [None, relax.AMG_CG])
def test_a_body_in_space(options):
    """Elasticity under forces in balance: no motion as a whole, and the work of the forces by another route."""
    domain = mesh.create_box(COMM, [[0, 0, 0], [2, 1, 1]], [3, 2, 2])
    V = fem.functionspace(domain, ("Lagrange", 1, (3,)))
    modes = relax.rigid_body_modes(V)
    u, v, mu = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.3)
    for mode in modes:
        strain = fem.assemble_scalar(fem.form(inner(sym(grad(mode)), sym(grad(mode))) * dx))
        assert COMM.allreduce(strain) < 1e-24
    pull = ufl.as_vector((ufl.FacetNormal(domain)[0], 0, 0))
    F = 2 * mu * inner(sym(grad(u)), sym(grad(v))) * dx + div(u) * div(v) * dx - inner(pull, v) * ufl.ds
    problem = relax.Problem(residual=F, state=u, controls=[mu], nullspace=modes, name="body")
    with relax.ReducedMap(problem, relax.FieldValues(V), options=options) as G:
        m = G.present_control()
        G(m)
        for mode in modes:
            assert abs(COMM.allreduce(fem.assemble_scalar(fem.form(inner(u, mode) * dx)))) < 1e-9
        # sigma = e_x e_x^T is exact: u = (x/E, -nu y/E, -nu z/E), about the middle.
        lam = 1.0
        young, ratio = mu.value * (3 * lam + 2 * mu.value) / (lam + mu.value), lam / (2 * (lam + mu.value))
        middle = np.array([[1.0], [0.5], [0.5]])
        exact = fem.Function(V)
        exact.interpolate(lambda x: np.array([[1.0], [-ratio], [-ratio]]) / young * (x - middle))
        assert parallel.largest(COMM, np.abs(u.x.array - exact.x.array).max()) < (1e-12 if options is None else 1e-7)
        assert relax.check_map(G, m).adjoint_gap < 1e-7


@pytest.mark.parametrize("options", [None, relax.AMG_CG])
@pytest.mark.parametrize("of_vectors", [False, True])
def test_a_rank_without_cells(options, of_vectors):
    """Two cells on three ranks: constants and motions of a body."""
    domain = mesh.create_unit_square(COMM, 1, 1)
    V = fem.functionspace(domain, ("Lagrange", 1, (2,)) if of_vectors else ("Lagrange", 1))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
    x, n = ufl.SpatialCoordinate(domain), ufl.FacetNormal(domain)
    if of_vectors:
        F = c * inner(sym(grad(u)), sym(grad(v))) * dx - n[0] * v[0] * ufl.ds
    else:
        F = c * inner(grad(u), grad(v)) * dx - (x[0] - 0.5) * v * dx
    nullspace = relax.rigid_body_modes(V) if of_vectors else "constants"
    problem = relax.Problem(residual=F, state=u, controls=[c], nullspace=nullspace, name="few")
    with relax.ReducedMap(problem, relax.FieldValues(V), options=options) as G:
        y = G([1.0])
        assert abs(y.sum()) < 1e-9 < 1e-2 < np.abs(y).max()
        np.testing.assert_allclose(G.linearize([1.0]).jvp([1.0]), -y, atol=1e-8)


def test_an_evolution():
    """Each step of an insulated creeping flow of a potential has the null space."""
    domain = mesh.create_unit_square(COMM, 5, 5)
    P = basix.ufl.element("Lagrange", "triangle", 1)
    W = fem.functionspace(domain, basix.ufl.mixed_element([P, P]))
    w, before, k = fem.Function(W), fem.Function(W), fem.Constant(domain, 0.4)
    (c, p), (d, q) = ufl.split(w), ufl.TestFunctions(W)
    c0, _ = ufl.split(before)
    # Concentration, and a potential that its deviation from the mean drives.
    F = (c - c0) * d * dx + 0.1 * inner(grad(c) + c0 * grad(p), grad(d)) * dx
    F += k * inner(grad(p), grad(q)) * dx - c0.dx(0) * q.dx(1) * dx
    step = relax.Problem(residual=F, state=w, controls=[k, before], nullspace="constants", name="drift")
    initial = fem.Function(W)
    initial.sub(0).interpolate(lambda x: 1.0 + 0.5 * np.sin(3 * x[0]) * x[1])
    evolution = relax.Evolution(step=step, previous=before, initial=initial, num_steps=3)
    with relax.ReducedMap(evolution, relax.FieldValues(W)) as G:
        m = G.present_control()
        G(m)
        assert abs(COMM.allreduce(fem.assemble_scalar(fem.form(evolution.state[1] * dx)))) < 1e-13
        assert relax.check_map(G, m).adjoint_gap < 1e-12


def test_doubtful_input():
    domain = mesh.create_unit_square(COMM, 3, 3)
    V, U = fem.functionspace(domain, ("Lagrange", 1)), fem.functionspace(domain, ("Lagrange", 1, (2,)))
    one, zero, other = fem.Function(V), fem.Function(V), fem.Function(U)
    one.x.array[:] = 1.0
    unknown = fem.Function(V)
    unknown.x.array[:] = np.nan
    with pytest.raises(BadInput, match="rigid_body_modes: V: expected fields of 2 components"):
        relax.rigid_body_modes(V)
    for nullspace, words in (
        ("constant", "did you mean 'constants'"),
        (one, "expected a list of Functions"),
        ([], "empty"),
        ([other], r"nullspace\[0\]"),
    ):
        with pytest.raises((BadInput, BadProblem), match=words):
            neumann(nullspace=nullspace)
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
    x, y = ufl.SpatialCoordinate(domain)
    slope = fem.Function(V)
    slope.interpolate(lambda x: x[0])
    plain = inner(grad(u), grad(v)) * dx - f * (x - 0.5) * v * dx
    for form, bcs, nullspace, words in (
        (plain, [relax.clamp_boundary(V, 0.0)], "constants", "each is clamped"),
        (plain + u * v * dx, [], "constants", "the residual sees it"),
        (plain, [], [slope], "expected vectors that the derivative"),
        (plain, [relax.clamp_boundary(V, 0.0)], [one], "expected zeros where the state is clamped"),
        (plain, [], [one, one], "independent"),
        (plain, [], [zero], "independent"),
        (plain, [], [unknown], r"nullspace\[0\]: expected finite"),
    ):
        problem = relax.Problem(residual=form, state=u, controls=[f], bcs=bcs, nullspace=nullspace, name="doubtful")
        with relax.ReducedMap(problem, relax.FieldValues(V)) as G, pytest.raises(BadProblem, match=words):
            G([1.0])
    overflown = ufl.exp(f) * inner(grad(u), grad(v)) * dx - (x - 0.5) * v * dx
    problem = relax.Problem(residual=overflown, state=u, controls=[f], nullspace="constants", name="overflown")
    with relax.ReducedMap(problem, relax.FieldValues(V)) as G, pytest.raises(SolveFailed, match="not finite"):
        G([800.0])
