"""Nothing fails silently: what PETSc calls converged is checked, and every failure has its reason in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere
from dolfinx import fem, jit
from mpi4py import MPI
from petsc4py import PETSc

import relax
from relax import FieldValues, Newton, ReducedMap, errors, meshes, pdes
from relax.base.fem import cache
from relax.base.la.linear import LinearSolver
from relax.base.la.options import PRESETS
from relax.engine.residual.residual import Residual
from relax.errors import BadInput, BadProblem, RelaxError, SolveFailed

COMM = MPI.COMM_WORLD
LAST = COMM.size - 1


def problem(*, kappa=1.0, reaction=0.0, power=1, clamped=True, name="failing", n=6):
    """-div(kappa grad u) + reaction u^power = m, kappa a field that is no control."""
    V = fem.functionspace(meshes.unit_square(n), ("Lagrange", 1))
    u, v, m, k = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Function(V)
    k.x.array[:] = kappa
    F = (k * ufl.inner(ufl.grad(u), ufl.grad(v)) + reaction * u**power * v - m * v) * ufl.dx
    bcs = [relax.clamp_boundary(V)] if clamped else []
    return relax.Problem(residual=F, state=u, controls=[m], bcs=bcs, name=name), k


def map_of(made, options=None, **more):
    return ReducedMap(made, FieldValues(made.state.function_space), options=options, **more)


def fails(made, m=1.0, options=None, **more):
    """The words with which a solve fails, the same kind of error on each rank."""
    with map_of(made, options, **more) as G:
        error = raised_everywhere(SolveFailed, lambda: G(np.full(G.size_in, m)))
    text = str(error)
    assert f"relax_{made.name}_" in text and text.count(". ") >= 1, text
    return text


# -- converged, and wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [None, "direct", "amg_cg", "amg_gmres"], ids=str)
def test_pure_neumann(options):
    """A "converged" KSP is not a correct one: MUMPS and CG report success on a singular operator, with |u| = 1e13."""
    with map_of(problem(clamped=False)[0], options) as G:
        with pytest.raises(BadProblem, match=r"a constant is added to the state.*relax\.clamp"):
            G(np.ones(G.size_in))


@pytest.mark.parametrize("options", [None, "direct", "amg_cg", "amg_gmres"], ids=str)
@pytest.mark.parametrize("kappa", [0.0, np.nan, np.inf])
def test_coefficients_out_of_range(kappa, options):
    """kappa = 0 gives CG a "converged" zero; what NaN in a coefficient gives depends on the solver."""
    fails(problem(kappa=kappa)[0], options=options)


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("options", [None, "amg_cg"], ids=str)
def test_nan_in_one_cell_of_one_rank(options):
    """One value on one rank, and every rank raises."""
    made, kappa = problem()
    if COMM.rank == LAST:
        kappa.x.array[:1] = np.nan
    fails(made, options=options)


@pytest.mark.ranks(1, 2)
def test_nan_comes_and_goes():
    """A map goes on after a failure: the next good coefficient gives the right answer."""
    made, kappa = problem()
    with map_of(made) as G, map_of(problem()[0]) as other:
        m = np.ones(G.size_in)
        good = other(m)
        for bad in (np.nan, 0.0):
            kappa.x.array[:] = bad
            raised_everywhere(SolveFailed, lambda: G(m))
            kappa.x.array[:] = 1.0
            close(G(m), good)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("adjoint", [False, True], ids=["forward", "adjoint"])
def test_nan_in_the_right_hand_side(name, adjoint):
    """MUMPS reports success on NaN in the right-hand side, also with ksp_error_if_not_converged."""
    residual = Residual(problem()[0])
    solver = LinearSolver(COMM, "relax_nan_", PRESETS[name], self_adjoint=name in ("direct_symmetric", "amg_cg"))
    A = residual.create_matrix()
    residual.assemble_matrix(A)
    solver.factor(A)
    b, x = A.createVecLeft(), A.createVecRight()
    # Written on all ranks: PETSc remembers norms, and a rank with unchanged values takes no part in the next one.
    b.array[:] = np.where((np.arange(b.local_size) == 0) & (COMM.rank == LAST), np.nan, 1.0)
    solve = solver.solve_adjoint if adjoint else solver.solve
    text = str(raised_everywhere(SolveFailed, lambda: solve(b, x)))
    assert "not finite" in text or "NaN or infinity" in text
    b.set(0.0)
    solve(b, x)
    assert x.norm() == 0.0
    for item in (b, x, A, solver):
        item.destroy()


def test_mumps_calls_nan_a_success():
    """Why the answer is checked. Should this fail one day, a check has become superfluous."""
    residual = Residual(problem()[0])
    A = residual.create_matrix()
    residual.assemble_matrix(A)
    solver = LinearSolver(COMM, "relax_nan_", PRESETS["direct"], self_adjoint=False)
    solver.factor(A)
    b, x = A.createVecLeft(), A.createVecRight()
    b.set(np.nan)
    solver.ksp.solve(b, x)
    assert solver.ksp.getConvergedReason() > 0 and np.isnan(x.norm())
    for item in (b, x, A, solver):
        item.destroy()


# -- reasons in words --------------------------------------------------------------------------------------------------


def test_too_few_iterations():
    text = fails(problem()[0], options={"ksp_type": "cg", "pc_type": "none", "ksp_max_it": 1})
    assert "did not reach its tolerance within ksp_max_it iterations" in text
    assert "cg with none" in text and "Iterations: 1" in text and "-relax_failing_ksp_max_it" in text


def test_indefinite_operators_and_conjugate_gradients():
    text = fails(problem(reaction=-60.0)[0], options={"ksp_type": "cg", "pc_type": "none"})
    assert "found the operator indefinite" in text


def test_a_preconditioner_alone():
    text = fails(problem()[0], options={"ksp_type": "preonly", "pc_type": "jacobi"})
    assert "true relative residual" in text and "Krylov method" in text


@pytest.mark.ranks(1, 2)
def test_an_adjoint_that_does_not_converge():
    """Tangent and adjoint are solves like the state's."""
    made, _ = problem()
    with map_of(made, {"lin_ksp_type": "cg", "lin_pc_type": "none", "lin_ksp_max_it": 2}) as G:
        lin = G.linearize(np.ones(G.size_in))
        for product in (lin.vjp, lin.jvp):
            text = str(raised_everywhere(SolveFailed, lambda p=product: p(np.cos(np.arange(G.size_in)))))
            assert "relax_failing_lin_" in text and "within ksp_max_it" in text


