"""Linear solvers: adjoints that can be trusted, symmetric operators, blocks of right-hand sides."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from advection import SUPERLU_DIST, advection, control, directions, map_of, solver_of
from contract import close, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from petsc4py import PETSc

import relax
from relax import Newton, meshes
from relax.base.la import linear
from relax.base.la import options as petsc_options
from relax.base.la.linear import LinearSolver
from relax.base.la.options import PRESETS
from relax.engine.residual.residual import Residual
from relax.errors import SolveFailed

COMM = MPI.COMM_WORLD


def one_rank_package(package):
    """For a factorisation that works on one rank only, and that not every PETSc has."""
    return [
        pytest.mark.skipif(COMM.size > 1, reason="this factorisation works on one rank only"),
        pytest.mark.skipif(
            package != "petsc" and not petsc_options.has(package), reason=f"this PETSc has no {package}"
        ),
    ]


# Tight, so that what is compared to a direct solver is the solver and not its tolerance.
TIGHT = {"ksp_rtol": 1e-12}
SOLVERS = [
    pytest.param(SUPERLU_DIST, False, id="superlu_dist"),
    pytest.param({**PRESETS["amg_gmres"], **TIGHT}, False, id="amg_gmres"),
    pytest.param({"ksp_type": "gmres", "pc_type": "gamg", **TIGHT}, False, id="gamg"),
    pytest.param({"pc_factor_mat_solver_type": "mumps"}, True, id="mumps"),
    pytest.param({"pc_factor_mat_solver_type": "umfpack"}, True, id="umfpack", marks=one_rank_package("umfpack")),
    pytest.param({"pc_factor_mat_solver_type": "superlu"}, True, id="superlu", marks=one_rank_package("superlu")),
    pytest.param({"pc_factor_mat_solver_type": "petsc"}, True, id="petsc", marks=one_rank_package("petsc")),
]


# -- adjoints ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_mumps():
    with map_of(advection()) as G:
        lin = G.linearize(control(G))
        seeds = directions(G, 3)
        return lin.value, lin.vjp(seeds), lin.jvp(seeds[:, : G.size_in]), lin.hvp(seeds[0], seeds[1])


@pytest.mark.parametrize(("chosen", "own_factor"), SOLVERS)
def test_adjoint_of_a_nonsymmetric_operator(by_mumps, chosen, own_factor):
    """SuperLU_DIST's transposed solve is wrong without a word, BoomerAMG's stalls: adjoints have an operator."""
    with map_of(advection(), chosen) as G:
        assert not G.residual.is_self_adjoint
        lin = G.linearize(control(G))
        seeds = directions(G, 3)
        singles = np.array([lin.vjp(seed) for seed in seeds])
        found = lin.value, lin.vjp(seeds), lin.jvp(seeds), lin.hvp(seeds[0], seeds[1])
        assert (solver_of(G)._transposed_ksp is None) == own_factor
        close(singles, found[1])
        for value, reference in zip(found, by_mumps, strict=True):
            close(value, reference, 1e-8)
        close(G.dot(singles[0], seeds[1]), seeds[0] @ found[2][1], 1e-8)


@pytest.mark.parametrize("memory", [2e9, 0.0], ids=["a factor for each", "two for all"])
@pytest.mark.parametrize("chosen", [SUPERLU_DIST, PRESETS["amg_gmres"]], ids=["superlu_dist", "amg_gmres"])
def test_transposed_operator_follows_the_point(chosen, memory):
    """The operator assembled for the adjoint is that of its own point, in whatever order points are asked."""
    with map_of(advection(), chosen, solver=Newton(factor_memory=memory)) as G, map_of(advection()) as reference:
        m = control(G)
        seed = directions(G, 1)[0]
        points = [G.linearize(factor * m) for factor in (1.0, -3.0, 8.0)]
        wanted = [reference.linearize(factor * m).vjp(seed) for factor in (1.0, -3.0, 8.0)]
        for i in (0, 2, 1, 0, 1, 2):
            close(points[i].vjp(seed), wanted[i], 1e-7)


def assembled(problem):
    """The operator of a linear problem at its present control."""
    residual = Residual(problem)
    A = residual.create_matrix()
    residual.assemble_matrix(A)
    return A


def solve_transposed_without_a_check():
    """(relative residual, reason) of KSP.solveTranspose with SuperLU_DIST."""
    solver = LinearSolver(COMM, "relax_unchecked_", {**PRESETS["direct"], **SUPERLU_DIST}, self_adjoint=False)
    A = solver.placed(assembled(advection()))
    b, x = A.createVecLeft(), A.createVecRight()
    b.set(1.0)
    solver.factor(A)
    solver.ksp.solveTranspose(b, x)
    r = b.duplicate()
    A.multTranspose(x, r)
    r.aypx(-1.0, b)
    found = r.norm() / b.norm(), solver.ksp.getConvergedReason()
    for item in (r, b, x, A, solver):
        item.destroy()
    return found


def test_superlu_dist_transposes_wrongly_and_says_nothing():
    """Why there is a white list: PETSc reports success. Should this fail one day, the list may grow."""
    residual, reason = solve_transposed_without_a_check()
    assert reason > 0
    assert residual > 0.1


@pytest.mark.ranks(1, 2)
def test_the_residual_check_sees_a_wrong_transposed_solve(monkeypatch):
    """A solver on the white list by mistake is caught by its true residual, on every rank."""
    monkeypatch.setattr(linear, "_TRANSPOSE_IS_RIGHT", {("lu", "superlu_dist")})
    with map_of(advection(), SUPERLU_DIST) as G:
        lin = G.linearize(control(G))
        error = raised_everywhere(SolveFailed, lambda: lin.vjp(directions(G, 1)[0]))
        assert "true relative residual" in str(error) and "superlu_dist" in str(error)


def test_adjoint_takes_as_many_iterations_as_forward():
    """Transposed BoomerAMG takes many times the iterations; a self-adjoint operator uses the solver as it is."""
    problem = relax.pdes.poisson.diffusion(meshes.unit_square(24))
    with map_of(problem, "amg_cg") as G:
        lin = G.linearize(control(G))
        ksp = solver_of(G).ksp
        forward = ksp.getIterationNumber()
        # The same right-hand side as the load of the forward problem: f = 1 everywhere.
        lin.vjp(np.ones(G.size_out))
        assert abs(ksp.getIterationNumber() - forward) <= 1
        assert solver_of(G)._transposed_ksp is None
        close(lin.value, map_of(problem)(control(G)), 1e-8)


# -- symmetric operators -----------------------------------------------------------------------------------------------


def factorisation(G):
    G(control(G))
    return solver_of(G)._package()


def test_symmetric_operators_get_cholesky():
    """Half of LU's work: Cholesky for symmetric operators, LU for the others."""
    with map_of(relax.pdes.poisson.diffusion(meshes.unit_square(4))) as G:
        assert factorisation(G) == ("cholesky", "mumps")
    with map_of(advection(n=4)) as G:
        assert factorisation(G) == ("lu", "mumps")


