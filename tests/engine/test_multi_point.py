"""Periodic states, by dolfinx_mpc: against its own solver, closed forms, and states that are periodic by symmetry."""

import numpy as np
import pytest
import ufl
from contract import close
from dolfinx import fem
from mpi4py import MPI
from ufl import div, dx, grad, inner

import relax
from relax.engine.dense import DenseMap
from relax.errors import BadInput, BadProblem

dolfinx_mpc = pytest.importorskip("dolfinx_mpc")

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD
RIGHT = (lambda x: np.isclose(x[0], 1.0), lambda x: np.array([x[0] - 1.0, x[1], x[2]]))
TOP = (lambda x: np.isclose(x[1], 1.0), lambda x: np.array([x[0], x[1] - 1.0, x[2]]))
# The corner is no slave of two: it follows its neighbour on the right, which follows one on the left.
TOP_LESS_CORNER = (lambda x: np.isclose(x[1], 1.0) & ~np.isclose(x[0], 1.0), TOP[1])


def periodic(V, *pairs, bcs=(), space=None):
    mpc = dolfinx_mpc.MultiPointConstraint(V)
    for slaves, masters in pairs:
        mpc.create_periodic_constraint_geometrical(V if space is None else space, slaves, masters, list(bcs))
    mpc.finalize()
    return mpc


def swirl(domain, *, power=1, ends=False):
    """Advection and diffusion between walls where a control is the state's value; their right ends follow the left.

    Args:
        domain: the unit square.
        power: of the state in its reaction.
        ends: whether the right ends are given, too, by the same values.
    """
    V, Q = (fem.functionspace(domain, ("Lagrange", k)) for k in (2, 1))
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    k, g = fem.Function(Q, name="k"), fem.Function(V, name="g")
    k.interpolate(lambda x: 0.2 * x[0] * x[1])
    g.interpolate(lambda x: 0.3 * np.cos(2 * np.pi * x[0]))
    walls = fem.locate_dofs_geometrical(
        V, lambda x: np.isclose(x[1] * (1.0 - x[1]), 0.0) & (ends | ~np.isclose(x[0], 1.0))
    )
    bcs = [fem.dirichletbc(g, walls)]
    x = ufl.SpatialCoordinate(domain)

    def form(u):
        source = ufl.exp(-20 * ((x[0] - 0.9) ** 2 + (x[1] - 0.4) ** 2))
        return (ufl.exp(k) * inner(grad(u), grad(v)) + 2.0 * u.dx(0) * v + u**power * v - source * v) * dx

    return V, u, [k, g], bcs, form


def solved(problem, seen, **options):
    """The map at its present control, with orders of 2 and 3, and its adjoint's gap at rounding."""
    with relax.ReducedMap(problem, seen, **options) as G:
        m = G.present_control()
        value = G(m)
        with G.linearize(m) as lin:
            gradient = lin.vjp(np.ones(G.size_out))
        report = relax.check_map(G, m)
    assert report.failures == [] and report.adjoint_gap < 1e-12
    return value, gradient


@pytest.mark.parametrize("ends", [True, False])
def test_against_its_own_solver(ends):
    """Which does not know of slaves whose masters are given: for these the state is the same."""
    V, u, controls, bcs, form = swirl(relax.meshes.unit_square(6), ends=True)
    mpc, whole = periodic(V, RIGHT, bcs=bcs), form(ufl.TrialFunction(V))
    lu = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    theirs = dolfinx_mpc.LinearProblem(ufl.lhs(whole), ufl.rhs(whole), mpc, bcs, petsc_options=lu).solve()
    if not ends:
        V, u, controls, bcs, form = swirl(V.mesh)
        mpc = periodic(V, RIGHT, bcs=bcs)
    problem = relax.Problem(residual=form(u), state=u, controls=controls, bcs=bcs, mpc=mpc)
    solved(problem, relax.Functional(u**3 * dx))
    owned = V.dofmap.index_map.size_local
    close(u.x.array[:owned], theirs.x.array[:owned], 1e-10)