def test_newton_with_too_few_steps():
    text = fails(problem(reaction=10.0, power=3)[0], m=200.0, solver=Newton(max_steps=1))
    assert (
        "within the allowed steps: 1 steps" in text and "-relax_failing_snes_monitor" in text and "first guess" in text
    )


def test_newton_whose_linear_solve_fails():
    options = {"ksp_type": "gmres", "pc_type": "none", "ksp_max_it": 1}
    text = fails(problem(reaction=10.0, power=3)[0], options=options)
    assert "had a linear solve fail, which did not reach its tolerance" in text


def test_newton_and_nan():
    made, kappa = problem(reaction=10.0, power=3)
    kappa.x.array[:] = np.nan
    text = fails(made)
    assert "NaN or infinity" in text or "not finite" in text


@pytest.mark.ranks(1, 2)
def test_newton_goes_on_after_a_failure():
    """A failed solve leaves nothing behind: the next starts from the first guess of the map."""
    made, kappa = problem(reaction=10.0, power=3)
    with map_of(made) as G:
        m = np.full(G.size_in, 5.0)
        good = G(m)
        kappa.x.array[:] = np.nan
        raised_everywhere(SolveFailed, lambda: G(m))
        kappa.x.array[:] = 1.0
        close(G(m), good)


@pytest.mark.ranks(1, 2)
def test_a_state_that_overflows():
    """exp(m) of a control that is finite can be infinite."""
    made = pdes.poisson.diffusion(meshes.unit_square(4))
    with map_of(made) as G:
        raised_everywhere(SolveFailed, lambda: G(np.full(G.size_in, 1e4)))
        raised_everywhere(SolveFailed, lambda: G(np.full(G.size_in, -1e4)))
        assert np.isfinite(G(np.zeros(G.size_in))).all()


def test_every_reason_of_petsc_has_a_sentence():
    """A number is no message."""
    from relax.base.la.options import _KSP_REASONS, _SNES_REASONS

    for reasons, known in ((PETSc.KSP.ConvergedReason, _KSP_REASONS), (PETSc.SNES.ConvergedReason, _SNES_REASONS)):
        failures = {value for name, value in vars(reasons).items() if isinstance(value, int) and value < 0}
        assert failures <= set(known)
        assert all(len(sentence.split()) > 1 for sentence in known.values())


