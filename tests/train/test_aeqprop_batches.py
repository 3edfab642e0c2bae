"""Learning by settling from several samples at once, over teams, and the same on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, close, everyone_has, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from settling_sheet import Sheet, Y

from relax import BadInput, SolveFailed, Teams
from relax.train import Aeqprop

XS, YS = [1.0, 2.0, -1.0, 0.5, 1.5], np.array([0.9, 1.1, 0.8, 1.2, 1.0])[:, None] * Y


def batch(sheet, count=5):
    return [{sheet.x: x} for x in XS[:count]], YS[:count]


@pytest.mark.ranks(1, 2)
def test_samples_that_are_alike_are_one():
    found = []
    for x, y in ((2.0, Y), ([2.0] * 3, [Y] * 3), (2.0, [Y] * 2)):
        sheet = Sheet(4, degree=0)
        given = [{sheet.x: v} for v in x] if isinstance(x, list) else {sheet.x: x}
        report = sheet.learner(rate=0.3, nudging=0.4, metric="mass").step(given, y)
        found.append((sheet.values(), report))
    for values, report in found[1:]:
        close(values, found[0][0])
        assert report.loss == pytest.approx(found[0][1].loss, rel=1e-12)
        assert report.lyapunov_after == pytest.approx(found[0][1].lyapunov_after, rel=1e-9)


def test_a_step_goes_against_the_mean_of_all_slopes():
    """θ⁺ = θ - ε (∇F_β₂(θ⁺) - ∇F_β₁(θ)), F the mean over samples: by dense matrices, for an energy quadratic in s."""
    sheet, rate, beta = Sheet(4, degree=0, bend=0.0), 10.0, 0.6
    V, v = sheet.s.function_space, ufl.TestFunction(sheet.s.function_space)
    stiff = fem.form(ufl.derivative(ufl.derivative(sheet.E, sheet.s), sheet.s))
    load, slope = fem.form(0.3 * v * ufl.dx), fem.form(ufl.derivative(sheet.E, sheet.theta))
    rows = np.array([sheet.misfit.observable.adjoint(sheet.s, one) for one in np.eye(3)])
    at = np.unique(np.concatenate([bc.dof_indices()[0] for bc in sheet.bcs]))
    held = fem.Function(V)
    for bc in sheet.bcs:
        bc.set(held.x.array)
    inner = np.setdiff1d(np.arange(len(held.x.array)), at)

    def mean_slope(nudging):
        slopes = []
        for x, y in zip(XS, YS, strict=True):
            weight = nudging / 0.5**2
            K = fem.assemble_matrix(stiff).to_dense() + weight * rows.T @ rows
            f = x * fem.assemble_vector(load).array + weight * rows.T @ y - K @ held.x.array
            sheet.s.x.array[:] = held.x.array
            sheet.s.x.array[inner] += np.linalg.solve(K[np.ix_(inner, inner)], f[inner])
            sheet.x.value = x
            slopes.append(fem.assemble_vector(slope).array.copy())
        return np.mean(slopes, axis=0)

    before = sheet.theta.x.array.copy()
    first = mean_slope(-beta / 2)
    report = sheet.learner(rate=rate, nudging=beta).step(*batch(sheet))
    step = sheet.theta.x.array - before
    close(step, -rate * (mean_slope(beta / 2) - first), 1e-8)
    assert report.lyapunov_after < report.lyapunov_before
    # Newton's method: every sample's curvature is in its steps.
    assert report.iterations[1] <= 5


@pytest.mark.ranks(2, 3)
def test_any_number_of_ranks_and_teams_learns_the_same():
    """Within bounds: on this rank alone, on all ranks together, by teams, also by teams without a sample."""
    teams = Teams(COMM, 1)
    found = []
    for comm, shared, count in (
        (MPI.COMM_SELF, None, 3),
        (COMM, None, 3),
        (teams.space, teams, 3),
        (MPI.COMM_SELF, None, 1),
        (teams.space, teams, 1),
    ):
        sheet = Sheet(3, degree=0, comm=comm)
        learner = sheet.learner(rate=0.5, nudging=0.8, metric="mass", bounds=(-0.1, 0.28), teams=shared)
        reports = [learner.step(*batch(sheet, count)) for _ in range(2)]
        everyone_has(sheet.values())
        assert sheet.values().max() == 0.28
        found.append((sheet.values(), [reports[-1].loss, reports[-1].lyapunov_after, reports[-1].change]))
    for i, j in ((1, 0), (2, 0), (4, 3)):
        close(found[i][0], found[j][0])
        assert found[i][1] == pytest.approx(found[j][1], rel=1e-8)
    teams.close()


@pytest.mark.ranks(2)
def test_what_fails_in_one_team_fails_in_all():
    teams = Teams(COMM, 1)
    sheet = Sheet(3, comm=teams.space)
    learner, before = sheet.learner(teams=teams), sheet.values()
    far = [{sheet.x: 1.0}, {sheet.x: 1e300}]
    raised_everywhere(SolveFailed, lambda: learner.step(far, YS[:2]))
    np.testing.assert_array_equal(sheet.values(), before)
    assert sheet.x.value == 1.0
    sheet.theta.x.array[:] += 0.1 * COMM.rank
    assert "in all teams" in str(raised_everywhere(BadInput, lambda: learner.step(far, YS[:2])))
    whole = Sheet(3)
    assert "over teams.space" in str(raised_everywhere(BadInput, lambda: whole.learner(teams=teams)))
    teams.close()


@pytest.mark.ranks(1, 2)
def test_batches_that_do_not_fit_are_said():
    sheet = Sheet(3)
    learner = sheet.learner()
    x, y = batch(sheet, 2)
    for samples, data, words in (
        (x, YS[:3], "(k, 3)"),
        (x, Y, "(k, 3)"),
        ([], YS[:0], "at least one sample"),
        (None, YS[:0], "(k, 3)"),
        ([x[0], {}], y, "the same inputs"),
        ([x[0], 3.0], y, "Function or Constant"),
        (x, YS[:2, :2], "3 finite numbers"),
        (x, [YS[:2]], "(k, 3)"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda s=samples, d=data: learner.step(s, d)))
    assert "relax.Teams" in str(
        raised_everywhere(BadInput, lambda: Aeqprop(sheet.energy, sheet.misfit, rate=1.0, nudging=1.0, teams=3))
    )
