"""ReducedMap: control vectors, solver options, failures, how often operators are factored, awkward partitions."""

from __future__ import annotations

import numpy as np
import problems
import pytest
from contract import COMM, LAYOUTS, Bench, MapContract, close, everyone_has, raised_everywhere, same, values_of
from dolfinx import fem
from petsc4py import PETSc

from relax import FieldValues, Newton, PointValues, ReducedMap, control_values, meshes, pdes
from relax.base.fem.layout import SpaceLayout
from relax.base.la.linear import LinearSolver
from relax.engine.residual.residual import Residual
from relax.errors import BadInput, SolveFailed


def make(problem=pdes.poisson.diffusion, n=4, **options):
    problem = problem(meshes.unit_square(n))
    return ReducedMap(problem, FieldValues(problem.state.function_space), **options)


def noise(G, seed=0, scale=0.2):
    """Random values in the map's layout; the same on any number of ranks only under the replicated one."""
    rng = np.random.default_rng([seed, COMM.rank] if G.layout.kind == "owned" else seed)
    return scale * rng.standard_normal(G.size_in)


# -- control vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_control_values(layout):
    """Functions of x, numbers, and entries of a constant, in the order of the problem's controls."""
    G = make(problems.number_and_fields, layout=layout)
    m = control_values(G, lambda x: 1.0 + x[0] + 2.0 * x[1], 7.0, 3.0)
    assert m.shape == (G.size_in,)
    G.residual.registers.install_controls(G.layout.split(m))
    first, number, second = G.problem.controls
    points = first.function_space.tabulate_dof_coordinates()
    np.testing.assert_allclose(first.x.array, 1.0 + points[:, 0] + 2.0 * points[:, 1], rtol=1e-14)
    assert float(number.value) == 7.0 and (second.x.array == 3.0).all()
    close(G.present_control(), m)
    close(control_values(G, 2.0), np.full(G.size_in, 2.0))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_control_values_of_vectors(layout):
    G = make(problems.advection_constant, layout=layout)
    b = control_values(G, [3.0, 4.0])
    assert b.tolist() == ([3.0, 4.0] if layout == "replicated" or COMM.rank == 0 else [])
    close(control_values(G, lambda x: [3.0, 4.0]), b)
    G = make(problems.advection_field, layout=layout)
    b = control_values(G, lambda x: np.stack([x[0], -x[1]]))
    G.residual.registers.install_controls(G.layout.split(b))
    V = G.problem.controls[0].function_space
    np.testing.assert_allclose(
        G.problem.controls[0].x.array.reshape(-1, 2), V.tabulate_dof_coordinates()[:, :2] * [1.0, -1.0], atol=1e-15
    )
    close(G.layout.join([p[: _owned(V)] for p in G.layout.split(b)]), b)


def _owned(V):
    return V.dofmap.index_map.size_local * V.dofmap.index_map_bs


@pytest.mark.ranks(1, 2)
def test_control_values_in_replicated_order():
    """The same vector, to the bit, on every rank, in the order of the coordinates."""
    G = make(pdes.poisson.source)
    m = control_values(G, lambda x: x[0])
    everyone_has(m)
    assert (np.diff(m) > -1e-12).all()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ((1.0, 2.0), "1 or 3"),
        ((lambda x: x[0], [1.0, 2.0], 1.0), "numbers for a constant"),
        ((lambda x: np.ones((2, x.shape[1])), 1.0, 1.0), ""),
    ],
)
def test_control_values_that_do_not_fit(functions, words):
    assert words in str(
        raised_everywhere(Exception, lambda: control_values(make(problems.number_and_fields), *functions))
    )


