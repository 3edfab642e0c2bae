"""check_map: it passes what is right (contract.py), and catches faults that are put in on purpose."""

from __future__ import annotations

import inspect
from contextlib import contextmanager

import numpy as np
import problems
import pytest
from contract import COMM, raised_everywhere
from dolfinx import fem
from ufl import dx, inner

from relax import FieldValues, Functional, MapReport, PointValues, ReducedMap, check_map, meshes, pdes
from relax.engine.linearization import Linearization
from relax.engine.residual.derived import DerivedForms
from relax.engine.residual.registers import Registers
from relax.engine.solve.sensitivity import Sensitivity
from relax.engine.stationary import Stationary, StationaryDerivatives
from relax.engine.verify import _order
from relax.errors import CheckFailed, SolveFailed
from relax.pdes.hamilton_jacobi import viscous


def make(problem=pdes.poisson.diffusion, observe=lambda p: FieldValues(p.state.function_space), kind=ReducedMap, n=4):
    problem = problem(meshes.unit_square(n))
    return kind(problem, observe(problem))


def caught(G, *words):
    """check_map fails on every rank, saying this; its report."""
    error = raised_everywhere(CheckFailed, lambda: check_map(G))
    for word in words:
        assert word in str(error)
    assert isinstance(error.report, MapReport) and error.report.failures
    assert COMM.allgather(error.report.failures) == [error.report.failures] * COMM.size
    return error.report


# -- seeded faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("product", "words"),
    [("jvp", "tangent"), ("vjp", "adjoint"), ("hvp", "second derivative")],
    ids=["jvp", "vjp", "hvp"],
)
@pytest.mark.parametrize("problem", [pdes.poisson.diffusion, problems.cubic_reaction], ids=["diffusion", "cubic"])
def test_a_wrong_sign(monkeypatch, problem, product, words):
    original = getattr(Linearization, product)
    monkeypatch.setattr(Linearization, product, lambda self, *args: -original(self, *args))
    caught(make(problem), words)


def test_an_adjoint_that_is_hardly_wrong(monkeypatch):
    """A tolerance left somewhere, or single precision: far below what a Taylor test sees."""
    original = Linearization.vjp
    monkeypatch.setattr(Linearization, "vjp", lambda self, dy: original(self, dy) * (1.0 + 1e-6))
    assert len(caught(make(), "not the transpose of the tangent").failures) == 1


@pytest.mark.ranks(2)
@pytest.mark.parametrize("register", ["state", "adjoint", "tangent_state", "second_adjoint"])
def test_a_missing_ghost_update(monkeypatch, register):
    G = make()
    # The first solve of a map checks more than the later ones, and would notice the state's by itself.
    G(np.zeros(G.size_in))
    stale = getattr(G.residual.registers, register).x
    kind = type(stale)
    original = kind.scatter_forward
    monkeypatch.setattr(kind, "scatter_forward", lambda self: None if self is stale else original(self))
    caught(G)


@pytest.mark.ranks(2)
def test_a_gradient_that_is_not_summed_over_ranks(monkeypatch):
    G = make()
    part = G.residual._control_duals._fields[0].x
    kind = type(part)
    original = kind.scatter_reverse
    monkeypatch.setattr(kind, "scatter_reverse", lambda self, mode: None if self is part else original(self, mode))
    caught(G, "adjoint")


def test_a_control_that_stays_where_it_was_first(monkeypatch):
    original, done = Registers.install_controls, []

    def once(self, parts):
        if not done:
            original(self, parts)
        done.append(True)

    monkeypatch.setattr(Registers, "install_controls", once)
    caught(make(), "stale control")