@pytest.mark.parametrize("space", ["given", "its own"])
def test_nonlinear_as_on_one_rank(space):
    """Also for who has the state in the space of the constraint, whose ghosts are more."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        V, u, controls, bcs, form = swirl(relax.meshes.unit_square(4, comm=comm), power=3)
        mpc, F = periodic(V, RIGHT, bcs=bcs), form(u)
        if space == "its own":
            W = mpc.function_space
            state, g = fem.Function(W), fem.Function(W)
            g.interpolate(controls[1])
            F = ufl.replace(F, {u: state, F.arguments()[0]: ufl.TestFunction(W)})
            u, controls, bcs = state, [controls[0], g], [fem.dirichletbc(g, bcs[0].dof_indices()[0])]
        problem = relax.Problem(residual=F, state=u, controls=controls, bcs=bcs, mpc=mpc)
        found.append(solved(problem, relax.Functional(u**3 * dx)))
    for ours, alone in zip(*found, strict=True):
        close(ours, alone, 1e-9)


@pytest.mark.parametrize("options", [None, "amg_cg"])
def test_a_torus_up_to_a_constant(options):
    """-Δu = f on a torus, ∫ u dx = 0: u = f/(4π²), with the corner at the end of a chain of masters."""
    errors = []
    for n in (8, 16):
        domain = relax.meshes.unit_square(n)
        V = fem.functionspace(domain, ("Lagrange", 1))
        u, v, f, k = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Function(V)
        f.interpolate(lambda x: np.cos(2 * np.pi * (x[0] + 0.1)) + np.sin(2 * np.pi * x[1]))
        F = (ufl.exp(k) * inner(grad(u), grad(v)) - f * v) * dx
        mpc = periodic(V, RIGHT, TOP_LESS_CORNER)
        problem = relax.Problem(residual=F, state=u, controls=[k], mpc=mpc, nullspace="constants")
        mean, square = (relax.Functional(form) for form in (u * dx, (u - f / (4 * np.pi**2)) ** 2 * dx))
        value, _ = solved(problem, relax.Stack([mean, square]), options=options)
        assert abs(value[0]) < 1e-12
        errors.append(value[1] ** 0.5)
    assert errors[1] < 1e-3 and 1.8 < np.log2(errors[0] / errors[1]) < 2.2


def test_from_a_guess_that_is_the_state():
    """No step is taken, and no operator of one is looked at."""
    V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    f.interpolate(lambda x: x[0])
    F = ((1 + u**2) * inner(grad(u), grad(v)) + (u + u**3 - f) * v) * dx
    problem = relax.Problem(residual=F, state=u, controls=[f], mpc=periodic(V, RIGHT))
    for _ in range(2):
        with relax.ReducedMap(problem, relax.Functional(u * dx)) as G:
            value = G(G.present_control())
    close(value, solved(problem, relax.Functional(u * dx))[0], 1e-9)


@pytest.mark.ranks(1)
def test_a_master_that_is_named_twice():
    domain = relax.meshes.interval(4)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    f.interpolate(lambda x: np.exp(x[0]))
    F = (inner(grad(u), grad(v)) + u * v - f * v) * dx
    left, right = (fem.locate_dofs_geometrical(V, lambda x, s=s: np.isclose(x[0], s)) for s in (0.0, 1.0))
    mpc = dolfinx_mpc.MultiPointConstraint(V)
    masters, owners = np.tile(left, 2).astype(np.int64), np.zeros(2, dtype=np.int32)
    mpc.add_constraint(V, right, masters, np.array([0.5, 0.25]), owners, np.array([0, 2], dtype=np.int32))
    mpc.finalize()
    solved(relax.Problem(residual=F, state=u, controls=[f], mpc=mpc), relax.Functional(u**2 * dx))
    close(u.x.array[right], 0.75 * u.x.array[left], 1e-12)


def test_blocks():
    """Stokes flow between walls under a force along them, Poiseuille's: exact in Taylor and Hood's elements."""
    domain = relax.meshes.unit_square(4)
    V, Q = fem.functionspace(domain, ("Lagrange", 2, (2,))), fem.functionspace(domain, ("Lagrange", 1))
    u, p = fem.Function(V, name="u"), fem.Function(Q, name="p")
    nu, force = fem.Constant(domain, 0.7), fem.Constant(domain, (1.4, 0.0))
    v, q = ufl.TestFunctions(ufl.MixedFunctionSpace(V, Q))
    F = (nu * inner(grad(u), grad(v)) - p * div(v) - q * div(u) - inner(force, v)) * dx
    bcs = [relax.clamp(V, ["top", "bottom"], 0.0)]
    mpc = [periodic(V, RIGHT, bcs=bcs), periodic(Q, RIGHT)]
    problem = relax.Problem(
        residual=F, state=[u, p], controls=[nu, force], bcs=bcs, mpc=mpc, nullspace="constants", name="channel"
    )
    x = ufl.SpatialCoordinate(domain)
    exact = ufl.as_vector([x[1] * (1 - x[1]), 0.0])
    seen = relax.Stack([relax.Functional(form) for form in (inner(u - exact, u - exact) * dx, p**2 * dx, u[0] * dx)])
    value, _ = solved(problem, seen)
    close(value, [0.0, 0.0, 1 / 6], 1e-12)


def test_vectors_with_rigid_motions_of_multigrid():
    """A sheet that is periodic along x, by components tied through parts of the space, by a factor and by GAMG."""
    domain = relax.meshes.unit_square(8)
    V = fem.functionspace(domain, ("Lagrange", 1, (2,)))
    u, v, load = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    load.interpolate(lambda x: np.array([x[1] * np.sin(2 * np.pi * x[0]), x[0] ** 2]))
    strain, bcs = ufl.sym(grad(u)), [relax.clamp(V, "bottom", 0.0)]
    F = (inner(2 * strain + ufl.tr(strain) * ufl.Identity(2), grad(v)) - inner(load, v)) * dx
    problem = relax.Problem(residual=F, state=u, controls=[load], bcs=bcs, mpc=periodic(V, RIGHT, bcs=bcs))
    iterative = {"ksp_type": "cg", "pc_type": "gamg", "ksp_rtol": 1e-12}
    (direct, _), (found, _) = (solved(problem, relax.FieldValues(V), options=options) for options in (None, iterative))
    close(found, direct, 1e-9)


@pytest.mark.parametrize("scheme", ["theta", "newmark"])
def test_in_time_as_by_symmetry(scheme):
    """What is odd about the ends and the middle is periodic: steps are those between walls at these."""
    seen = []
    for is_tied in (True, False):
        domain = relax.meshes.interval(16)
        V = fem.functionspace(domain, ("Lagrange", 1))
        u, v, start = fem.Function(V), ufl.TestFunction(V), fem.Function(V, name="start")
        start.interpolate(lambda x: np.sin(2 * np.pi * x[0]) + 0.2 * np.sin(4 * np.pi * x[0]))
        held = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0] * (1 - x[0]) * (x[0] - 0.5), 0.0))
        given = {"mpc": periodic(V, RIGHT)} if is_tied else {"bcs": [fem.dirichletbc(0.0, held, V)]}
        R, shared = (inner(grad(u), grad(v)) + u**3 * v) * dx, {"initial": start, "dt": 0.01, "num_steps": 4, **given}
        steps = (
            relax.problem.theta_evolution(R, u, theta=0.5, **shared)
            if scheme == "theta"
            else relax.newmark_evolution(R, 1.0, u, **shared)
        )
        seen.append(solved(steps, relax.TimeIntegral(relax.Functional(u**2 * dx)))[0])
    close(*seen, 1e-10)


class TestInWords:
    def problem(self, mpc, *, V=None, bcs=None, state=None):
        V = self.V if V is None else V
        u, v = fem.Function(V), ufl.TestFunction(V)
        f = fem.Function(V)
        F = (inner(grad(u), grad(v)) + u * v - f * v) * dx
        return relax.Problem(residual=F, state=u, controls=[f], bcs=bcs or [], mpc=mpc)

    @pytest.fixture(autouse=True)
    def space(self):
        self.V = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))

    def refused(self, words, *args, **more):
        with pytest.raises(BadProblem, match=words):
            self.problem(*args, **more)

    def test_what_is_none(self):
        self.refused("mpc: expected a dolfinx_mpc.MultiPointConstraint, got str", "periodic")
        self.refused("call its finalize", dolfinx_mpc.MultiPointConstraint(self.V))

    def test_of_another_space(self):
        W = fem.functionspace(self.V.mesh, ("Lagrange", 2))
        self.refused("expected a constraint on the space of", periodic(W, RIGHT))
        other = fem.functionspace(relax.meshes.unit_square(2), ("Lagrange", 1))
        self.refused("on another mesh", periodic(other, RIGHT))

    def test_slaves_that_are_held(self):
        bcs = [relax.clamp(self.V, ["left", "right"], 0.0)]
        self.refused("some of its slaves are held by bcs, too", periodic(self.V, RIGHT), bcs=bcs)

    @pytest.mark.parametrize("other", [RIGHT, TOP], ids=["side", "corner"])
    def test_slaves_that_are_tied_twice(self, other):
        self.refused("some values are tied twice", periodic(self.V, RIGHT, other))

    def test_a_circle(self):
        LEFT = (lambda x: np.isclose(x[0], 0.0), lambda x: np.array([x[0] + 1.0, x[1], x[2]]))
        problem = self.problem(periodic(self.V, RIGHT, LEFT))
        with pytest.raises(BadProblem, match="in a circle"):
            relax.ReducedMap(problem, relax.FieldValues(self.V))

    def test_blocks_want_a_list(self):
        u, p = fem.Function(self.V, name="u"), fem.Function(self.V, name="p")
        v, q = ufl.TestFunctions(ufl.MixedFunctionSpace(self.V, self.V))
        F = (u * v + inner(grad(p), grad(q)) + p * q - u * q) * dx
        with pytest.raises(BadProblem, match="expected a list with a constraint, or None, for each of 'u' and 'p'"):
            relax.Problem(residual=F, state=[u, p], controls=[], mpc=periodic(self.V, RIGHT))

    def test_what_does_not_know_of_it(self):
        problem = self.problem(periodic(self.V, RIGHT))
        with pytest.raises(BadProblem, match="ResidualLoss: expected values of the state that are free"):
            relax.ResidualLoss(problem)
        with relax.ReducedMap(problem, relax.Functional(problem.state**2 * dx)) as G:
            with G.linearize(G.present_control()) as lin, pytest.raises(BadInput, match="without an mpc"):
                relax.dual_weighted_residual(lin, np.ones(1))

    @pytest.mark.ranks(1)
    def test_what_is_for_values_that_are_free(self):
        with relax.ReducedMap(self.problem(periodic(self.V, RIGHT)), relax.FieldValues(self.V)) as G:
            for other in (DenseMap, relax.train.poisson_inverse):
                with pytest.raises(BadInput, match="an mpc"):
                    other(G)