def test_an_advection_that_is_zero_now_is_no_symmetry():
    """A parameter can change after the map is made: symmetry is tried at random values, which are put back."""
    problem = advection(velocity=(0.0, 0.0), n=6)
    velocity = problem.residual.constants()[0]
    with map_of(problem) as G, map_of(advection(n=6)) as wanted:
        m, seed = control(G), directions(G, 1)[0]
        assert factorisation(G) == ("lu", "mumps")
        assert (velocity.value == 0.0).all() and (problem.controls[0].x.array == G.layout.split(m)[0]).all()
        velocity.value[:] = (20.0, 5.0)
        close(G.linearize(m).vjp(seed), wanted.linearize(m).vjp(seed))


@pytest.mark.ranks(1, 2)
def test_symmetric_and_indefinite():
    """Helmholtz: symmetric, not definite. Cholesky's L D Lᵀ is right; conjugate gradients say why they are not."""
    domain = meshes.unit_square(10)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - 90.0 * ufl.exp(m) * u * v - v) * ufl.dx
    problem = relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name="helmholtz")
    with (
        map_of(problem) as G,
        map_of(problem, "direct") as by_lu,
        map_of(problem, {"ksp_type": "cg", "pc_type": "none"}) as cg,
    ):
        m0, seed = control(G), directions(G, 1)[0]
        assert factorisation(G) == ("cholesky", "mumps") and factorisation(by_lu) == ("lu", "mumps")
        close(G.linearize(m0).vjp(seed), by_lu.linearize(m0).vjp(seed))
        assert "indefinite" in str(raised_everywhere(SolveFailed, lambda: cg(m0)))


# -- blocks ------------------------------------------------------------------------------------------------------------


