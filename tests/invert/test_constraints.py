"""Constraints on a number: against the linear system of Karush, Kuhn and Tucker, and a quadratic program."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import ufl
from control_cases import Linear, Plate, bump, cut
from dolfinx import fem
from mpi4py import MPI
from petsc4py import PETSc
from ufl import dx

import relax
from relax import BadInput, NotConverged, Status, minimize
from relax.base import parallel

COMM = MPI.COMM_WORLD
VOLUME = 0.2


@pytest.fixture(autouse=True)
def clean_up():
    yield
    PETSc.garbage_cleanup(COMM)


def volume(case):
    """∇ ∫ f dx in the order that does not depend on the ranks."""
    values = relax.FieldValues(case.f.function_space)
    return values.mass(np.ones(values.size))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", ["replicated", "owned"])
@pytest.mark.parametrize("method", ["newton", "lbfgs"])
def test_an_equation_is_met_at_the_minimum_of_dense_algebra(method, layout):
    case = Linear(6, layout=layout, d=bump)
    constraint, before = (case.f * dx, VOLUME, VOLUME), dict(case.G.counts)
    found = minimize(case.J, case.start(), method=method, constraints=[constraint], rtol=1e-10)
    H, b = Linear(6, d=bump).quadratic()
    a = volume(case)
    system = np.block([[H, a[:, None]], [a[None], np.zeros((1, 1))]])
    wanted = cut(np.linalg.solve(system, np.r_[-b, VOLUME])[:-1], case.f.function_space, layout)
    assert found.converged
    assert parallel.largest(COMM, np.abs(found.value - wanted).max(initial=0.0)) < 1e-6
    # The history goes on over the rounds, and the counts with it.
    assert [entry["step"] for entry in found.history] == list(range(found.stats.outer + 1))
    forwards = [entry["forward"] for entry in found.history]
    assert forwards == sorted(forwards)
    solves = {kind: getattr(found.stats, kind) for kind in ("forward", "tangent", "adjoint")}
    assert solves == {kind: case.G.counts[kind] - before[kind] for kind in solves}


@pytest.mark.parametrize(("low", "high"), [(None, 0.1), (0.5, None), (None, 5.0)], ids=["above", "below", "idle"])
def test_an_inequality_within_bounds_is_a_quadratic_program(low, high):
    case = Linear(3, d=bump)
    found = minimize(case.J, case.start(0.3), bounds=(0.0, 2.0), constraints=[(case.f * dx, low, high)], rtol=1e-10)
    H, b = case.quadratic()
    a, scale = volume(case), 1e4
    sides = [f for f in (high and (lambda m: high - a @ m), low and (lambda m: a @ m - low)) if f]
    exact = scipy.optimize.minimize(
        lambda m: scale * (0.5 * m @ H @ m + b @ m), case.start(0.3), jac=lambda m: scale * (H @ m + b), method="SLSQP",
        bounds=[(0.0, 2.0)] * len(b), constraints=[{"type": "ineq", "fun": f} for f in sides],
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    assert found.converged and np.abs(found.value - exact.x).max() < 1e-4
    mine, its = (0.5 * m @ H @ m + b @ m for m in (found.value, exact.x))
    assert mine <= its + 1e-9 * abs(its)
    assert (low is None or a @ found.value > low - 1e-8) and (high is None or a @ found.value < high + 1e-8)


def test_a_start_far_away_makes_no_violation_small():
    case = Linear(6, d=bump)
    found = minimize(case.J, case.start(1e7), constraints=[(case.f * dx, VOLUME, VOLUME)])
    assert volume(case) @ found.value == pytest.approx(VOLUME, rel=1.1e-8)


def test_lbfgs_has_not_converged_where_it_knows_the_constraint_alone():
    """From far away a loose rtol ends each round after the steps that meet the constraint."""
    case = Linear(6, d=bump)
    constraints = [(case.f * dx, VOLUME, VOLUME)]
    exact = minimize(case.J, case.start(), constraints=constraints).value
    for rtol in (1e-2, 1e-3, 1e-5):
        found = minimize(case.J, case.start(1e4), method="lbfgs", constraints=constraints, rtol=rtol)
        assert np.abs(found.value - exact).max() > 0.1 * np.abs(exact).max() and found.status is Status.relative
    assert minimize(case.J, case.start(), method="lbfgs", constraints=constraints).converged


def test_a_constraint_on_the_state():
    """The mean of u is held at a number: linear, so the system of Karush, Kuhn and Tucker again."""
    case = Linear(4, d=bump)
    u = case.G.problem.state
    mean = relax.ReducedMap(case.G.problem, relax.Functional(u * dx))
    found = minimize(case.J, case.start(), constraints=[(mean, 0.003, 0.003)], rtol=1e-11)
    a = mean.linearize(case.start()).matrix()[0]
    H, b = case.quadratic()
    system = np.block([[H, a[:, None]], [a[None], np.zeros((1, 1))]])
    wanted = np.linalg.solve(system, np.r_[-b, 0.003])[:-1]
    assert found.converged and np.abs(found.value - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert mean(found.value)[0] == pytest.approx(0.003, rel=1e-7)


def test_rounds_and_steps_do_not_depend_on_the_mesh():
    steps = []
    for n in (8, 16, 32):
        case = Linear(n, d=bump)
        found = minimize(case.J, case.start(), bounds=(0.0, 2.0), constraints=[(case.f * dx, None, 0.1)])
        assert found.converged
        steps.append(found.stats.outer)
    assert max(steps) - min(steps) <= 4, steps


def test_what_cannot_hold_is_said():
    case = Linear(3)
    found = minimize(case.J, case.start(), bounds=(0.0, 1.0), constraints=[(case.f * dx, 2.0, None)], max_steps=400)
    assert found.status is Status.not_feasible and not found.converged
    with pytest.raises(NotConverged, match="a constraint does not hold"):
        found.raise_if_failed()
    few = minimize(case.J, case.start(), constraints=[(case.f * dx, 2.0, None)], max_steps=1)
    assert few.status is Status.max_steps


@pytest.mark.ranks(2)
def test_numbers_that_differ_between_ranks():
    case, rank = Linear(3, d=bump), COMM.rank
    with pytest.raises(BadInput, match="the same low and high on every rank"):
        minimize(case.J, case.start(), constraints=[(case.f * dx, None, 0.1 + rank)])
    # Tolerances are rank 0's: each would end at a step of its own.
    found = minimize(case.J, case.start(), method="lbfgs", rtol=[1e-2, 1e-6][rank], max_steps=[500, 1][rank])
    assert found.history[-1]["gradient_norm"] <= 1e-2 * found.history[0]["gradient_norm"] and found.stats.outer > 1


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        (lambda p: [(p.f * dx, 1.0)], r"constraints\[0\]: expected \(c, low, high\)"),
        (lambda p: [(p.f * dx, 1.0, 0.0)], "expected low <= high"),
        (lambda p: [(p.f * dx, None, np.nan)], "expected low <= high"),
        (lambda p: [(p.f * dx, 0.0, 1.0), (p.f, 0.0, 1.0)], r"constraints\[1\]: expected"),
        (lambda p: [(fem.Function(p.V) * dx, 0.0, 1.0)], "a control of the map"),
        (lambda p: [(ufl.TestFunction(p.V) * dx, 0.0, 1.0)], "expected"),
        (lambda p: 3.0, "constraints: expected a list"),
        (lambda p: [(relax.ReducedMap(p.problem, p.sees), 0.0, 1.0)], "a map of one number"),
    ],
)
def test_bad_constraints(constraints, words):
    plate = Plate(2)
    J = plate.term("sensors", "replicated")
    with pytest.raises(BadInput, match=words):
        minimize(J, np.zeros(J.G.size_in), constraints=constraints(plate))
