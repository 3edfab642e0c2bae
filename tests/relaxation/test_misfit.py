"""relax_misfit: samples and relaxed values against closed forms, all starts solved, teams, failures, mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import chirps
import numpy as np
import pytest
from mpi4py import MPI

import relax
from relax import meshes
from relax.errors import BadInput, SolveFailed
from relax.relaxation import relax_misfit
from relax.relaxation.box import default_times
from relax.relaxation.misfit import gauss_newton_each, weak_prior

COMM = MPI.COMM_WORLD
NOISE = 0.05
# For tests that do not ask where a descent leads.
FEW = {"times": [0.05, 0.5, 5.0]}


@contextmanager
def chirp_map(
    num: int = 1, comm: MPI.Comm = COMM, frequency: float = 20.0, **keywords: object
) -> Iterator[relax.ReducedMap]:
    problem = chirps.chirp(meshes.interval(8, comm=comm), num=num, frequency=frequency)
    with relax.ReducedMap(
        problem, relax.PointValues(problem.state.function_space, chirps.SENSORS[:, None]), **keywords
    ) as G:
        yield G


@contextmanager
def root_map() -> Iterator[relax.ReducedMap]:
    problem = chirps.root(meshes.interval(3))
    with relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, np.array([[0.5]]))) as G:
        yield G


def misfit(m: np.ndarray, data: np.ndarray, noise: float = NOISE) -> np.ndarray:
    return 0.5 * np.sum(((chirps.exact(m) - data) / noise) ** 2, axis=-1)


def test_samples_are_those_of_the_closed_form() -> None:
    data = chirps.exact(np.array([0.4, 0.7]))
    with (
        chirp_map(2) as G,
        relax_misfit(G, data, [(0.2, 0.6), (0.5, 1.0)], noise=NOISE, num=(6, 5), starts=1, **FEW) as found,
    ):
        assert [len(axis) for axis in found.axes] == [7, 6] and found.samples.shape == (7, 6)
        m = np.stack(np.meshgrid(np.linspace(0.2, 0.6, 7), np.linspace(0.5, 1.0, 6), indexing="ij"), axis=-1)
        assert np.allclose(found.samples, misfit(m, data), rtol=1e-9, atol=1e-9)
        assert found.scale == pytest.approx(np.ptp(misfit(m, data)))
        assert np.allclose(found.relaxed_samples(0.0), found.samples, rtol=1e-9, atol=1e-9 * found.scale)
        assert np.allclose(found.from_unit(found.to_unit(m)), m, rtol=0, atol=1e-14)


def test_the_relaxed_misfit_is_a_gibbs_average_between_mirrors() -> None:
    """Against quadrature of the Cole–Hopf formula for the misfit continued evenly beyond its box."""
    data, beta, z = chirps.exact(np.array([0.4])), 5.0, np.linspace(0.0, 1.0, 21)
    s = np.linspace(-8.0, 8.0, 4001)
    w = np.exp(-0.5 * s**2)
    errors = []
    with chirp_map() as G:
        for num_times in (6, 12):
            times = 0.1 * np.arange(1, num_times + 1) / num_times
            with relax_misfit(G, data, [(0.0, 1.0)], noise=NOISE, num=300, beta=beta, times=times, starts=1) as found:
                for t in (0.05, 0.1):
                    mirrored = np.abs((z[:, None] + np.sqrt(t / beta) * s + 1.0) % 2.0 - 1.0)
                    f = (misfit(mirrored[:, :, None], data) - found.samples.min()) / found.scale
                    wanted = -np.log(np.exp(-beta * f) @ w / w.sum()) / beta
                    errors.append(np.abs(found.landscape.value(z, t) - wanted).max())
    # Of a range of 1; backward Euler, four steps between times, is of first order.
    coarse, fine = np.array(errors[:2]), np.array(errors[2:])
    assert (fine < 6e-3).all() and (coarse / fine > 1.7).all() and (coarse / fine < 2.3).all()


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 2])
def test_every_start_is_solved_where_gauss_newton_alone_fails_from_most(num: int) -> None:
    truth = np.array([0.8, 0.3])[:num]
    data = chirps.exact(truth) + NOISE * np.random.default_rng(0).normal(size=8)
    with chirp_map(num) as G:
        found = relax_misfit(G, data, [(0.1, 0.9)] * num, noise=NOISE, num=24)
        plain = gauss_newton_each(G, data, found.starts, noise=NOISE, prior=found.prior)
        solved = [sum(np.abs(r.value - truth).max() < 0.05 for r in each if r) for each in (plain, found.results)]
        assert len(found.starts) == 5**num
        assert solved[1] == 5**num and solved[0] < 0.5 * 5**num
        # The best one is the best of all, and a minimum: no lattice node lies lower.
        assert found.result.converged and found.result.history[-1]["misfit"] <= found.samples.min()
        assert found.path.shape[1:] == found.starts.shape and np.array_equal(found.path[0], found.starts)
        found.close()


def test_units_of_noise_do_not_matter_to_the_descent() -> None:
    data = chirps.exact(np.array([0.4]))
    with chirp_map() as G:
        paths, ranges = [], []
        for noise in (1.0, 1e-4):
            with relax_misfit(G, data, [(0.1, 0.9)], noise=noise, num=50, **FEW) as found:
                paths.append(found.path)
                ranges.append(found.scale)
        assert ranges[1] == pytest.approx(1e8 * ranges[0])
        assert np.allclose(paths[0], paths[1], rtol=0, atol=1e-9)


@pytest.mark.ranks(1, 2, 3)
def test_teams_share_the_work_and_find_the_same() -> None:
    data = chirps.exact(np.array([0.8, 0.3])) + NOISE * np.random.default_rng(0).normal(size=8)
    box, how = [(0.1, 0.9), (0.2, 0.8)], {"noise": NOISE, "num": 12, "starts": 2, **FEW}
    teams = relax.Teams(COMM, 1)
    with chirp_map(2) as G, chirp_map(2, teams.space) as own:
        together, apart = relax_misfit(G, data, box, **how), relax_misfit(own, data, box, teams=teams, **how)
        assert np.allclose(apart.samples, together.samples, rtol=1e-9, atol=1e-9)
        assert np.allclose(apart.path, together.path, rtol=0, atol=1e-8)
        values = [np.array([r.value for r in found.results]) for found in (together, apart)]
        assert np.allclose(*values, rtol=0, atol=1e-6)
        # Each team has made its share of the samples, and what Gauss-Newton took on top.
        assert own.counts["forward"] >= (teams.mine(169).stop - teams.mine(169).start) > 0
        assert COMM.size == 1 or own.counts["forward"] < G.counts["forward"]
        for found in (together, apart):
            everyones = COMM.allgather(found.result.value)
            assert all(np.array_equal(value, everyones[0]) for value in everyones)
            found.close()
    teams.close()


def test_three_numbers() -> None:
    truth = np.array([0.4, 0.6, 0.5])
    data = chirps.exact(truth, frequency=5.0)
    box, starts = [(0.3, 0.7)] * 3, [[0.31, 0.69, 0.69], [0.6, 0.6, 0.6]]
    with (
        chirp_map(3, frequency=5.0) as G,
        relax_misfit(G, data, box, noise=0.1, num=[4, 5, 6], starts=starts, **FEW) as found,
    ):
        assert found.samples.shape == (5, 6, 7) and found.landscape.dim == 3
        # The weak prior, of standard deviation 4, is all that keeps them from the truth.
        assert all(r is not None and np.allclose(r.value, truth, atol=1e-3) for r in found.results)


@pytest.mark.ranks(1, 2)
def test_samples_whose_solve_fails_count_as_the_worst() -> None:
    with root_map() as G:
        found = relax_misfit(G, [1.1], [(-0.5, 2.0)], noise=0.1, num=10, starts=np.array([[0.3], [1.8]]), **FEW)
        assert np.isinf(found.samples[0]) and np.isfinite(found.samples[2:]).all()
        assert np.allclose([r.value for r in found.results if r], 1.21, atol=1e-4)
        assert np.isfinite(found.relaxed_samples(found.landscape.times[-1])).all()
        found.close()
        with pytest.raises(SolveFailed, match="each sample of the box"):
            relax_misfit(G, [1.1], [(-0.5, -0.1)], noise=0.1, num=2)


def test_a_gauss_newton_run_that_fails_is_none() -> None:
    with root_map() as G:
        prior = weak_prior(G, np.array([[-1.0, 2.0]]))
        results = gauss_newton_each(G, np.array([1.1]), [[-1.0], [1.0]], noise=0.1, prior=prior)
        assert results[0] is None and results[1] is not None and results[1].converged


def test_the_default_times_look_from_half_a_cell_to_half_the_box() -> None:
    reach = np.sqrt(default_times(20.0, (24, 10)) / 20.0)
    assert reach[0] == pytest.approx(1 / 48) and reach[-1] == pytest.approx(0.5)
    assert np.ptp(np.diff(np.log(reach))) < 1e-12


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"box": [(0.0, 1.0)] * 2}, "each of 1 number"),
        ({"box": [(1.0, 0.0)]}, "lower one below its upper one"),
        ({"box": [(0.0, np.inf)]}, "finite"),
        ({"box": "wide"}, "box: expected"),
        ({"num": 1}, "num: expected a whole number of at least 2"),
        ({"num": [5, 5]}, "num: expected one number"),
        ({"beta": 0.0}, "beta: expected a"),
        ({"times": [0.1, 0.1]}, "times: expected different"),
        ({"starts": 0}, "starts: expected a whole number"),
        ({"starts": [[2.0]]}, "in the box"),
        ({"starts": [[0.5, 0.5]]}, r"shape \(k, 1\)"),
        ({"noise": 0.0}, "noise"),
        ({"data": [1.0]}, "data: expected shape"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(change: dict[str, object], expected: str) -> None:
    given = {"data": np.zeros(8), "box": [(0.0, 1.0)], "noise": 1.0, "num": 4, **change}
    with chirp_map() as G, pytest.raises(BadInput, match=expected):
        relax_misfit(G, given.pop("data"), given.pop("box"), **given)  # type: ignore[arg-type]


@pytest.mark.ranks(1, 2)
def test_a_map_that_does_not_fit_is_refused() -> None:
    with chirp_map(4) as G, pytest.raises(BadInput, match="1 to 3 numbers, got 4"):
        relax_misfit(G, np.zeros(8), [(0.0, 1.0)] * 4, noise=1.0)
    with chirp_map(layout="owned") as G, pytest.raises(BadInput, match="replicated"):
        relax_misfit(G, np.zeros(8), [(0.0, 1.0)], noise=1.0)
    with chirp_map() as G, pytest.raises(BadInput, match="the same all over the box"):
        relax_misfit(G, np.zeros(8), [(0.0, 1.0)], noise=1e200, num=4)


@pytest.mark.ranks(2)
def test_a_map_on_other_ranks_than_its_team_is_refused() -> None:
    teams = relax.Teams(COMM, 1)
    with chirp_map() as G, pytest.raises(BadInput, match="comm=teams.space"):
        relax_misfit(G, np.zeros(8), [(0.0, 1.0)], noise=1.0, teams=teams)
    teams.close()
