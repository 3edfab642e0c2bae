"""Newton's method where its line search fails: full steps, then a path; what rounding leaves; words for the rest."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import ufl
from contract import close, raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI
from petsc4py import PETSc

from relax import (
    BadInput,
    Continuation,
    FieldValues,
    Newton,
    PointValues,
    Problem,
    ReducedMap,
    SolveFailed,
    check_map,
    clamp_boundary,
    meshes,
    pdes,
)
from relax.engine.solve import state

COMM = MPI.COMM_WORLD
BASIC = {"snes_linesearch_type": "basic"}
TIP = np.array([[20.0, 0.5, 0.5], [8.0, 1.0, 0.0]])
QUADRATURE = {"quadrature_degree": 4}


def beam(load, comm=COMM, with_path=False):
    """DOLFINx's hyperelastic beam, neo-Hookean, in fewer cells: clamped at the left, pulled down at the right."""
    domain = mesh.create_box(comm, [[0.0, 0.0, 0.0], [20.0, 1.0, 1.0]], [6, 1, 1], mesh.CellType.hexahedron)
    V = fem.functionspace(domain, ("Lagrange", 1, (3,)))
    u, v = fem.Function(V), ufl.TestFunction(V)
    traction, modulus = fem.Constant(domain, load), fem.Constant(domain, 1e4)
    right = mesh.locate_entities_boundary(domain, 2, lambda x: np.isclose(x[0], 20.0))
    tags = mesh.meshtags(domain, 2, np.sort(right), np.ones(len(right), dtype=np.int32))
    F = ufl.variable(ufl.Identity(3) + ufl.grad(u))
    mu, lmbda, log_j = modulus / 2.6, modulus * 0.3 / (1.3 * 0.4), ufl.ln(ufl.det(F))
    stress = ufl.diff(mu / 2 * (ufl.tr(F.T * F) - 3) - mu * log_j + lmbda / 2 * log_j**2, F)
    ds = ufl.ds(domain=domain, subdomain_data=tags, metadata=QUADRATURE)(1)
    residual = ufl.inner(ufl.grad(v), stress) * ufl.dx(metadata=QUADRATURE) + traction * v[2] * ds
    left = fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0.0))
    bcs = [fem.dirichletbc(np.zeros(3), left, V)]
    control, path = (modulus, Continuation(traction, 1.0)) if with_path else (traction, None)
    return Problem(residual=residual, state=u, controls=[control], bcs=bcs, name="beam", continuation=path)


def seen(problem, options=None, **settings):
    """The map to displacements of two points."""
    observed = PointValues(problem.state.function_space, TIP)
    return ReducedMap(problem, observed, options=options, solver=Newton(**settings))


def by_hand(problem):
    """Full Newton steps in plain DOLFINx, on this rank alone, until they are of no length: the state is left there."""
    u = problem.state
    F, J = fem.form(problem.residual), fem.form(ufl.derivative(problem.residual, u))
    held = np.zeros(len(u.x.array), dtype=bool)
    for bc in problem.bcs:
        held[bc.dof_indices()[0]] = True
    free = np.flatnonzero(~held)
    for _ in range(20):
        A = fem.assemble_matrix(J).to_scipy().tocsc()[free][:, free]
        step = scipy.sparse.linalg.spsolve(A, fem.assemble_vector(F).array[free])
        u.x.array[free] -= step
        if np.abs(step).max() < 1e-9 * np.abs(u.x.array).max():
            return
    raise AssertionError("full steps do not converge")


def words_of(G):
    return str(raised_everywhere(SolveFailed, lambda: G(G.present_control())))


# -- full steps --------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_a_beam_that_stretches_before_it_bends(caplog):
    """Backtracking crawls at any load; full steps meet plain DOLFINx's state, and derivatives there are right."""
    reference = beam(1.5, MPI.COMM_SELF)
    by_hand(reference)
    with seen(beam(1.5), max_steps=12) as G, seen(beam(1.5), BASIC) as other:
        m = G.present_control()
        with caplog.at_level("WARNING", logger="relax"):
            y, dy = G(m), G.linearize(m).vjp(np.ones(6))
        told = [text for text in caplog.messages if "-relax_beam_snes_linesearch_type basic" in text]
        assert len(told) == 1 and "12 steps" in told[0]
        close(y, PointValues(reference.state.function_space, TIP).value(reference.state), 1e-8)
        close(y, other(m))
        close(dy, other.linearize(m).vjp(np.ones(6)))
        assert check_map(other, m).failures == []


@pytest.mark.ranks(1, 2)
def test_who_chooses_a_line_search_keeps_it():
    with seen(beam(1.5), {"snes_linesearch_type": "bt"}, max_steps=12) as G:
        words = words_of(G)
    assert "12 steps" in words and "full steps" not in words
    assert "-relax_beam_snes_linesearch_type (bt, basic, l2), or a relax.Continuation" in words


def test_a_search_that_goes_well_is_left_alone(monkeypatch):
    """No other solver is made, and the steps are those that PETSc takes by itself."""
    made, created = penalised(1e3), []
    init = state.NewtonSolver.__init__
    monkeypatch.setattr(state.NewtonSolver, "__init__", lambda self, *a: (created.append(self), init(self, *a))[1])
    with ReducedMap(made, FieldValues(made.state.function_space)) as G:
        G(G.present_control())
        (newton,) = created
        steps = newton._snes.getIterationNumber()
        newton._snes.cancelMonitor()
        G(G.present_control())
        assert newton._snes.getIterationNumber() == steps > 5


