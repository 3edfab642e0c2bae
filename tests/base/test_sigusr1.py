"""SIGUSR1: who hears it, for how long, and how a program with a checkpoint ends on it."""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import scripts
from contract import raised_everywhere
from mpi4py import MPI

import relax
from relax.base import sigusr1

COMM = MPI.COMM_WORLD


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sigusr1, "_EARS", weakref.WeakSet())
    old = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, old)
    sigusr1.answered()


def to_last_rank() -> None:
    if COMM.rank == COMM.size - 1:
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("now", [False, True])
def test_one_rank_hears_it_and_all_write_and_leave(
    shared_tmp: Path, capfd: pytest.CaptureFixture[str], now: bool
) -> None:
    checkpoint = relax.Checkpoint(shared_tmp, every="1h")
    to_last_rank()
    # What has come before the start counts after the first step, so that each process does one.
    assert checkpoint.restore() == 0
    left = raised_everywhere(SystemExit, lambda: checkpoint.save(1, now=now))
    words = "relax: stopped: SIGUSR1: the program ends after step 1, which is kept in"
    assert left.code == 75 and (words in capfd.readouterr().err) == (COMM.rank == 0)
    assert relax.Checkpoint(shared_tmp).restore() == 1
    # It has been answered.
    assert not checkpoint.save(2)


@pytest.mark.ranks(1, 2)
def test_what_came_between_two_checkpoints_is_not_lost(shared_tmp: Path) -> None:
    first = relax.Checkpoint(shared_tmp / "1")
    to_last_rank()
    del first
    assert raised_everywhere(SystemExit, lambda: relax.Checkpoint(shared_tmp / "2").save(1)).code == 75


def test_a_handler_of_somebody_elses_stays(tmp_path: Path) -> None:
    theirs: list[int] = []
    for handler in (lambda number, frame: theirs.append(number), signal.SIG_IGN):
        signal.signal(signal.SIGUSR1, handler)
        checkpoint = relax.Checkpoint(tmp_path, every="1h")
        to_last_rank()
        assert signal.getsignal(signal.SIGUSR1) is handler and not checkpoint.save(1)
    assert theirs == [signal.SIGUSR1]
    taking = sigusr1.Ear(takes=True)
    to_last_rank()
    assert taking.has_heard()
    taking.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_it_kills_again_when_no_checkpoint_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    relax.Checkpoint(tmp_path)
    kill, kills = os.kill, []
    monkeypatch.setattr(sigusr1.os, "kill", lambda *call: kills.append(call))
    kill(os.getpid(), signal.SIGUSR1)
    assert kills == [(os.getpid(), signal.SIGUSR1)] and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


IN_A_THREAD = """
import os, signal, threading
import relax
checkpoint = relax.Checkpoint("kept", every="1h")
os.kill(os.getpid(), signal.SIGUSR1)
threading.Thread(target=checkpoint.save, args=[1]).start()
"""

# The last rank's step outlasts what a rank that has left alone is waited for.
EACH_ITS_OWN = """
import os, signal, sys, time
import relax
from mpi4py import MPI
from relax.base import ending
relax.init(sys.argv)
ending.PATIENCE = 0.3
rank = MPI.COMM_WORLD.rank
checkpoint = relax.Checkpoint(f"kept/{rank}", every="1h", comm=MPI.COMM_SELF)
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(2.0 * rank)
checkpoint.save(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("text", "ranks"), [(IN_A_THREAD, 1), (EACH_ITS_OWN, 2)], ids=["thread", "each its own"])
def test_the_whole_program_ends_and_each_checkpoint_is_written(tmp_path: Path, text: str, ranks: int) -> None:
    ended = scripts.run(tmp_path, text, ranks=ranks)
    assert ended.returncode == 75 and ended.stderr.count("relax: stopped: SIGUSR1") == ranks, ended
    for kept in [tmp_path / "kept"] if ranks == 1 else [tmp_path / "kept" / str(rank) for rank in range(ranks)]:
        assert relax.Checkpoint(kept).restore() == 1
