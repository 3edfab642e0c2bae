"""One test run on any number of ranks: ``pytest``, or ``mpirun -n 3 python3 -m pytest``.

Ranks take the same tests in the same order, and agree on the outcome of each of their phases: what fails on one rank
fails on all, with that rank's words on rank 0, which is the only one to print. A rank that fails while the others wait
for it inside a collective call ends the whole job with its traceback; a hang of all is for pytest-timeout.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# One thread for BLAS and torch, here and in all that tests start: a run has a process for each core, what tests solve
# is small, and with threads for each core as well it takes more than twice the CPU seconds. Read with NumPy.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# isort: split
import relax  # noqa: F401  # above what imports DOLFINx: the helpers beside this file do

# isort: split
import numpy as np
import pytest
from contract import Bench
from dolfinx import jit
from mpi4py import MPI
from petsc4py import PETSc

COMM = MPI.COMM_WORLD
# Nothing that a test left behind in another communicator can be mistaken for an outcome.
_private = COMM.Dup()
# How long a rank that has failed waits for the others: they may be busy, but not in a collective call without it.
_PATIENCE = 30.0
_collection_errors: list[str] = []

MARKERS = (
    "ranks(*numbers): the numbers of ranks on which the test can fail differently, said by the file, the class or the "
    "function, in this order; one where nothing is said",
    "slow: takes more than a second or so; `make quick` leaves it out",
    "slurm: starts a Slurm of its own, for minutes; left out unless it is asked for, as by `-m slurm`",
)
# More ranks than are named are as good as three.
_SEVERAL = 3
# Seconds below which a run says nothing of where they went; how many of its tests are named.
_WORTH_TELLING, _SLOWEST = 10.0, 15


# What a test compiles it uses a few times, on a small mesh: the C compiler is not asked to optimise it.
jit.DOLFINX_DEFAULT_JIT_OPTIONS["cffi_extra_compile_args"] = (["-O0", "-g0"], "as DOLFINx describes it")


# What is about torch, which no environment with DOLFINx's wheel has to have; each run without it says so.
_ABOUT_TORCH = re.compile(
    r"^(import|from) (torch|optim_common|optim_contract|layer_contract|half_inverse_cases)\b", re.MULTILINE
)
collect_ignore = [
    str(path)
    for path in Path(__file__).parent.rglob("test_*.py")
    if find_spec("torch") is None and _ABOUT_TORCH.search(path.read_text(encoding="utf-8"))
]


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """PETSc objects that a test leaves behind are freed at its end, on all ranks together."""
    yield
    gc.collect()
    PETSc.garbage_cleanup(COMM)
    COMM.Barrier()


@pytest.fixture(scope="class")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The maps of a class that inherits a contract, made once for all of its tests."""
    bench = Bench(request.cls)
    yield bench
    bench.close()
    PETSc.garbage_cleanup(COMM)


@pytest.fixture
def shared_tmp() -> Iterator[Path]:
    """A new folder, the same on every rank."""
    path = Path(COMM.bcast(tempfile.mkdtemp(prefix="relax-test-") if COMM.rank == 0 else None))
    yield path
    COMM.Barrier()
    if COMM.rank == 0:
        shutil.rmtree(path, ignore_errors=True)


