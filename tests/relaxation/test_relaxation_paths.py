"""Simulated paths: stochastic control, and that they do not depend on the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from dolfinx import fem
from mpi4py import MPI

from relax import FieldValues, ReducedMap, meshes, theta_evolution
from relax.base import parallel
from relax.base.fem.coefficients import interpolated
from relax.base.monte_carlo import Paths
from relax.errors import BadInput
from relax.relaxation import cole_hopf, control

COMM = MPI.COMM_WORLD

# f = V = ½ c x²: closed forms of 0.34406513, 0.18965549 and 0.06432961.
C, BETA, T, X0 = 1.3, 2.0, 0.8, 1.7
FORM = cole_hopf.ControlledQuadratic(C, BETA)


def first(x):
    return x[0]


def quadratic_paths(beta=BETA, **changes):
    how = {"num_paths": 40000, "num_steps": 40, "seed": 1, **changes}
    return control.simulate(lambda x: C * x, lambda x: 0.5 * C * x[0] ** 2, FORM.alpha, [X0], beta=beta, t=T, **how)


# -- sharing paths -----------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2, 3)
def test_paths_are_the_same_on_any_number_of_ranks():
    """Against all of them on each rank alone, bitwise."""
    shared, alone = (quadratic_paths(num_paths=1300, num_steps=5, comm=comm) for comm in (COMM, MPI.COMM_SELF))
    for name in ("plain", "controlled", "cost", "slack"):
        assert getattr(shared, name).mean == getattr(alone, name).mean
        assert getattr(shared, name).error == getattr(alone, name).error


@pytest.mark.ranks(1, 2, 3)
def test_fewer_paths_than_ranks_and_estimates():
    paths = Paths(2, 0, COMM)
    values = paths.normal(3)
    assert values.shape == (paths.count, 3) and parallel.total(COMM, paths.count) == 2
    found = paths.estimate(values)
    everything = parallel.gather_rows(COMM, values)
    assert np.allclose(found.mean, everything.mean(axis=0))
    assert np.allclose(found.error, everything.std(axis=0, ddof=1) / np.sqrt(2))
    assert found.agrees(found.mean + 2.9 * found.error) and not found.agrees(found.mean + 3.1 * found.error)
    other = Paths(2, 1, COMM).normal(3)
    assert not np.array_equal(values, other) or paths.count == 0


@pytest.mark.ranks(1, 2)
def test_streams_of_blocks_differ():
    paths = Paths(2048, 7, MPI.COMM_SELF)
    rows = paths.normal(1)[:, 0]
    assert len(np.unique(rows)) == 2048
    assert np.abs(np.corrcoef(rows.reshape(4, 512)) - np.eye(4)).max() < 4.5 / np.sqrt(512)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadratic_paths(num_paths=1), "num_paths"),
        (lambda: quadratic_paths(num_steps=0), "num_steps"),
        (lambda: quadratic_paths(beta=0.0), "beta"),
        (lambda: quadratic_paths(seed=-1), "seed"),
        (lambda: control.simulate(np.cos, first, lambda x, s: x, [[0.0]], beta=1.0, t=1.0), "x0"),
        (lambda: control.simulate(lambda x: x[:, 0], first, lambda x, s: x, [0.0], beta=1.0, t=1.0), "gradient"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(BadInput, match=message):
        call()


@pytest.mark.ranks(1, 2)
def test_a_gradient_that_fails_on_one_rank_fails_on_all():
    """The others would wait for its sums for ever."""

    def fails(points):
        if COMM.rank == COMM.size - 1:
            raise BadInput("no gradient here")
        return points

    with pytest.raises(BadInput, match="no gradient here"):
        control.simulate(fails, first, lambda x, s: x, [0.0], beta=1.0, t=1.0, num_steps=2)
    with pytest.raises(BadInput, match="no gradient here"):
        control.simulate(lambda x: x, first, lambda x, s: fails(x), [0.0], beta=1.0, t=1.0, num_steps=2)


# -- stochastic control ------------------------------------------------------------------------------------------------


def test_closed_forms_of_the_controlled_quadratic():
    found = quadratic_paths()
    assert found.plain.agrees(FORM.expected(X0, T)[0])
    assert found.controlled.agrees(FORM.expected_controlled(X0, T)[0])
    assert found.cost.agrees(FORM.cost(X0, T)[0])
    assert found.slack.agrees(0.09008002)
    assert found.total == pytest.approx(FORM.value(X0, T)[0], abs=3.0 * float(found.controlled.error))
    # The steps' own error is far below that of the sample: twice as many steps agree within a fifth of it.
    twice = quadratic_paths(num_steps=80)
    assert abs(twice.plain.error / found.plain.error - 1.0) < 0.05


@pytest.mark.parametrize("wrong", [2.0 * BETA, 0.5 * BETA])
def test_another_noise_is_seen(wrong):
    """With sqrt(2/beta) instead of sqrt(1/beta), or the reverse, nothing agrees."""
    found = quadratic_paths(beta=wrong)
    assert not found.plain.agrees(FORM.expected(X0, T)[0], errors=6.0)
    assert not found.controlled.agrees(FORM.expected_controlled(X0, T)[0], errors=6.0)
    assert not found.slack.agrees(0.09008002, errors=6.0)


@pytest.mark.ranks(1, 2)
def test_the_control_of_the_mesh_is_that_of_the_closed_form():
    """f = V = ½ c x² on a line wide enough: alpha and u against closed forms, and in a simulation."""

    def f(x):
        return 0.5 * C * x[0] ** 2

    mesh = meshes.interval(240, (-5.0, 5.0))
    alpha = control.OptimalControl(mesh, f, beta=BETA, t=T, num_steps=40)
    # Each rank asks at its own points, one of them at none.
    mine = np.linspace(-2.0, 2.0, 3 * COMM.rank)[:, None] if COMM.size > 1 else np.linspace(-2.0, 2.0, 9)[:, None]
    for to_go in (0.0, 0.3, 0.31, T):
        away = np.abs(alpha(mine, to_go) - FORM.alpha(mine, to_go))
        assert np.max(away, initial=0.0) < 2e-3 * C * 2.0
    assert np.max(np.abs(alpha.value(mine, T) - FORM.value(mine, T)), initial=0.0) < 1e-3
    assert alpha(np.full((1, 1), 99.0), T).shape == (1, 1)
    found = control.simulate(lambda x: C * x, f, alpha, [X0], beta=BETA, t=T, num_paths=4000, num_steps=20, seed=3)
    assert found.controlled.agrees(FORM.expected_controlled(X0, T)[0])
    assert found.cost.agrees(FORM.cost(X0, T)[0], errors=4.0)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_control_is_better_in_expectation_than_descent(beta):
    """f = V = 0.3 x² + 0.8 sin 3x: the slack is above 0, and u(x0) is V and cost together."""

    def f(x):
        return 0.3 * x[0] ** 2 + 0.8 * np.sin(3.0 * x[0])

    mesh = meshes.interval(300, (-5.0, 5.0))
    alpha = control.OptimalControl(mesh, f, beta=beta, t=1.0, num_steps=50)
    found = control.simulate(
        lambda x: 0.6 * x + 2.4 * np.cos(3.0 * x), f, alpha, [1.5], beta=beta, t=1.0, num_paths=4000, num_steps=50
    )
    assert found.slack.mean > 3.0 * found.slack.error
    assert found.controlled.mean < found.plain.mean - found.cost.mean
    here = np.full((1, 1), 1.5)
    error = 3.0 * float(np.hypot(found.controlled.error, found.cost.error)) + 1e-3
    assert found.total == pytest.approx(alpha.value(here, 1.0)[0], abs=error)
    # u <= E V without control, at all nodes: alpha = 0 is one of the choices. By Jensen, V smoothed by the paths.
    assert alpha.value(here, 1.0)[0] < found.plain.mean
    # u = -(1/beta) log E exp(-beta V) over paths without control: an identity, not an estimate of the same thing.
    last = _ends_without_control(beta)
    weights = np.exp(-beta * f(last[None]))
    log_mean = -np.log(weights.mean()) / beta
    spread = weights.std() / weights.mean() / beta / np.sqrt(len(last))
    assert alpha.value(here, 1.0)[0] == pytest.approx(log_mean, abs=3.0 * spread + 1e-3)


def test_the_slack_is_not_negative_at_any_node():
    """w = E V(x_t) without control, from its own linear equation w_s = -f' w' + w''/(2 beta), less u."""
    beta, num_steps = 3.0, 50

    def f(x):
        return 0.3 * x[0] ** 2 + 0.8 * np.sin(3.0 * x[0])

    mesh = meshes.interval(300, (-5.0, 5.0))
    alpha = control.OptimalControl(mesh, f, beta=beta, t=1.0, num_steps=num_steps)
    u = alpha.field(1.0)
    V = u.function_space
    w, v = fem.Function(V, name="w"), ufl.TestFunction(V)
    potential = interpolated(f, V)
    weak = (potential.dx(0) * w.dx(0) * v + w.dx(0) * v.dx(0) / (2 * beta)) * ufl.dx
    expected = theta_evolution(weak, w, initial=potential.copy(), dt=1.0 / num_steps, num_steps=num_steps, theta=0.5)
    with ReducedMap(expected, FieldValues(V)) as G:
        plain = G(G.present_control())
    slack = plain - FieldValues(V).value(u)
    assert slack.min() > -1e-6 and slack.max() > 0.05


def _ends_without_control(beta, num=40000, steps=200):
    """Ends of paths of dx = -f' ds + beta^(-½) dW from 1.5, by Euler's method; the same on every rank."""
    rng = np.random.default_rng(11)
    x, ds = np.full(num, 1.5), 1.0 / steps
    for _ in range(steps):
        drift = 0.6 * x + 2.4 * np.cos(3.0 * x)
        middle = x - ds * drift
        kick = np.sqrt(ds / beta) * rng.standard_normal(num)
        middle += kick
        x = x - 0.5 * ds * (drift + 0.6 * middle + 2.4 * np.cos(3.0 * middle)) + kick
    return x
