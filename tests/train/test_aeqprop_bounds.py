"""Learning by settling within bounds: exactly there, at the least value that there is between them."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere
from dolfinx import fem
from settling_sheet import Sheet, Springs

from relax import BadInput, Energy, Problem, ReducedMap
from relax.base.fem.layout import SpaceLayout
from relax.train import Aeqprop


def slopes(sheet):
    """∂E/∂θ where the registers are, by plain DOLFINx, and of E in s."""
    parts = []
    for f in (sheet.theta, sheet.s):
        vector = fem.assemble_vector(fem.form(ufl.derivative(sheet.E, f))).array
        layout = SpaceLayout(f.function_space)
        parts.append(layout.gather(vector[: layout.num_owned]))
    return parts


@pytest.mark.ranks(1)
@pytest.mark.parametrize("bounds", [None, (-0.02, 0.1), (None, 0.1), (0.05, np.inf)])
def test_a_step_is_the_least_value_within_bounds(bounds):
    """θ⁺ = θ - ε (∇F_β(θ⁺) - ∇F_0(θ)) where it is free; the rest pushes against the bounds (Karush, Kuhn, Tucker)."""
    sheet, rate = Sheet(4, degree=0), 30.0
    low, high = (-np.inf if bounds is None or bounds[0] is None else bounds[0], np.inf if bounds is None else bounds[1])
    sheet.theta.x.array[:] = np.clip(sheet.theta.x.array, low, high)
    G = ReducedMap(
        Problem(residual=ufl.derivative(sheet.E, sheet.s), state=sheet.s, controls=[sheet.theta], bcs=sheet.bcs),
        sheet.misfit.observable,
    )
    before = sheet.values()
    G(before)
    first = slopes(sheet)[0]
    report = sheet.learner(rate=rate, nudging=0.5, mode="optimistic", bounds=bounds).step()
    assert report.lyapunov_after <= report.lyapunov_before + 1e-12
    after, (second, _) = sheet.values(), slopes(sheet)
    assert after.min() >= low and after.max() <= high
    rest = (after - before) / rate + second - first
    size = np.abs(after - before).max() / rate
    at_low, at_high = after == low, after == high
    assert bounds is None or at_low.any() or at_high.any()
    assert np.abs(rest[~at_low & ~at_high]).max() <= 1e-9 * size
    assert rest[at_low].min(initial=0.0) >= -1e-9 * size and rest[at_high].max(initial=0.0) <= 1e-9 * size


@pytest.mark.ranks(1)
@pytest.mark.parametrize("mode", ["optimistic", "pessimistic", "centred"])
def test_learning_ends_at_bounds_and_leaves_them_again(mode):
    sheet = Sheet(4, degree=0)
    sheet.theta.x.array[:] = 0.0
    learner = sheet.learner(rate=0.1, nudging=0.5, mode=mode, metric="mass", bounds=(-0.01, 0.01))
    seen, rises = [], []
    for y in [[0.1, 0.6, 0.5]] * 6 + [[0.0, 0.3, 0.7]] * 6:
        report = learner.step(y=y)
        rises.append(report.lyapunov_after - report.lyapunov_before)
        seen.append(sheet.values())
    assert max(rises) <= 1e-12
    assert np.abs(seen).max() == 0.01
    held = np.abs(seen[5]) == 0.01
    assert held.any() and not held.all() and (seen[-1][held] != seen[5][held]).any()


@pytest.mark.ranks(1)
def test_steering_within_bounds_is_the_formula():
    """Knobs are steered without the bounds: else what is at one is held there by any knobs, and never leaves it."""
    found = []
    for homeostasis in ("formula", "steered"):
        sheet = Sheet(4, degree=0)
        sheet.theta.x.array[:] = 0.1
        sheet.theta.x.array[:16] = 0.12
        sheet.learner(rate=0.3, nudging=0.4, metric="mass", bounds=(0.09, 0.12), homeostasis=homeostasis).step()
        found.append(sheet.values())
    close(found[1], found[0], 1e-8)
    assert (found[0] == 0.12).any() and (found[0] == 0.09).any()


@pytest.mark.ranks(1, 2)
def test_bounds_of_one_parameter_and_bounds_that_vary():
    """Numbers, a function of x, nothing; a parameter that is not named is free."""
    found = []
    for bounds in (None, (-1.0, 1.0), "function", "named"):
        sheet = Sheet(3)
        other = fem.Function(fem.functionspace(sheet.mesh, ("DG", 0)))
        E = sheet.E + 0.5 * (other - 0.1 * sheet.s) ** 2 * ufl.dx
        energy = Energy(E=E, state=sheet.s, parameters=[sheet.theta, other], bcs=sheet.bcs)
        given = {
            "function": {sheet.theta: (lambda x: -1.0 - x[0], None)},
            "named": {other: (-1e-4, fem.Function(other.function_space))},
        }.get(bounds, bounds)
        Aeqprop(energy, sheet.misfit, rate=0.5, nudging=0.5, bounds=given).step()
        found.append(
            (sheet.values(), SpaceLayout(other.function_space).gather(other.x.array[: other.x.index_map.size_local]))
        )
    for theta, _ in found[1:3]:
        close(theta, found[0][0])
    assert np.abs(found[0][1]).max() > 1e-4
    named = found[3][1]
    assert named.min() >= -1e-4 and named.max() <= 0.0 and np.abs(named).max() > 0.0


@pytest.mark.ranks(1, 2)
def test_bounds_that_do_not_fit_are_said():
    sheet = Sheet(3)
    for bounds, words in (
        ((1.0, -1.0), "below the upper one"),
        ((0.2, 0.2), "below the upper one"),
        (3.0, "expected (lower, upper)"),
        ((1.0, 2.0, 3.0), "expected (lower, upper)"),
        ({sheet.s: (0.0, 1.0)}, "no parameter"),
        ((np.nan, 1.0), "finite"),
        ((np.inf, None), "finite"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda bounds=bounds: sheet.learner(bounds=bounds)))
    before = sheet.values()
    assert "beyond" in str(raised_everywhere(BadInput, lambda: sheet.learner(bounds=(0.1, 1.0)).step()))
    np.testing.assert_array_equal(sheet.values(), before)
    more = {"homeostasis": "steered", "theta": [1.0], "bounds": (0.0, 1.0)}
    assert "it has its own" in str(
        raised_everywhere(BadInput, lambda: Aeqprop(Springs(), rate=1.0, nudging=1.0, **more))
    )