def test_derivatives_at_the_last_point_solved(monkeypatch):
    """The linearisation point is not gone back to: derivatives are those of wherever the map was last evaluated."""
    original = Stationary._solve
    G = make()

    def solve(self, control):
        self.residual.registers.__dict__.pop("install_controls", None)
        point = original(self, control)
        self.residual.registers.install_controls = lambda parts: None
        return point

    monkeypatch.setattr(Stationary, "_solve", solve)
    caught(G)


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (Sensitivity, "tangent_sources"),
        (StationaryDerivatives, "_adjoints"),
        (StationaryDerivatives, "_hessian_action"),
    ],
    ids=["tangent", "adjoint", "second adjoint"],
)
@pytest.mark.parametrize("problem", [pdes.poisson.diffusion, problems.dirichlet_and_field], ids=["zero", "control"])
def test_a_boundary_condition_that_is_not_homogenised(monkeypatch, problem, owner, method):
    G = make(problem)
    original, tied = getattr(owner, method), G.residual.tied

    @contextmanager
    def nothing_held():
        kept = tied.held
        tied.held = kept[:0]
        try:
            yield
        finally:
            tied.held = kept

    def without_zeroing(self, *args):
        with nothing_held():
            return original(self, *args)

    def asking_without_zeroing(self, *args):
        with nothing_held():
            return (yield from original(self, *args))

    asks = inspect.isgeneratorfunction(original)
    monkeypatch.setattr(owner, method, asking_without_zeroing if asks else without_zeroing)
    caught(G)


@pytest.mark.parametrize("forgotten", [0, 1, 2])
@pytest.mark.parametrize("method", ["in_direction", "gradient_of"])
def test_a_control_that_a_derivative_forgets(monkeypatch, method, forgotten):
    original = getattr(DerivedForms, method)
    monkeypatch.setattr(DerivedForms, method, lambda self, form, i: None if i == forgotten else original(self, form, i))
    caught(make(problems.number_and_fields))


@pytest.mark.parametrize("method", ["tangent", "adjoint"])
def test_an_observable_of_the_users_with_a_wrong_factor(monkeypatch, method):
    original = getattr(problems.SumOfQuartics, method)
    monkeypatch.setattr(problems.SumOfQuartics, method, lambda self, u, d: 0.75 * original(self, u, d))
    caught(make(problems.cubic_reaction, problems.SumOfQuartics))


def test_a_form_that_is_differentiated_wrongly_in_second_order(monkeypatch):
    """A tenth of F_uu left out: only the Hessian action knows of it."""
    original = DerivedForms.varied

    def too_little(self, form):
        varied = original(self, form)
        return None if varied is None else 0.9 * varied

    monkeypatch.setattr(DerivedForms, "varied", too_little)
    report = caught(make(problems.cubic_reaction), "second derivative")
    assert report.first_order > 1.85 and report.adjoint_gap < 1e-10


@pytest.mark.parametrize("forgotten", [0, 1, 2])
def test_a_control_that_is_forgotten_beside_one_that_is_1e12_times_as_large(monkeypatch, forgotten):
    original = DerivedForms.gradient_of
    monkeypatch.setattr(
        DerivedForms, "gradient_of", lambda self, form, i: None if i == forgotten else original(self, form, i)
    )
    caught(make(problems.moduli), "adjoint")


# -- what is right -----------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_controls_of_different_size(layout):
    """A modulus, a ratio and a logarithm, each moved by as much as it is large."""
    problem = problems.moduli(meshes.unit_square(4))
    with ReducedMap(problem, FieldValues(problem.state.function_space), layout=layout) as G:
        report = check_map(G)
        assert report.first_order == pytest.approx(2.0, abs=0.05)
        assert report.second_order == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(
    "problem",
    [pdes.poisson.diffusion, problems.cubic_reaction, problems.advection_constant, problems.moduli],
    ids=["diffusion", "cubic", "advection", "moduli"],
)
def test_no_false_alarm_of_a_single_observation(problem):
    G = make(problem, lambda p: Functional(inner(p.state, p.state) * dx))
    for seed in range(25):
        check_map(G, seed=seed)


def test_a_leading_term_that_vanishes_by_chance():
    """Of one number, along one direction: the next one that is looked at has it."""
    problem = viscous(
        meshes.unit_square(2), lambda x: np.sin(3.0 * x[0]) + x[1] ** 2, beta=3.0, discount=2.0, stabilisation=False,
        degree=2,
    )  # fmt: skip
    report = check_map(ReducedMap(problem, PointValues(problem.state.function_space, [(0.31, 0.42)])), seed=175)
    assert report.second_order == pytest.approx(3.0, abs=0.05)


def test_remainders_that_change_their_sign():
    """ε³ - 30 ε⁴ at ε = 0.02, 0.01, ...: nothing is clear of rounding below the step at which it is zero."""
    eps = 0.05 * 0.5 ** np.arange(12)
    remainders = np.abs(eps**3 - 30.0 * eps**4)
    assert _order(list(remainders), remainders[3] / 29.0) == pytest.approx(4.0)
    assert _order(list(eps**2), 1e-12) == pytest.approx(2.0)