# -- penalties ---------------------------------------------------------------------------------------------------------


def penalised(penalty):
    """A membrane pressed onto an obstacle, which a penalty stands for."""
    V = fem.functionspace(meshes.unit_square(8), ("Lagrange", 1))
    u, v, f, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, -5.0), fem.Constant(V.mesh, penalty)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - f * v - k * ufl.max_value(-0.1 - u, 0.0) * v) * ufl.dx
    return Problem(residual=F, state=u, controls=[f], bcs=[clamp_boundary(V)], name="membrane")


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("options", [None, BASIC], ids=["default", "basic"])
def test_a_stiff_penalty(options):
    """Its residual grows 1e6 times before it falls: PETSc's limit of 1e4 would end it."""
    made = penalised(1e9)
    with ReducedMap(made, FieldValues(made.state.function_space), options=options) as G:
        assert G(G.present_control()).min() == pytest.approx(-0.1, abs=1e-6)


# -- a path ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_a_path_of_loads(caplog):
    """From rest neither way of stepping gets there; along a path, the user's or the one from rest, full steps do."""
    with seen(beam(40.0, with_path=True), max_steps=12) as G, seen(beam(40.0)) as other:
        y, modulus = G(G.present_control()), G.present_control()
        with caplog.at_level("WARNING", logger="relax"):
            close(other([40.0]), y, 1e-8)
        (told,) = [text for text in caplog.messages if "as if loads grew from nothing" in text]
        assert "crawls: 10 steps" in told and "NaN or infinity" in told
        assert check_map(other, [40.0]).failures == []
        # Twice the load on what is twice as stiff.
        G.problem.continuation.constant.value = 80.0
        close(G(2.0 * modulus), y, 1e-8)


@pytest.mark.ranks(1, 2)
def test_a_path_that_ends():
    """-u'' = c exp(u) between zeros has a state for c up to 3.5138 (Frank-Kamenetskii), and none for 5."""
    V = fem.functionspace(meshes.interval(16), ("Lagrange", 2))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 5.0)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - c * ufl.exp(u) * v) * ufl.dx
    made = Problem(residual=F, state=u, controls=[c], bcs=[clamp_boundary(V)], name="flame")
    with ReducedMap(made, FieldValues(V)) as G:
        words = words_of(G)
        assert G([3.51]).max() == pytest.approx(1.13, abs=0.01)
    assert "found no decrease" in words and "With full steps (-relax_flame_snes_linesearch_type basic)" in words
    assert "there was a state with 34% of them and none soon after" in words and "or a relax.Continuation" in words


# -- what rounding leaves ----------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("options", [None, BASIC], ids=["default", "basic"])
def test_what_rounding_leaves_is_no_failure(options):
    """Strains of 1e-5 beside 1: stresses are known to 1e-11 of themselves, the tolerance is 1e-10 of a small load."""
    with seen(beam(1e-4), options, max_steps=8) as G:
        small = G(G.present_control())
        assert small[2] == pytest.approx(G(10.0 * G.present_control())[2] / 10.0, rel=1e-4)
        close(G.linearize(G.present_control()).jvp(np.full(1, 1e-4))[2], small[2], 1e-4)


# -- words -------------------------------------------------------------------------------------------------------------


def p_laplacian(p):
    V = fem.functionspace(meshes.unit_square(4), ("Lagrange", 1))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 1.0)
    size = ufl.inner(ufl.grad(u), ufl.grad(u))
    F = (size ** ((p - 2) / 2) * ufl.inner(ufl.grad(u), ufl.grad(v)) - f * v) * ufl.dx
    return Problem(residual=F, state=u, controls=[f], bcs=[clamp_boundary(V)], name="p_laplacian")


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("p", "what"), [(4, "is zero in 9 of 25 rows"), (3, "is NaN or infinite in 9 of 25 rows"), (1.5, "p below 2")]
)
def test_a_p_laplacian_that_starts_flat(p, what):
    made = p_laplacian(p)
    field = FieldValues(made.state.function_space)
    with ReducedMap(made, field) as G:
        words = words_of(G)
    assert what in words and "gradient" in words and "full steps" not in words
    made.state.interpolate(lambda x: x[0] * (1 - x[0]) * x[1] * (1 - x[1]))
    with ReducedMap(made, field) as G:
        assert G(G.present_control()).max() > 0.01


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("where", ["call", "command line"])
@pytest.mark.parametrize("linear", [False, True])
def test_bounds_that_are_not_there(linear, where):
    """A method between bounds, without any, would solve the equation and look as if it had heeded them."""
    made = pdes.poisson.source(meshes.unit_square(4)) if linear else penalised(1.0)
    name = f"relax_{made.name}_snes_type"
    options = {"snes_type": "vinewtonssls"} if where == "call" else None
    if where == "command line":
        PETSc.Options().setValue(name, "vinewtonrsls")
    try:
        field = FieldValues(made.state.function_space)
        words = str(raised_everywhere(BadInput, lambda: ReducedMap(made, field, options=options)))
    finally:
        PETSc.Options().delValue(name)
    assert f"-{name} vinewton" in words and "bounds" in words