# -- what is known of a problem ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "linear", "constant", "affine", "self_adjoint"),
    [
        (pdes.poisson.diffusion, True, False, False, True),
        (pdes.poisson.source, True, True, True, True),
        (problems.squared_source, True, True, False, True),
        (problems.dirichlet_field, True, True, True, True),
        (problems.neumann, True, True, False, True),
        (problems.advection_constant, True, False, False, False),
        (problems.advection_field, False, False, False, False),
        (problems.cubic_reaction, False, False, False, True),
        (problems.elasticity, True, False, False, True),
        (problems.stokes, True, False, False, True),
    ],
)
def test_structure(problem, linear, constant, affine, self_adjoint):
    residual = Residual(problem(meshes.unit_square(3)))
    found = residual.is_linear, residual.operator_is_constant, residual.is_affine, residual.is_self_adjoint
    assert found == (linear, constant, affine, self_adjoint)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "options"),
    [
        (pdes.poisson.diffusion, "direct"),
        (pdes.poisson.diffusion, "direct_symmetric"),
        (pdes.poisson.diffusion, "amg_cg"),
        (pdes.poisson.diffusion, {"ksp_type": "cg", "pc_type": "jacobi", "ksp_rtol": 1e-12}),
        (problems.advection_constant, "amg_gmres"),
        (problems.advection_field, "amg_gmres"),
        (problems.advection_field, {"ksp_type": "bcgs", "pc_type": "jacobi", "ksp_rtol": 1e-12}),
        (problems.cubic_reaction, {"lin_ksp_type": "cg", "lin_pc_type": "jacobi", "lin_ksp_rtol": 1e-12}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_other_solvers_give_the_same_derivatives(problem, options):
    """Up to their tolerance, 1e-10 and better, times the condition of these operators, below 1e3."""
    with make(problem) as expected, make(problem, options=options) as G:
        m, d, w = expected.present_control() + noise(expected), noise(expected, 1), np.ones(expected.size_out)
        with G.linearize(m) as lin, expected.linearize(m) as exact:
            close(lin.value, exact.value, 1e-7)
            for many in (1, 5):
                W, D = np.tile(w, (many, 1)), np.tile(d, (many, 1))
                close(lin.vjp(W), exact.vjp(W), 1e-7)
                close(lin.jvp(D), exact.jvp(D), 1e-7)
            close(lin.hvp(w, d), exact.hvp(w, d), 1e-7)


@pytest.mark.ranks(1, 2)
def test_options_stand_above_defaults_and_under_the_command_line():
    tired = {"ksp_type": "cg", "pc_type": "none", "ksp_max_it": 1}
    database = PETSc.Options()
    before = database.getAll()
    with make(options=tired) as G:
        words = str(raised_everywhere(SolveFailed, lambda: G(noise(G))))
    for word in ("relax_poisson_diffusion_", "cg with none", "within ksp_max_it", "Iterations: 1", "Try "):
        assert word in words
    database.setValue("relax_poisson_diffusion_ksp_max_it", 200)
    try:
        with make(options=tired) as G:
            assert np.isfinite(G(noise(G))).all()
    finally:
        database.delValue("relax_poisson_diffusion_ksp_max_it")
    assert database.getAll() == before


@pytest.mark.ranks(1, 2)
def test_options_for_derivatives_alone():
    with make(options={"lin_ksp_type": "cg", "lin_pc_type": "none", "lin_ksp_max_it": 1}) as G:
        lin = G.linearize(noise(G))
        assert "relax_poisson_diffusion_lin_" in str(
            raised_everywhere(SolveFailed, lambda: lin.vjp(np.ones(G.size_out)))
        )
        assert np.isfinite(G(noise(G))).all()


@pytest.mark.ranks(1, 2)
def test_wrong_settings():
    for options, words in (
        ({"options": "multigird"}, "amg_cg"),
        ({"layout": "scattered"}, "'replicated' or 'owned'"),
        ({"storage": "disk"}, "storage"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda options=options: make(**options)))


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_newton_says_why_it_failed_and_the_map_lives_on():
    G = make(problems.cubic_reaction, solver=Newton(max_steps=3))
    easy, hard = np.full(G.size_in, 1e-3), np.full(G.size_in, 1e4)
    y = G(easy)
    words = str(raised_everywhere(SolveFailed, lambda: G.linearize(hard)))
    for word in ("relax_cubic_reaction_", "within the allowed steps", "3 steps", "residual norm", "first guess"):
        assert word in words
    assert "as if loads grew" not in words  # which would take more steps than are allowed
    same(G(easy), y)
    with make(problems.cubic_reaction) as patient:
        assert np.isfinite(patient(hard)).all()


@pytest.mark.ranks(1, 2)
def test_an_overflow_is_a_failure_not_a_number():
    with make() as G:
        raised_everywhere(SolveFailed, lambda: G(np.full(G.size_in, -800.0)))
        assert np.isfinite(G(noise(G))).all()


def test_making_a_map_leaves_registers_as_they_are():
    """Whether the operator is symmetric is tried on random numbers in all of them."""
    problem = problems.reaction_constant(meshes.unit_square(4))
    with ReducedMap(problem, FieldValues(problem.state.function_space)) as G:
        registers = [*problem.controls, problem.state, *G.residual.registers.parameters]
    assert len(registers) == 3
    for k, register in enumerate(registers):
        values_of(register)[...] = 0.25 + k
    with ReducedMap(problem, FieldValues(problem.state.function_space)):
        for k, register in enumerate(registers):
            assert (values_of(register) == 0.25 + k).all()


def test_each_solve_starts_from_the_first_guess():
    """A nonlinear problem gives the same numbers whatever was solved before."""
    G = make(problems.cubic_reaction)
    m = np.full(G.size_in, 100.0)
    y = G(m)
    G(-5.0 * m)
    same(G(m), y)


# -- how often operators are factored ----------------------------------------------------------------------------------


@pytest.fixture
def factored(monkeypatch):
    """A list that grows by one for each factorisation."""
    done = []
    original = LinearSolver.factor
    monkeypatch.setattr(LinearSolver, "factor", lambda self, matrix: (done.append(1), original(self, matrix))[1])
    return done


def all_products(lin, G):
    w, d = np.ones(G.size_out), noise(G, 5)
    return lin.vjp(w), lin.jvp(d), lin.hvp(w, d), lin.vjp(np.eye(G.size_out)[:5]), lin.matrix()


def test_a_constant_operator_is_factored_once_in_a_maps_life(factored):
    with make(pdes.poisson.source) as G:
        M = np.array([noise(G, i) for i in range(5)])
        G(M[0])
        G(M)
        for m in M:
            with G.linearize(m) as lin:
                all_products(lin, G)
        assert len(factored) == 1
        k = G.residual.registers.parameters[0]
        k.value = 2.0
        G(M)
        assert len(factored) == 2


@pytest.mark.parametrize(
    "problem", [pdes.poisson.diffusion, problems.advection_constant], ids=["diffusion", "advection"]
)
def test_derivatives_use_the_factor_of_the_forward_solve(factored, problem):
    with make(problem) as G:
        first = G.linearize(noise(G, 1))
        all_products(first, G)
        assert len(factored) == 1
        second = G.linearize(noise(G, 2))
        all_products(second, G)
        all_products(first, G)
        all_products(second, G)
        assert len(factored) == 2


def test_newtons_root_is_factored_once(factored):
    """Newton's last Jacobian is that of the step before the root, so derivatives need one of their own."""
    with make(problems.cubic_reaction) as G:
        lin = G.linearize(noise(G))
        assert len(factored) == 0
        for _ in range(2):
            all_products(lin, G)
        assert len(factored) == 1


@pytest.mark.parametrize("problem", [pdes.poisson.diffusion, problems.cubic_reaction], ids=["diffusion", "cubic"])
def test_factors_that_are_given_up_are_made_again(factored, problem):
    """No memory for factors: more work, the same numbers."""
    M = [noise(make(problem), i) for i in range(5)]
    results = []
    for memory in (2e9, 0.0):
        before = len(factored)
        with make(problem, solver=Newton(factor_memory=memory)) as G:
            points = [G.linearize(m) for m in M]
            products = [all_products(points[i], G) for i in (3, 0, 4, 1, 2, 0, 3)]
        results.append((len(factored) - before, products))
    assert results[0][0] == 5 < results[1][0]
    for kept, again in zip(results[0][1], results[1][1], strict=True):
        for a, b in zip(kept, again, strict=True):
            same(a, b)


def test_a_state_in_between_leaves_no_stale_factor():
    """Newton's method fills the factor of a point that is still there, where there is room for two alone."""
    with make(problems.cubic_reaction, solver=Newton(factor_memory=0.0)) as G:
        points = [G.linearize(noise(G, i)) for i in range(2)]
        expected = [all_products(point, G) for point in points]
        G(noise(G, 2, scale=2.0))
        for point, products in zip(points, expected, strict=True):
            for found, before in zip(all_products(point, G), products, strict=True):
                same(found, before)


def test_the_factor_used_longest_ago_is_given_up(factored):
    """Two points of three keep theirs: a line search holds one while it tries another."""
    with make(solver=Newton(factor_memory=0.0)) as G:
        first, second, third = (G.linearize(noise(G, i)) for i in range(3))
        before = len(factored)
        for point, made in ((third, 0), (second, 0), (first, 1), (second, 1), (third, 2)):
            point.vjp(np.ones(G.size_out))
            assert len(factored) == before + made


def test_factors_of_points_that_are_gone_are_used_again():
    """A point that is closed, or forgotten, gives its factor to the next one: two serve a whole optimisation."""
    with make() as G:
        for i in range(8):
            lin = G.linearize(noise(G, i))
            lin.vjp(np.ones(G.size_out))
        lin.close()
        assert len(G.solution.operators.factors._factors) <= 2


def test_counts():
    with make() as G:
        with G.linearize(noise(G)) as lin:
            all_products(lin, G)
        G(np.zeros((3, G.size_in)))
        n = G.size_out
        assert G.counts == {"forward": 4, "tangent": 2, "adjoint": 1 + 1 + 5 + n}


# -- awkward partitions ------------------------------------------------------------------------------------------------


@pytest.mark.ranks(2, 3)
class TestFewerCellsThanRanks(MapContract):
    """Two triangles: with three ranks, at least one has no cell, no degree of freedom and no part of the control."""

    make = staticmethod(problems.number_and_fields)
    domain = staticmethod(lambda comm: meshes.unit_square(1, comm=comm))


@pytest.mark.ranks(2, 3)
class TestPointsOfOneRank(MapContract):
    """All observations and the whole clamped boundary may lie on one rank."""

    make = staticmethod(problems.reaction_constant)
    domain = staticmethod(lambda comm: meshes.interval(3, comm=comm))
    observe = staticmethod(lambda problem: PointValues(problem.state.function_space, [[0.9]]))


@pytest.mark.ranks(2, 3)
def test_a_rank_that_owns_nothing():
    with make(problems.neumann, n=1, layout="owned") as G:
        sizes = COMM.allgather(G.size_in)
        assert sum(sizes) == 4 and (COMM.size == 2 or 0 in sizes)
        with G.linearize(np.full(G.size_in, 0.5)) as lin:
            assert lin.matrix().shape == (4, G.size_in)
            assert lin.vjp(np.ones((2, 3, 4))).shape == (2, 3, G.size_in)


# -- registers ---------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_registers_hold_the_last_point():
    bench = Bench(TestPointsOfOneRank)
    G, u = bench.replicated, bench.problem.state
    M = bench.controls(2)
    lin = G.linearize(M[0])
    numbering = SpaceLayout(u.function_space)
    first = numbering.gather(u.x.array[: numbering.num_owned])
    G(M[1])
    assert not np.allclose(numbering.gather(u.x.array[: numbering.num_owned]), first)
    lin.vjp(np.ones(G.size_out))
    same(numbering.gather(u.x.array[: numbering.num_owned]), first)
    assert isinstance(bench.problem.controls[0], fem.Constant)
    assert float(bench.problem.controls[0].value) == pytest.approx(M[0][0])
    bench.close()
