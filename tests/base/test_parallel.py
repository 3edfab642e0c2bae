"""Ranks agree: on errors, on values, and on when anything collective happens."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import scripts
import ufl
from contract import everyone_has, raised_everywhere
from dolfinx import fem
from mpi4py import MPI

import relax
from relax import FieldValues, IdentityPrior, PointValues, ReducedMap, gauss_newton, meshes, pdes
from relax.base import parallel, start
from relax.errors import BadInput, CheckFailed, RelaxError, SolveFailed
from relax.relaxation import hopf_lax

COMM = MPI.COMM_WORLD
LAST = COMM.size - 1


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2, 3)
def test_no_error_no_raise():
    parallel.raise_together(COMM, None)
    with parallel.together(COMM):
        pass


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("where", ["first", "last", "all"])
def test_one_error_is_everyones(where):
    """The rank that failed raises its own; the others the same kind, with the words of the lowest that failed."""
    mine = {"first": COMM.rank == 0, "last": COMM.rank == LAST, "all": True}[where]
    error = SolveFailed(f"rank {COMM.rank} stalled") if mine else None
    found = raised_everywhere(SolveFailed, lambda: parallel.raise_together(COMM, error))
    if mine:
        assert found is error
    else:
        assert str(found) == f"rank {0 if where == 'first' else LAST} stalled"


@pytest.mark.ranks(1, 2, 3)
def test_errors_of_others_become_relax_errors_elsewhere():
    """Any exception is told; only relax's own keep their kind, since others may not survive the journey."""

    def action():
        with parallel.together(COMM):
            if COMM.rank == LAST:
                raise ZeroDivisionError("on purpose")

    with pytest.raises((ZeroDivisionError, RelaxError)) as caught:
        action()
    assert (caught.type is ZeroDivisionError) == (COMM.rank == LAST)
    if COMM.rank < LAST:
        assert str(caught.value) == "ZeroDivisionError: on purpose"


@pytest.mark.ranks(1, 2, 3)
def test_different_errors():
    """Ranks that fail in their own ways each raise their own."""
    kinds = [BadInput, SolveFailed, CheckFailed]
    mine = kinds[COMM.rank % 3](f"rank {COMM.rank}")
    with pytest.raises(RelaxError) as caught:
        parallel.raise_together(COMM, mine)
    assert caught.value is mine


@pytest.mark.ranks(1, 2, 3)
def test_actions_on_rank_0():
    assert parallel.on_rank_0(COMM, lambda: {"rank": COMM.rank}) == {"rank": 0}

    def fails():
        raise BadInput("no such file")

    assert str(raised_everywhere(BadInput, lambda: parallel.on_rank_0(COMM, fails))) == "no such file"


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2, 3)
def test_reductions():
    ranks = np.arange(COMM.size)
    assert (parallel.sum_over_ranks(COMM, np.array([1.0, COMM.rank])) == [COMM.size, ranks.sum()]).all()
    assert parallel.dot(COMM, np.full(2, COMM.rank + 1.0), np.ones(2)) == 2.0 * (ranks + 1).sum()
    assert parallel.dot(COMM, np.empty(0), np.empty(0)) == 0.0
    assert parallel.any_rank(COMM, COMM.rank == LAST) and not parallel.any_rank(COMM, False)
    assert parallel.all_ranks_mask(COMM, 0b110 | (COMM.rank == 0)) == (0b111 if COMM.size == 1 else 0b110)
    assert parallel.largest(COMM, float(COMM.rank)) == LAST
    assert (parallel.smallest(COMM, np.array([COMM.rank, -COMM.rank])) == [0, -LAST]).all()
    assert parallel.total(COMM, COMM.rank) == ranks.sum()
    assert parallel.of_rank_0(COMM, COMM.rank) == 0
    assert parallel.on_each_rank(COMM, COMM.rank) == list(ranks)
    assert parallel.to_rank_0(COMM, COMM.rank) == (list(ranks) if COMM.rank == 0 else None)


@pytest.mark.ranks(1, 2, 3)
def test_sums_are_the_same_to_the_last_bit():
    """MPI does not promise it, and a line search that goes two ways on two ranks hangs."""
    everyone_has(parallel.sum_over_ranks(COMM, np.random.default_rng(COMM.rank).standard_normal(1000) * 1e8))


@pytest.mark.ranks(1, 2, 3)
def test_rank_0s_array_is_a_copy():
    mine = np.full(3, float(COMM.rank))
    agreed = parallel.from_rank_0(COMM, mine)
    assert (agreed == 0.0).all()
    agreed[:] = 7.0
    assert (mine == COMM.rank).all()


GOOD = [1.0, 2.0, 3.0]


def test_checked_takes_what_numpy_takes():
    for values in (GOOD, (1, 2, 3), np.array(GOOD, dtype=np.float32), np.array([1, 2, 3])):
        checked = parallel.checked(COMM, values, 3, "control")
        assert checked.dtype == np.float64 and (checked == GOOD).all()
    assert parallel.checked(COMM, np.zeros((4, 2, 3)), 3, "control").shape == (4, 2, 3)
    assert parallel.checked(COMM, np.zeros((0, 3)), 3, "control").shape == (0, 3)


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0], "expected shape (..., 3), got (2,)"),
        (1.0, "expected shape (..., 3), got ()"),
        ([], "an empty array"),
        ([1.0, np.nan, np.inf], "2 of 3 entries are NaN or infinite"),
        ([1.0, 2.0, 3.0j], "expected real numbers, got complex128"),
        (["a", "b", "c"], "expected an array of real numbers"),
        (None, "control: "),
        ([[1.0], [1.0, 2.0]], "control: "),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["everywhere", "last"])
