"""Learning by settling, against the adjoint's gradient; Λ does not rise; what is steered is what the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, close, everyone_has, raised_everywhere
from dolfinx import fem
from settling_sheet import Sheet, Springs, Y

from relax import BadInput, BadProblem, Energy, Misfit, PointValues, Problem, ReducedMap, SolveFailed, clamp
from relax.train import Aeqprop

pytestmark = pytest.mark.ranks(1, 2, 3)


def gradient():
    """Of the cost in the values of θ, by the adjoint, and θ."""
    sheet = Sheet()
    problem = Problem(
        residual=ufl.derivative(sheet.E, sheet.s),
        state=sheet.s,
        controls=[sheet.theta],
        bcs=sheet.bcs,
        name="sheet_adjoint",
    )
    with ReducedMap(problem, sheet.misfit.observable) as G, G.linearize(sheet.values()) as lin:
        return lin.vjp(lin.value - Y) / 0.5**2


def direction(**more):
    """The step as a gradient: -(θ⁺ - θ)/(ε β)."""
    sheet = Sheet()
    learner, before = sheet.learner(**more), sheet.values()
    report = learner.step()
    assert report.lyapunov_after <= report.lyapunov_before + 1e-12
    everyone_has(sheet.values())
    return -(sheet.values() - before) / (more.get("rate", 1e-4) * more.get("nudging", 0.1))


@pytest.mark.parametrize(("mode", "order"), [("optimistic", 1), ("pessimistic", 1), ("centred", 2)])
def test_a_step_is_a_gradient_step_to_its_order_in_the_nudging(mode, order):
    g = gradient()
    errors = [np.linalg.norm(direction(mode=mode, nudging=beta) - g) / np.linalg.norm(g) for beta in (0.1, 0.05, 0.025)]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert slopes == pytest.approx([order] * 2, abs=0.15)
    if mode == "centred":
        found = direction(nudging=0.1)
        assert found @ g / np.linalg.norm(found) / np.linalg.norm(g) > 0.9999


def test_it_is_of_first_order_in_the_rate():
    g = gradient()
    errors = [np.linalg.norm(direction(rate=rate, nudging=0.01) - g) for rate in (0.4, 0.1)]
    assert np.log(errors[0] / errors[1]) / np.log(4.0) == pytest.approx(1.0, abs=0.15)


@pytest.mark.ranks(1)
@pytest.mark.parametrize(("mode", "rate"), [("optimistic", 1.0), ("pessimistic", 0.2), ("centred", 1.0)])
def test_the_lyapunov_function_does_not_rise(mode, rate):
    """Large steps, in the metric of the mesh; the cost falls. Pessimistic F bends downwards: 1/ε must be above that."""
    sheet = Sheet()
    learner = sheet.learner(rate=rate, nudging=0.5, mode=mode, metric="mass")
    reports = [learner.step() for _ in range(12)]
    assert all(r.lyapunov_after <= r.lyapunov_before + 1e-9 * abs(r.lyapunov_before) for r in reports)
    assert reports[-1].loss < 0.7 * reports[0].loss
    if mode == "optimistic":
        assert all(r.lyapunov_before <= r.loss + 1e-12 for r in reports)
    if mode == "pessimistic":
        assert all(r.lyapunov_before >= r.loss - 1e-12 for r in reports)


@pytest.mark.ranks(1)
def test_long_steps_of_much_nudging_are_stable():
    """ε β = 30, in the metric of the mesh: ten times the rate at which the cost rises under plain descent."""
    sheet = Sheet(4, degree=0)
    learner = sheet.learner(rate=1.2, nudging=25.0, mode="optimistic", metric="mass")
    reports = [learner.step() for _ in range(8)]
    assert all(r.lyapunov_after <= r.lyapunov_before + 1e-12 for r in reports)
    assert reports[-1].loss < 0.1 * reports[0].loss


@pytest.mark.ranks(1)
def test_the_lyapunov_function_falls_by_what_a_short_step_is_long():
    """By |θ⁺ - θ|²/(ε β), for small ε: what is followed is the slope of the very energy that is reported."""
    sheet, rate, nudging = Sheet(2), 1e-6, 0.5
    sheet.theta.interpolate(lambda x: 2.0 * np.sin(5.0 * x[0]) - x[1])
    report = sheet.learner(rate=rate, nudging=nudging).step()
    fall = report.lyapunov_before - report.lyapunov_after
    assert fall == pytest.approx(report.change**2 / (rate * nudging), rel=1e-4)


def test_steering_is_the_formula():
    found = []
    for homeostasis in ("formula", "steered"):
        sheet = Sheet(3, degree=0)
        sheet.learner(rate=0.3, nudging=0.4, metric="mass", homeostasis=homeostasis).step(x={sheet.x: 2.0}, y=2 * Y)
        found.append(sheet.values())
        assert sheet.x.value == 2.0
    close(found[1], found[0], 1e-8)


def test_a_step_does_not_depend_on_the_mesh():
    """By the mass metric the change of θ is a function; by the Euclidean one it shrinks with the cells."""
    ratios = []
    for metric in ("mass", "euclidean"):
        changes = []
        for n in (8, 16):
            sheet = Sheet(n)
            before = sheet.values()
            away = Misfit(PointValues(sheet.s.function_space, [(0.3, 0.4), (0.5, 0.8)]), [0.2, 0.6], noise=0.5)
            Aeqprop(sheet.energy, away, rate=0.5, nudging=0.5, metric=metric).step()
            changes.append(np.abs(sheet.values() - before).mean())
        ratios.append(changes[1] / changes[0])
    assert ratios[0] == pytest.approx(1.0, abs=0.2) and ratios[1] < 0.5


@pytest.mark.ranks(1)
def test_what_only_settles_learns():
    learner = Aeqprop(Springs(), rate=0.05, nudging=0.5, homeostasis="steered", theta=[1.0])
    seen = []
    for _ in range(60):
        report = learner.step(1.0, 0.5)
        seen.append(learner.theta[0])
    assert report.loss is None and report.iterations[1] == 1
    # s = 0.5 is at rest where θ (0.5 - 1) + 0.125 = 0.
    assert abs(seen[-1] - 0.25) < abs(seen[0] - 0.25) and all(np.diff(seen) < 0.0)


class Meter:
    """θ pulled to u by springs, to 0 by others and by nudging to y, read with noise."""

    def __init__(self, noise):
        self.noise, self.random = noise, np.random.default_rng(0)

    def settle(self, u, theta, x, y, beta):
        rest = (u / 0.1 + beta * y) / (1.0 / 0.1 + 1.0 + beta)
        return rest + self.noise * self.random.standard_normal(len(u)), rest


def test_what_is_read_with_noise_learns_once_that_is_said():
    """A step is that without noise, but for some of it; without a word of it steering has no end, and says why."""
    start, y = np.ones(50), np.linspace(0.0, 2.0, 50)
    exact, noisy = (
        Aeqprop(Meter(noise), rate=0.1, nudging=0.5, homeostasis="steered", noise=noise, theta=start)
        for noise in (0.0, 1e-3)
    )
    exact.step(None, y)
    report = noisy.step(None, y)
    assert report.iterations[0] < 10
    assert 1e-3 < np.linalg.norm(noisy.theta - exact.theta) / np.sqrt(50) < 3e-3
    deaf = Aeqprop(Meter(1e-3), rate=0.1, nudging=0.5, homeostasis="steered", theta=start)
    assert "noise" in str(raised_everywhere(SolveFailed, lambda: deaf.step(None, y)))
    np.testing.assert_array_equal(deaf.theta, start)
    for noise in (-1.0, np.inf):
        raised_everywhere(
            BadInput,
            lambda noise=noise: Aeqprop(
                Meter(0.0), rate=0.1, nudging=0.5, homeostasis="steered", noise=noise, theta=start
            ),
        )
    assert "exactly" in str(raised_everywhere(BadInput, lambda: Sheet(3).learner(homeostasis="steered", noise=1e-3)))


def test_what_does_not_fit_is_said():
    sheet = Sheet(3)
    for change, words in (
        ({"mode": "hopeful"}, "'optimistic', 'pessimistic' or 'centred'"),
        ({"rate": 0.0}, "rate: expected"),
        ({"nudging": -1.0}, "nudging: expected"),
        ({"metric": "l1"}, "metric"),
        ({"homeostasis": "x"}, "homeostasis"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda change=change: sheet.learner(**change)))
    assert "Misfit" in str(raised_everywhere(BadInput, lambda: Aeqprop(sheet.energy, rate=1.0, nudging=1.0)))
    assert "steered" in str(raised_everywhere(BadInput, lambda: Aeqprop(Springs(), rate=1.0, nudging=1.0)))
    learner = sheet.learner()
    assert "x: expected" in str(raised_everywhere(BadInput, lambda: learner.step(x={sheet.s: 1.0})))
    one = [1.0] if COMM.rank == COMM.size - 1 else Y
    raised_everywhere(BadInput, lambda: learner.step(y=one))
    raised_everywhere(BadInput, lambda: learner.step(x=3.0 if COMM.rank == COMM.size - 1 else None))
    if COMM.size > 1:
        assert "the same" in str(raised_everywhere(BadInput, lambda: learner.step(y=Y * (1 + COMM.rank))))
    assert "3 finite numbers" in str(raised_everywhere(BadInput, lambda: learner.step(y=[1.0])))
    with pytest.raises(BadProblem, match="parameters\\[0\\]"):
        Energy(E=sheet.E, state=sheet.s, parameters=[sheet.s])
    lazy = Energy(E=sheet.theta * sheet.s * ufl.dx, state=sheet.s, parameters=[sheet.theta])
    assert "linear in it" in str(
        raised_everywhere(BadProblem, lambda: Aeqprop(lazy, sheet.misfit, rate=1.0, nudging=1.0))
    )
    with pytest.raises(BadProblem, match="multiply by dx"):
        Energy(E=ufl.inner(sheet.s, sheet.s), state=sheet.s, parameters=[sheet.theta])


def test_boundary_values_that_follow_an_input():
    """An expression of x on the boundary is that of the step, as a Function with its values is."""
    found = []
    for follows in (True, False):
        sheet = Sheet(4)
        V = sheet.s.function_space
        held = fem.Function(V)
        held.x.array[:] = 1.2
        bcs = [clamp(V, "left", 0.0), clamp(V, "right", 0.6 * sheet.x if follows else held)]
        energy = Energy(E=sheet.E, state=sheet.s, parameters=[sheet.theta], bcs=bcs)
        Aeqprop(energy, sheet.misfit, rate=0.3, nudging=0.4).step(x={sheet.x: 2.0})
        found.append(sheet.values())
    close(found[0], found[1])
    with pytest.raises(BadProblem, match="gives boundary values"):
        bcs = [clamp(V, "left", 2.0 * sheet.theta)]
        Energy(E=sheet.E, state=sheet.s, parameters=[sheet.theta], bcs=bcs)


def test_a_phase_that_runs_away_says_so():
    """E is linear in θ, F concave: 1/ε is less than what it bends."""
    sheet = Sheet(4, is_log=False)
    before = sheet.values()
    error = raised_everywhere(SolveFailed, lambda: sheet.learner(rate=1e4, nudging=1.0, metric="mass").step())
    assert "logarithms" in str(error)
    np.testing.assert_array_equal(sheet.values(), before)
