"""How programs end: a rank that fails, or leaves, alone, and ranks that leave together."""

from __future__ import annotations

import re
import subprocess
import time

import pytest
import scripts
from mpi4py import MPI

from relax.base import ending, parallel

COMM = MPI.COMM_WORLD


FAILING = """
import sys, time
import relax
relax.init(sys.argv)
from mpi4py import MPI
import numpy as np
problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(4))
G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space))
G(np.zeros(G.size_in))
who, how = int(sys.argv[1]) % MPI.COMM_WORLD.size, sys.argv[2]
sys.stdout.write(f"START {time.time():.3f}\\n")
sys.stdout.flush()
if MPI.COMM_WORLD.rank == who:
    if how == "raise":
        raise ValueError("on purpose")
    if how == "interrupt":
        raise KeyboardInterrupt
    def user_code(x):
        raise ZeroDivisionError("on purpose")
    if how == "callback":
        relax.control_values(G, user_code)
if how == "callback":
    relax.control_values(G, lambda x: x[0])
G(np.zeros(G.size_in))
"""


@pytest.mark.parametrize("who", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("how", ["raise", "interrupt", "callback"])
@pytest.mark.slow
def test_a_rank_that_fails_alone_ends_a_script(tmp_path, how, who):
    """Plain Python leaves the others waiting for ever: within ten seconds the job is over, with that traceback."""
    ended = scripts.run(tmp_path, FAILING, who, how, ranks=2)
    over = time.time()
    starts = re.findall(r"START (\d+\.\d{3})", ended.stdout)
    assert starts, ended
    assert over - max(map(float, starts)) < 10.0
    assert ended.returncode != 0
    rank = who % 2
    assert f"[rank {rank}] Traceback" in ended.stderr
    if how == "interrupt":
        assert f"[rank {rank}] KeyboardInterrupt" in ended.stderr
    else:
        assert "on purpose" in ended.stderr and "script.py" in ended.stderr


LEAVING = """
import sys
import relax
relax.init(sys.argv)
from mpi4py import MPI
def leave():
    try:
        int("no number")
    except ValueError:
        eval(sys.argv[1])
if sys.argv[2] == "all" or MPI.COMM_WORLD.rank == 1:
    leave() if sys.argv[1] != "raise" else exec("raise SystemExit(3)")
MPI.COMM_WORLD.Barrier()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sys.exit(3)", "raise", "exit(3)", "quit('three')"])
def test_a_rank_that_leaves_alone_ends_a_script(tmp_path, how):
    """SystemExit does not pass by sys.excepthook."""
    try:
        ended = scripts.run(tmp_path, LEAVING, how, "one", ranks=2, timeout=20.0)
    except subprocess.TimeoutExpired:
        pytest.fail("the other rank waits for ever")
    assert ended.returncode != 0
    assert f"[rank 1] SystemExit({'3' if '3' in how or how == 'raise' else repr('three')}) on this rank" in ended.stderr


LEAVING_WELL = """
import sys, time
import relax
relax.init(sys.argv)
from mpi4py import MPI
from relax.base import ending, parallel
ending._LAST_WORDS = float(sys.argv[3])
if MPI.COMM_WORLD.rank == 1:
    exec(sys.argv[1])
if sys.argv[2] == "waits":
    MPI.COMM_WORLD.Barrier()
time.sleep(5.5)
print("FIGURE", flush=True)
"""


@pytest.mark.slow
def test_a_rank_that_leaves_well_does_not_leave_another_waiting(tmp_path):
    ended = scripts.run(tmp_path, LEAVING_WELL, "raise SystemExit", "waits", 6.0, ranks=2, timeout=25.0)
    assert ended.returncode != 0
    assert ended.stderr.count("[rank 1] SystemExit(None) on this rank and not on all") == 2


@pytest.mark.slow
def test_a_rank_that_leaves_well_lets_another_end(tmp_path):
    ended = scripts.run(tmp_path, LEAVING_WELL, "sys.exit(0)", "goes on", 20.0, ranks=2, timeout=25.0)
    assert ended.returncode == 0 and ended.stdout.count("FIGURE") == 1
    assert "not on all: if the others have not ended in 20 s" in ended.stderr


LAST_RITES = """
import atexit, sys
import relax
relax.init(sys.argv)
from mpi4py import MPI
world = MPI.COMM_WORLD
atexit.register(lambda: print(f"TOGETHER {world.allreduce(1)}", flush=True))
if world.rank == 1:
    sys.exit(0)
"""


@pytest.mark.slow
def test_a_rank_that_leaves_well_takes_part_in_what_is_registered_for_the_end(tmp_path):
    try:
        ended = scripts.run(tmp_path, LAST_RITES, ranks=2, timeout=20.0)
    except subprocess.TimeoutExpired:
        pytest.fail("a rank waits for ever")
    assert ended.returncode == 0 and ended.stdout.count("TOGETHER 2") == 2, ended


def test_a_forked_process_does_not_stand_for_its_parent(monkeypatch):
    met = []
    last = ending._LastMeeting()
    monkeypatch.setattr(parallel, "smallest_or", lambda *given: met.append(given))
    with monkeypatch.context() as child:
        child.setattr(ending.os, "getpid", lambda: -1)
        last.leave(SystemExit(3))
        last.end()
        assert met == []
    last.end()
    assert len(met) == 1
    last._comm.Free()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "status"), [("sys.exit(0)", 0), ("exit()", 0), ("sys.exit(3)", 3)])
def test_ranks_that_leave_together(tmp_path, how, status):
    ended = scripts.run(tmp_path, LEAVING, how, "all", ranks=2, timeout=20.0)
    assert ended.returncode == status and "not on all" not in ended.stderr