# -- the user's mistakes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisson():
    made = pdes.poisson.diffusion(meshes.unit_square(3))
    with map_of(made) as G:
        yield G


MISTAKES = {
    "length": (lambda G: G(np.zeros(3)), "control: expected shape (..., 16), got (3,)"),
    "nan": (lambda G: G(np.full(16, np.nan)), "control: 16 of 16 entries are NaN or infinite"),
    "complex": (lambda G: G(np.zeros(16, complex)), "expected real numbers"),
    "words": (lambda G: G("conductivity"), "control: expected"),
    "several": (lambda G: G.linearize(np.zeros((2, 16))), "expected one control of shape (16,), got (2, 16)"),
    "seed": (lambda G: G.linearize(np.zeros(16)).vjp(np.zeros(5)), "observation: expected shape (..., 16), got (5,)"),
    "direction": (
        lambda G: G.linearize(np.zeros(16)).jvp(np.zeros(5)),
        "direction: expected shape (..., 16), got (5,)",
    ),
    "axes": (lambda G: G.linearize(np.zeros(16)).hvp(np.zeros((2, 16)), np.zeros((3, 16))), "do not fit together"),
    "functions": (lambda G: relax.control_values(G, 1.0, 2.0), "expected 1 or 1 functions"),
    "preset": (lambda G: map_of(G.problem, "quick"), "got 'quick'"),
    "layout": (lambda G: map_of(G.problem, layout="gathered"), "got 'gathered'"),
    "storage": (lambda G: map_of(G.problem, storage=3), "no trajectory"),
}


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_on_every_rank(poisson, name):
    """Expected, got, and what to try; BadInput, which is a ValueError."""
    mistake, words = MISTAKES[name]
    error = raised_everywhere(BadInput, lambda: mistake(poisson))
    assert words in str(error) and isinstance(error, ValueError)
    assert np.isfinite(poisson(np.zeros(16))).all()


@pytest.mark.ranks(1, 2)
def test_a_mistake_on_one_rank_alone(poisson):
    """The others are told, and none waits."""
    m = np.zeros(16 if COMM.rank < LAST else 3)
    assert "got (3,)" in str(raised_everywhere(BadInput, lambda: poisson(m)))


@pytest.mark.ranks(1, 2)
def test_a_closed_point(poisson):
    lin = poisson.linearize(np.zeros(16))
    lin.close()
    assert lin.value.shape == (16,)
    assert "linearise again" in str(raised_everywhere(BadInput, lambda: lin.vjp(np.zeros(16))))


@pytest.mark.ranks(1, 2)
def test_problems_that_do_not_fit_together():
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1))
    u, v, m, w = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Function(V)
    F = (u * v - m * v) * ufl.dx
    cases = {
        "did you multiply by dx": {"residual": u * v},
        "not a TrialFunction": {"residual": u**2 * ufl.dx},
        "does not stand in the residual": {"state": w},
        "stands neither in the residual": {"controls": [w]},
        "is the state": {"controls": [u]},
        "expected Dirichlet conditions": {"bcs": [0.0]},
        "expected letters": {"name": "my problem"},
    }
    for words, changed in cases.items():
        arguments = {"residual": F, "state": u, "controls": [m]} | changed
        error = raised_everywhere(BadProblem, lambda a=arguments: relax.Problem(**a))
        assert words in str(error)


def test_every_error_is_a_relax_error():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) == 7 and all(issubclass(kind, RelaxError) and kind.__doc__ for kind in kinds)


# -- the cache of compiled forms ---------------------------------------------------------------------------------------


def test_init_sweeps(tmp_path, monkeypatch):
    """At the start of every parallel run, by one process of each node, in the folder that DOLFINx uses."""
    swept = []
    monkeypatch.setattr(cache, "sweep_stale_forms", lambda *a, **k: swept.append(a))
    relax.init([])
    assert swept == [()]
    assert cache.form_cache() == Path(jit.get_options()["cache_dir"])


def test_openblas_is_in_the_package_list():
    """Debian's default BLAS is the reference one, on which 3-D direct solves take ten times longer."""
    listed = (Path(__file__).resolve().parents[2] / "environment" / "packages.txt").read_text(encoding="utf-8").split()
    assert "libopenblas0-pthread" in listed