def test_checked_says_expected_and_got(values, words, where):
    """On every rank, also when one rank alone was given the wrong thing."""
    mine = values if where == "everywhere" or COMM.rank == LAST else GOOD
    error = raised_everywhere(BadInput, lambda: parallel.checked(COMM, mine, 3, "control"))
    assert words in str(error) and str(error).startswith("control")
    assert isinstance(error, ValueError)


@pytest.mark.ranks(2, 3)
@pytest.mark.parametrize(
    ("kind", "difference", "refused"),
    [
        (np.float64, 1e-9, False),
        (np.float64, 1e-5, True),
        (np.float32, 1e-5, False),
        (np.float32, 1e-2, True),
        (np.float64, np.nan, True),
    ],
)
def test_ranks_that_hand_over_others_are_told(kind, difference, refused):
    """Rounding is rank 0's; anything more is another sample, of which rank 0's answer would be given for all."""
    values = np.array([0.1, 200.0, 0.3], dtype=kind)
    mine = values + kind(200.0 * difference * (COMM.rank == LAST))
    if refused:
        words = str(raised_everywhere(BadInput, lambda: parallel.checked_on_all(COMM, mine, 3, "control")))
        assert words.startswith("control: ") and ("COMM_SELF" in words or "NaN" in words)
    else:
        assert (parallel.checked_on_all(COMM, mine, 3, "control") == values).all()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("what", ["function", "functions", "expression", "constant", "masked", "tensor"])
def test_what_is_no_array_is_refused_before_numpy_sees_it(what):
    """UFL's __float__ calls itself for ever: this hung."""
    problem = pdes.poisson.diffusion(meshes.unit_square(2))
    m = problem.controls[0]
    value = {
        "function": lambda: m,
        "functions": lambda: [m, m],
        "expression": lambda: 2.0 * m,
        "constant": lambda: fem.Constant(problem.mesh, 1.0),
        "masked": lambda: np.ma.masked_array(np.ones(9), np.arange(9) < 3),
        "tensor": lambda: pytest.importorskip("torch").ones(9, requires_grad=True),
    }[what]()
    words = {"masked": "fill it", "tensor": "SolutionLayer"}.get(what, "expected numbers, got UFL's")
    V = problem.state.function_space
    with ReducedMap(problem, FieldValues(V)) as G, G.linearize(np.zeros(9)) as point:
        prior = IdentityPrior(G, std=1.0)
        y = np.zeros(9)
        for call in (
            lambda: G(value),
            lambda: G.linearize(value),
            lambda: point.vjp(value),
            lambda: point.jvp(value),
            lambda: point.hvp(y, value),
            lambda: gauss_newton(G, value, noise=1.0, prior=prior),
            lambda: gauss_newton(G, y, value, noise=1.0, prior=prior),
            lambda: gauss_newton(G, y, noise=value, prior=prior),
            lambda: IdentityPrior(G, std=1.0, mean=value),
            lambda: PointValues(V, value),
            lambda: hopf_lax(value, [0.0, 1.0], 1.0),
            lambda: hopf_lax(lambda x: x[0], value, 1.0),
        ):
            with pytest.raises(BadInput, match=words):
                call()


def test_threads(monkeypatch):
    """Threads times ranks oversubscribe a node: one per rank, unless the user says otherwise."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PMI_SIZE", "PMIX_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    start.one_thread_per_rank()
    assert "OMP_NUM_THREADS" not in start.os.environ
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    start.one_thread_per_rank()
    assert start.os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    start.one_thread_per_rank()
    assert start.os.environ["OMP_NUM_THREADS"] == "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # undone with the rest


# -- garbage collection; that nothing has a finaliser is in test_imports.py --------------------------------------------


@pytest.fixture
def uneven_collector():
    """Rank 0 collects at every turn, the others never."""
    before = gc.get_threshold()
    if COMM.rank == 0:
        gc.set_threshold(1)
    else:
        gc.disable()
    yield
    gc.set_threshold(*before)
    gc.enable()


def cubic(domain):
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + (u**3 - 1.0 - m) * v) * ufl.dx
    return relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name="cubic")


@pytest.mark.ranks(2)
@pytest.mark.parametrize("options", [None, "amg_gmres"], ids=["direct", "amg"])
def test_collectors_that_run_at_different_moments(uneven_collector, options):
    """DOLFINx's own problems hang here. Points, factors and whole maps are dropped, in reference cycles."""
    for pde in (pdes.poisson.diffusion, cubic):
        problem = pde(meshes.unit_square(4))
        for _ in range(3):
            G = ReducedMap(problem, FieldValues(problem.state.function_space), options=options)
            for i in range(10):
                lin = G.linearize(np.full(G.size_in, 0.1 * i))
                lin.vjp(np.ones(G.size_out))
                cycle = [lin, G]
                cycle.append(cycle)
                del cycle, lin
            del G
    COMM.Barrier()


# -- the heap ----------------------------------------------------------------------------------------------------------

SUPERLU_DIST = """
import gc, sys
import relax
relax.init(sys.argv)
import numpy as np
sys.path.insert(0, sys.argv[1])
from advection import SUPERLU_DIST, advection, directions, map_of
for _ in range(3):
    G = map_of(advection(n=4), SUPERLU_DIST)
    points = [G.linearize(np.full(G.size_in, 0.1 * i)) for i in range(3)]
    for point in points:
        point.vjp(directions(G, 3))
    G.close()
gc.collect()
print("DONE")
"""


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.slow
def test_superlu_dist_does_not_corrupt_the_heap(tmp_path, ranks):
    """Left to the collector, or two factors on one communicator, it ends in an abort, after right results."""
    ended = scripts.run(tmp_path, SUPERLU_DIST, Path(__file__).resolve().parents[1] / "support", ranks=ranks)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("DONE") == ranks
