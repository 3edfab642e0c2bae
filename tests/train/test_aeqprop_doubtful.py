"""Learning by settling where something is doubtful: inputs, energies without a least value, devices, rounding."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, close, raised_everywhere
from dolfinx import fem
from settling_sheet import POINTS, Sheet, Springs, Y

from relax import AtSteps, BadInput, BadProblem, Energy, Functional, Misfit, PointValues, SolveFailed, clamp, meshes
from relax.train import Aeqprop


@pytest.mark.ranks(1, 2)
def test_a_step_that_fails_leaves_all_as_it_was():
    sheet = Sheet(3)
    V = sheet.s.function_space
    field = fem.Function(V)
    energy = Energy(
        E=sheet.E - field * sheet.s * ufl.dx, state=sheet.s, parameters=[sheet.theta], bcs=sheet.bcs, name="sheet"
    )
    learner = Aeqprop(energy, sheet.misfit, rate=1.0, nudging=1.0)
    learner.step({field: 2.0, sheet.x: 1.5})
    kept = [v.copy() for v in (field.x.array, sheet.x.value, sheet.theta.x.array, sheet.s.x.array)]
    last = COMM.rank == COMM.size - 1
    for x, error, words in (
        ({field: 3.0, sheet.x: "a"}, BadInput, "a number or an array of shape ()"),
        ({field: 3.0, sheet.x: np.nan}, BadInput, "NaN"),
        ({field: lambda x: np.where(x[0] > 0.5, np.inf, 1.0), sheet.x: 1.0}, BadInput, "NaN or infinite"),
        ({field: [1.0, 2.0], sheet.x: 1.0}, BadInput, "a number or an array of shape ()"),
        ({field: 3.0, sheet.x: "a" if last else 1.0}, BadInput, "a number or an array of shape ()"),
        ({"x": 1.0}, BadInput, "Functions and Constants of E"),
        ({field: 1.0, sheet.x: 1e300}, SolveFailed, "not finite"),
    ):
        assert words in str(raised_everywhere(error, lambda x=x: learner.step(x)))
        for now, then in zip((field.x.array, sheet.x.value, sheet.theta.x.array, sheet.s.x.array), kept, strict=True):
            np.testing.assert_array_equal(now, then)
    if COMM.size > 1:
        for x in ({field: 1.0 + COMM.rank}, {sheet.x: 1.0 + COMM.rank}):
            assert "the same values" in str(raised_everywhere(BadInput, lambda x=x: learner.step(x)))


def test_inputs_of_boundary_values_and_of_the_observable():
    """A Constant that is a boundary value, and one that the observable holds."""
    found = []
    for value in (None, 1.3):
        sheet = Sheet(3)
        V = sheet.s.function_space
        edge, weight = fem.Constant(sheet.mesh, value or 1.0), fem.Constant(sheet.mesh, value or 1.0)
        bcs = [clamp(V, "left", 0.0), clamp(V, "right", edge)]
        energy = Energy(E=sheet.E, state=sheet.s, parameters=[sheet.theta], bcs=bcs)
        learner = Aeqprop(energy, Misfit(Functional(weight * sheet.s * ufl.dx), [0.3]), rate=0.5, nudging=0.5)
        learner.step(None if value else {edge: 1.3, weight: 1.3})
        found.append(sheet.values())
    close(found[0], found[1])


def test_energies_and_misfits_that_do_not_fit_are_said():
    sheet = Sheet(3)
    more = {"state": sheet.s, "bcs": sheet.bcs}
    twice = lambda: Energy(E=sheet.E, parameters=[sheet.theta, sheet.theta], **more)  # noqa: E731
    for error, action, words in (
        (BadProblem, twice, "earlier parameter again"),
        (BadProblem, lambda: Energy(E=sheet.E, parameters=[sheet.theta], name="a b", **more), "letters, digits"),
        (BadInput, lambda: Misfit(PointValues(sheet.s.function_space, POINTS), Y + 0j), "complex128"),
        (BadInput, lambda: Misfit(PointValues(sheet.s.function_space, POINTS), ["a"] * 3), "finite numbers"),
        (BadInput, lambda: Misfit(PointValues(sheet.s.function_space, POINTS), [Y]), "got shape"),
        (BadInput, lambda: sheet.learner(theta=[1.0]), "no theta="),
    ):
        with pytest.raises(error, match=words.replace("[", "\\[")):
            action()
    for observable, words in (
        (Functional(sheet.theta * sheet.s * ufl.dx), "a parameter of the energy"),
        (AtSteps(PointValues(sheet.s.function_space, POINTS), [1]), "single state"),
    ):
        with pytest.raises(BadProblem, match=words):
            Aeqprop(sheet.energy, Misfit(observable), rate=1.0, nudging=1.0)
    curved = fem.Function(fem.functionspace(sheet.mesh, ("Lagrange", 1)), dtype=np.complex128)
    with pytest.raises(BadProblem, match="float64"):
        Energy(E=ufl.inner(curved, curved) * sheet.theta * ufl.dx, state=curved, parameters=[sheet.theta])


class Wells:
    """((s² - 1)²/4 e^θ + 0.01 |grad s|²): two least values and a maximum between them."""

    def __init__(self, start):
        mesh = meshes.unit_square(3)
        V = fem.functionspace(mesh, ("Lagrange", 1))
        self.s, self.theta = fem.Function(V), fem.Function(V)
        self.s.x.array[:] = start
        s, g = self.s, ufl.inner(ufl.grad(self.s), ufl.grad(self.s))
        energy = Energy(
            E=((s**2 - 1) ** 2 / 4 * ufl.exp(self.theta) + 0.01 * g) * ufl.dx, state=s, parameters=[self.theta]
        )
        self.learner = Aeqprop(energy, Misfit(PointValues(V, POINTS), np.zeros(3)), rate=0.1, nudging=0.1)


@pytest.mark.ranks(1, 2)
def test_a_state_that_begins_where_the_energy_bends_downwards_settles_and_never_at_a_maximum():
    for start in (0.3, -0.3):
        wells = Wells(start)
        report = wells.learner.step()
        assert report.lyapunov_after < report.lyapunov_before
        assert (np.sign(start) * wells.s.x.array).min(initial=1.0) > 0.5
    assert "not least" in str(raised_everywhere(SolveFailed, lambda: Wells(0.0).learner.step()))


def test_flat_ground_is_said():
    sheet = Sheet(3)
    for E in (
        ufl.exp(sheet.theta) * ufl.inner(ufl.grad(sheet.s), ufl.grad(sheet.s)) * ufl.dx - sheet.s * ufl.dx,
        ufl.exp(sheet.theta) * ufl.inner(ufl.grad(sheet.s), ufl.grad(sheet.s)) ** 2 * ufl.dx,
    ):
        energy = Energy(E=E, state=sheet.s, parameters=[sheet.theta])
        with pytest.raises(SolveFailed, match=r"singular|flat ground"):
            Aeqprop(energy, sheet.misfit, rate=0.1, nudging=0.1).step()


@pytest.mark.parametrize(
    ("is_log", "mode", "rate"), [(False, "optimistic", 0.5), (True, "pessimistic", 0.3), (True, "pessimistic", 1.0)]
)
def test_where_the_second_phase_runs_away_the_remedy_is_said(is_log, mode, rate):
    """E linear in θ, or β C taken away from it, at rates that are not large."""
    sheet = Sheet(4, is_log=is_log)
    learner, before = sheet.learner(rate=rate, nudging=1.0, mode=mode, metric="mass"), sheet.values()
    with pytest.raises(SolveFailed, match="logarithms"):
        for _ in range(5):
            report = learner.step()
            assert report.lyapunov_after <= report.lyapunov_before
    assert np.abs(sheet.values() - before).max() < 1.0


def test_rounding_of_the_energy_and_units_of_the_state_do_not_stop_a_step():
    """What cancels in the energy up to its rounding; a state of 1e-9 beside parameters of 1; nothing to learn."""
    found = []
    for unit, offset in ((1.0, 0.0), (1.0, 1e8), (1e-9, 0.0)):
        sheet = Sheet(4, degree=0, bend=0.0)
        V = sheet.s.function_space
        x = ufl.SpatialCoordinate(sheet.mesh)
        g = ufl.inner(ufl.grad(sheet.s), ufl.grad(sheet.s)) / unit**2
        E = ufl.exp(sheet.theta) * g * ufl.dx + fem.Constant(sheet.mesh, offset) * (x[0] - 0.5) * ufl.dx
        bcs = [clamp(V, "left", 0.0), clamp(V, "right", unit)]
        energy = Energy(E=E, state=sheet.s, parameters=[sheet.theta], bcs=bcs)
        misfit = Misfit(PointValues(V, POINTS), unit * Y, noise=0.5 * unit)
        Aeqprop(energy, misfit, rate=0.1, nudging=0.5).step()
        found.append(sheet.values())
    close(found[1], found[0])
    close(found[2], found[0])
    sheet = Sheet(3, bend=0.0)
    sheet.theta.x.array[:] = 0.0
    report = sheet.learner(rate=1.0, metric="mass").step({sheet.x: 0.0}, [p[0] for p in POINTS])
    assert report.change < 1e-12


class Device:
    """Gives what it is told to."""

    def __init__(self, given, comm=None):
        self.given = given
        if comm is not None:
            self.comm = comm

    def settle(self, u, theta, x, y, beta):
        return self.given(u)


@pytest.mark.ranks(1, 2)
def test_what_a_device_gives_is_looked_at():
    def learner(given, comm=COMM, theta=(1.0, 2.0)):
        return Aeqprop(Device(given, comm), rate=1.0, nudging=1.0, homeostasis="steered", theta=theta)

    last = COMM.rank == COMM.size - 1
    for given, words in (
        (lambda u: (np.full(2, np.nan) if last else u, None), "NaN"),
        (lambda u: (np.zeros((3, 2)), None), "expected parameters of shape (2,)"),
        (lambda u: u if last else (u, None), "(theta, state)"),
    ):
        learns = learner(given)
        assert words in str(raised_everywhere(BadInput, learns.step))
        np.testing.assert_array_equal(learns.theta, [1.0, 2.0])
    assert "theta" in str(raised_everywhere(BadInput, lambda: learner(None, theta=[np.nan, 1.0])))
    assert "theta" in str(raised_everywhere(BadInput, lambda: learner(None, theta="a")))
    assert "steered back" in str(raised_everywhere(SolveFailed, learner(lambda u: (-u, None)).step))
    if COMM.size > 1:
        noisy = learner(lambda u: (u + COMM.rank, None))
        assert "the same values" in str(raised_everywhere(BadInput, noisy.step))
    # A device of each rank's own.
    own = Aeqprop(Springs(), rate=0.05, nudging=0.5, homeostasis="steered", theta=[1.0 + COMM.rank])
    own.step(1.0, 0.5)
    assert own.theta[0] == pytest.approx(1.0 + COMM.rank, abs=0.1)