class Watched:
    """A KSP that counts its solves, and can spoil a column of a block."""

    def __init__(self, ksp, spoil=None):
        self.ksp, self.spoil = ksp, spoil
        self.counts = {"matSolve": 0, "solve": 0, "solveTranspose": 0}

    def __getattr__(self, name):
        if name in self.counts:
            self.counts[name] += 1
        return getattr(self.ksp, name)

    def matSolve(self, B, X):
        self.counts["matSolve"] += 1
        self.ksp.matSolve(B, X)
        if self.spoil is not None:
            X.getDenseArray()[:, self.spoil] *= 1.001


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("adjoint", [False, True], ids=["forward", "adjoint"])
@pytest.mark.parametrize(("chosen", "own_factor"), SOLVERS)
def test_many_right_hand_sides_are_one_block_solve(monkeypatch, chosen, own_factor, adjoint):
    """A block of right-hand sides costs a fraction of a loop, also for MUMPS and Aᵀ (its parameter 9)."""
    with map_of(advection(), chosen) as G:
        G(control(G))
        solver = solver_of(G)
        rhs = np.random.default_rng(7 + COMM.rank).standard_normal((5, G.residual.num_owned))
        singles = np.concatenate([solver.solve_many(row[None, :], adjoint=adjoint) for row in rhs])
        watched = Watched(solver.ksp)
        monkeypatch.setattr(solver, "ksp", watched)
        together = solver.solve_many(rhs, adjoint=adjoint)
        monkeypatch.undo()
        close(together, singles, 1e-8)
        if "ksp_type" not in chosen and (not adjoint or chosen["pc_factor_mat_solver_type"] == "mumps"):
            assert watched.counts == {"matSolve": 1, "solve": 0, "solveTranspose": 0}
        else:
            assert watched.counts["matSolve"] == 0


@pytest.mark.ranks(1, 2)
def test_a_block_of_adjoints_leaves_the_factor_as_it_was():
    """MUMPS's switch to the transposed system is turned back, also when the block fails."""
    with map_of(advection()) as G:
        lin = G.linearize(control(G))
        seeds, m = directions(G, 4), directions(G, 1, seed=2)[0]
        before = lin.jvp(m)
        lin.vjp(seeds)
        close(lin.jvp(m), before, 1e-12)
        bad = np.full((3, G.residual.num_owned), np.nan)
        solver = solver_of(G)
        for adjoint in (False, True):
            raised_everywhere(SolveFailed, lambda adjoint=adjoint: solver.solve_many(bad, adjoint=adjoint))
        close(lin.jvp(m), before, 1e-12)


@pytest.mark.ranks(1, 2)
def test_one_wrong_column_of_a_block_is_seen(monkeypatch):
    """A block is checked by one weighted sum of its columns."""
    with map_of(advection()) as G:
        G(control(G))
        solver = solver_of(G)
        monkeypatch.setattr(solver, "ksp", Watched(solver.ksp, spoil=4))
        for adjoint in (False, True):
            error = raised_everywhere(
                SolveFailed, lambda a=adjoint: solver.solve_many(np.ones((6, G.residual.num_owned)), adjoint=a)
            )
            assert "true relative residual" in str(error)
        monkeypatch.undo()


@pytest.mark.ranks(1, 2)
def test_a_block_of_an_operator_that_was_not_factored_says_so():
    """As a single solve does, and not in the words of MUMPS about the order of its calls."""
    matrix = PETSc.Mat().createAIJ((4, 4), nnz=2, comm=COMM)
    start, end = matrix.getOwnershipRange()
    for row in range(start, end):
        matrix.setValues(row, [row, row ^ 1], [1.0, 1.0])
    matrix.assemble()
    solver = LinearSolver(COMM, "relax_singular_", petsc_options.DIRECT, self_adjoint=False)
    solver.factor(matrix)
    for k in (1, 3):
        error = raised_everywhere(SolveFailed, lambda k=k: solver.solve_many(np.ones((k, end - start))))
        assert "singular" in str(error) and "INFOG" not in str(error)
    matrix.destroy()
    solver.destroy()


def test_zero_right_hand_side():
    """A zero load is a solution of zero, not a division by its norm."""
    for name in ("direct", "amg_gmres"):
        with map_of(advection(), name) as G:
            lin = G.linearize(control(G))
            assert (lin.vjp(np.zeros(G.size_out)) == 0.0).all()
            assert (lin.vjp(np.zeros((3, G.size_out))) == 0.0).all()
            assert (lin.jvp(np.zeros((0, G.size_in))).shape) == (0, G.size_out)