# -- what it leaves, says and returns ----------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("fails", [False, True])
def test_registers_and_counts_are_left_as_found(monkeypatch, fails):
    G = make(problems.number_and_fields)
    registers = [
        G.problem.state.x.array,
        *(_values(c) for c in (*G.problem.controls, *G.residual.registers.parameters)),
    ]
    for values in registers:
        values[...] = np.random.default_rng(7).uniform(1.0, 2.0, values.shape)
    kept = [values.copy() for values in registers]
    counts = dict(G.counts)
    if fails:
        monkeypatch.setattr(Linearization, "vjp", lambda self, dy: np.zeros(G.size_in))
        caught(G)
    else:
        check_map(G, np.ones(G.size_in))
    for values, before in zip(registers, kept, strict=True):
        np.testing.assert_array_equal(values, before)
    assert G.counts == counts


def _values(register):
    return register.x.array if isinstance(register, fem.Function) else register.value


@pytest.mark.ranks(1, 2)
def test_the_report_is_printed_once(capsys):
    report = check_map(make(problems.cubic_reaction))
    out, err = capsys.readouterr()
    expected = f"check of cubic_reaction: 25 -> 25\n{report}\n" if COMM.rank == 0 else ""
    assert (out, err) == (expected, "")


def test_the_report():
    G = make(problems.cubic_reaction)
    report = check_map(G)
    assert 1.9 < report.first_order < 2.1 and 2.9 < report.second_order < 3.1
    assert report.adjoint_gap < 1e-11 and report.hessian_gap < 1e-11 and report.failures == []
    assert len(report.first_remainders) == len(report.second_remainders) >= 4
    assert np.all(np.diff(report.first_remainders) < 0)
    assert min(report.forward_seconds, report.tangent_ratio, report.adjoint_ratio, report.hessian_ratio) > 0
    again = check_map(G, seed=0)
    assert again.first_remainders == pytest.approx(report.first_remainders, rel=1e-6)
    assert check_map(G, seed=1).first_remainders != pytest.approx(report.first_remainders, rel=1e-2)


def test_orders_of_a_known_map():
    """y = c^3: remainders 3 c (εδ)^2 + (εδ)^3 and (εδ)^3, with no PDE in the way."""
    G = make(problems.cube, problems.mean)
    report = check_map(G, np.array([2.0]), seed=3)
    first, second = np.array(report.first_remainders), np.array(report.second_remainders)
    halved = 0.5 ** np.arange(len(first))
    # Directions are as long as the control; the first step is 2e-2 of that, and their sign is drawn.
    step = 2e-2 * 2.0 * halved
    either = [6.0 * step**2 + sign * step**3 for sign in (1.0, -1.0)]
    assert min(np.abs(first / expected - 1.0).max() for expected in either) < 1e-6
    np.testing.assert_allclose(second / second[0], halved**3, rtol=1e-4)


@pytest.mark.parametrize("problem", [pdes.poisson.source, problems.dirichlet_field], ids=["source", "boundary data"])
def test_an_affine_map_has_no_remainder(problem):
    report = check_map(make(problem))
    assert report.first_order == report.second_order == np.inf and report.hessian_gap == 0.0


@pytest.mark.ranks(1, 2)
def test_steps_shrink_until_the_map_can_be_solved(monkeypatch):
    """A map that fails far from the point is checked near it; one that fails at the point itself is not."""
    original, reach = Stationary._solve, 1e-3

    def fragile(self, control):
        if np.abs(control - 1.0).max() > reach:
            raise SolveFailed("too far")
        return original(self, control)

    monkeypatch.setattr(Stationary, "_solve", fragile)
    G = make(problems.cubic_reaction)
    m = np.ones(G.size_in)
    assert check_map(G, m).failures == []
    raised_everywhere(SolveFailed, lambda: check_map(G, 2.0 * m))


def test_it_checks_at_the_controls_as_they_stand():
    """Moved a little at random, so that a derivative that vanishes there (of m^2 at 0) is seen."""
    G = make(problems.squared_source)
    assert check_map(G).first_remainders[0] > 0.0
    G.problem.controls[0].x.array[:] = 2.0
    report = check_map(G)
    with G.linearize(np.full(G.size_in, 2.0)) as lin:
        assert np.linalg.norm(lin.value) > 0.0 and report.failures == []