# -- one run on many ranks ---------------------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if COMM.rank > 0:
        reporter: Any = config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None:
            reporter._tw._file = open(os.devnull, "w", encoding="utf-8")
        cache: Any = getattr(config, "cache", None)
        if cache is not None:
            cache.set = lambda key, value: None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that are for this number of ranks, and have been asked for."""
    here = min(COMM.size, _SEVERAL)
    wants_slurm = "slurm" in config.option.markexpr
    mine, others = [], []
    for item in items:
        # A class says it for all that it inherits: the outermost mark counts, a file's only where there is no other.
        marks = [(isinstance(node, pytest.Module), mark) for node, mark in item.iter_markers_with_node("ranks")]
        *_, mark = None, *(m for of_file, m in marks if of_file), *(m for of_file, m in marks if not of_file)
        if mark and not (mark.args and set(mark.args) <= set(range(1, _SEVERAL + 1)) and not mark.kwargs):
            raise pytest.UsageError(f"{item.nodeid}: expected numbers from 1 to {_SEVERAL} in its mark, got {mark}")
        is_wanted = wants_slurm or item.get_closest_marker("slurm") is None
        (mine if is_wanted and here in (mark.args if mark else (1,)) else others).append(item)
    if others:
        config.hook.pytest_deselected(items=others)
    items[:] = mine


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _collection_errors.append(f"[rank {COMM.rank}] {report.nodeid}\n{report.longreprtext}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Ranks that would run different tests would wait for each other for ever."""
    everyones = _private.allgather((_collection_errors, [item.nodeid for item in session.items]))
    # What the imports left is there for good: without it a collection at each test's end costs a fifth.
    gc.collect()
    gc.freeze()
    errors = [text for told, _ in everyones for text in told]
    first, *others = (set(nodes) for _, nodes in everyones)
    differing = sorted(set().union(*(first ^ other for other in others)))
    if errors and not all(told for told, _ in everyones):
        pytest.exit("collection failed on some ranks only:\n" + "\n".join(errors), returncode=1)
    if not errors and any(nodes != everyones[0][1] for _, nodes in everyones):
        listed = "\n".join(differing[:10]) or "the same ones in another order"
        pytest.exit(f"ranks have collected different tests (an address or a set in an id?):\n{listed}", returncode=1)


# -- where the time goes -----------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was left out, seconds per folder, and the slowest tests."""
    if collect_ignore:
        terminalreporter.line(f"no torch here: {len(collect_ignore)} files of tests that need it are left out")
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] += report.duration
    folders: Counter[str] = Counter()
    for node, time_taken in seconds.items():
        folders[node.partition("::")[0].rpartition("/")[0]] += time_taken
    if sum(seconds.values()) > _WORTH_TELLING:
        terminalreporter.section("seconds per folder")
        for folder, time_taken in folders.most_common():
            terminalreporter.line(f"{time_taken:8.1f}  {folder}")
        terminalreporter.section(f"the {_SLOWEST} slowest tests")
        for node, time_taken in seconds.most_common(_SLOWEST):
            terminalreporter.line(f"{time_taken:8.1f}  {node}")


# -- one outcome on many ranks -----------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    return report if COMM.size == 1 else _agreed(report)


def _agreed(report: pytest.TestReport) -> pytest.TestReport:
    """The report, failed if it has failed on any rank. Collective, unless another rank never comes."""
    bits = {"passed": 1, "skipped": 2, "failed": 4}
    mine, all_of_them = np.array([bits[report.outcome]]), np.zeros(1, dtype=np.int64)
    request = _private.Iallreduce(mine, all_of_them, op=MPI.BOR)
    start = time.monotonic()
    while not request.Test():
        waited = time.monotonic() - start
        if report.failed and waited > _PATIENCE:
            _end_job(report)
        # A test takes milliseconds, but ranks that wait should leave the cores to the others.
        time.sleep(0.0 if waited < 0.01 else 0.001)
    if all_of_them[0] in (bits["passed"], bits["skipped"]):
        return report
    told = _private.allgather((report.outcome, _words(report)))
    outcomes = [outcome for outcome, _ in told]
    if not report.failed:
        report.outcome = "failed"
        texts = [f"[rank {rank}] {words}" for rank, (outcome, words) in enumerate(told) if outcome == "failed"]
        report.longrepr = "\n".join([f"outcomes by rank: {outcomes}", *texts])
    elif len({_gist(words) for _, words in told}) > 1:
        report.sections.append(("outcomes by rank", str(outcomes)))
        report.sections += [
            (f"rank {rank}", words) for rank, (_, words) in enumerate(told) if words and rank != COMM.rank
        ]
    return report


def _gist(words: str) -> str:
    """The lines that say what went wrong, without addresses, which differ between ranks."""
    return re.sub(r"0x[0-9a-f]+", "", "\n".join(line for line in words.splitlines() if line.startswith("E ")))


def _words(report: pytest.TestReport) -> str:
    if not report.failed:
        return ""
    return "\n".join([report.longreprtext, *(f"-- {name} --\n{content}" for name, content in report.sections)])


def _end_job(report: pytest.TestReport) -> None:
    sys.__stderr__.write(
        f"\n[rank {COMM.rank}] {report.nodeid} failed in its {report.when} on this rank, and another is still in it "
        f"after {_PATIENCE:.0f} s:\n{_words(report)}\n"
    )
    sys.__stderr__.flush()
    COMM.Abort(1)
