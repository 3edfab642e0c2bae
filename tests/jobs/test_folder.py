"""Results and files are the user's: nothing of theirs is removed, old results stay until new ones are there, one run at
a time, and a run goes on from its last good checkpoint."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jobs
import pytest
from contract import raised_everywhere
from mpi4py import MPI
from run_folders import FEW, contents, run

from relax.base.parallel import on_rank_0
from relax.errors import BadInput, SolveFailed
from relax.invert import METHODS
from relax.jobs import folder
from relax.jobs.lock import LOCK, Lock, myself

COMM = MPI.COMM_WORLD


def rank_0_writes(path: Path, text: str) -> None:
    on_rank_0(COMM, lambda: (path.parent.mkdir(exist_ok=True, parents=True), path.write_text(text)))


# -- files of the user ------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_a_folder_of_somebody_is_left_alone(shared_tmp: Path) -> None:
    """A job file, measured data and a figure do not make it a run's; neither does a mark that is damaged."""
    for name in ("job.toml", "sensors.csv", "figure.png"):
        rank_0_writes(shared_tmp / "out" / name, "mine")
    before = contents(shared_tmp / "out")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(BadInput, match="not a folder of relax|nothing to resume"):
            run(shared_tmp, **how)
        assert contents(shared_tmp / "out") == before
    for mark in (
        "",
        '{"relax": "0.1',
        "[]",
        '{"files": ["a"]}',
        '{"relax": "0.1.0", "files": ["../../mine"]}',
        *(
            f'{{"relax": "0.1.0", "files": {files}}}'
            for files in ('[""]', '[".."]', '"run.json"', '["unfinished"]', "{}")
        ),
        "\x00",
    ):
        rank_0_writes(shared_tmp / "out" / folder.RUN, mark)
        with pytest.raises(BadInput, match=r"run\.json: is damaged"):
            run(shared_tmp, overwrite=True)
    assert contents(shared_tmp / "out") == {**before, folder.RUN: b"\x00"}


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("what", ["job", "points"])
def test_a_folder_that_holds_what_the_job_reads_is_refused(shared_tmp: Path, what: str) -> None:
    rank_0_writes(shared_tmp / "out" / "points.csv", "x,y\n0.5,0.5\n")
    text = FEW if what == "job" else jobs.changed(("points = 12", 'points = "out/points.csv"'), of=FEW)
    with pytest.raises(BadInput, match=r"holds (job\.toml|points\.csv), which this job reads"):
        run(shared_tmp, text, name="out/job.toml" if what == "job" else "job.toml")


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_only_what_a_run_has_written_is_replaced(shared_tmp: Path) -> None:
    run(
        shared_tmp,
        jobs.changed(('name = "poisson.diffusion"', 'name = "heat.evolution"\nnum_steps = 2\ndt = 0.1'), of=FEW),
    )
    rank_0_writes(shared_tmp / "out" / "notes.txt", "mine")
    run(shared_tmp, overwrite=True)
    assert contents(shared_tmp / "out")["notes.txt"] == b"mine" and "strip.png" not in contents(shared_tmp / "out")
    rank_0_writes(shared_tmp / "out" / "strip.png", "mine")
    with pytest.raises(BadInput, match=r"holds strip\.png, which is not of the run there"):
        run(shared_tmp, overwrite=True)
    assert contents(shared_tmp / "out")["strip.png"] == b"mine"


# -- results stay until there are others ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("how", ["overwrite", "resume"])
@pytest.mark.parametrize("where", ["steps", "writing"])
def test_a_run_that_fails_leaves_the_results_before_it(
    shared_tmp: Path, monkeypatch: pytest.MonkeyPatch, how: str, where: str
) -> None:
    run(shared_tmp)
    before = contents(shared_tmp / "out")

    def fails(*_: object, **__: object) -> None:
        raise SolveFailed("on purpose")

    with monkeypatch.context() as broken:
        if where == "steps":
            broken.setattr(type(METHODS["gauss_newton"]), "run", property(lambda self: fails))
        else:
            broken.setattr("relax.jobs.inverse.report.write_fields", fails)
        raised_everywhere(SolveFailed, lambda: run(shared_tmp, **{how: True}))
    after = contents(shared_tmp / "out")
    assert before.items() <= after.items()
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"unfinished"}
    # The resumed one had taken two steps more before it failed in writing.
    assert run(shared_tmp, **{how: True}).summary["steps"] == (4 if (how, where) == ("resume", "writing") else 2)
    assert {name.partition("/")[0] for name in contents(shared_tmp / "out")} == {
        name.partition("/")[0] for name in before
    }


def results(where: Path, word: str, *names: str) -> None:
    """A run that only writes."""
    output = folder.RunFolder(MPI.COMM_SELF, where / "out", overwrite=True)
    output.inspect()
    try:
        output.begin(word, lambda work: None)
        for name in names:
            (output.work / name).parent.mkdir(exist_ok=True)
            (output.work / name).write_text(word)
        output.finish()
    finally:
        output.close()


def test_an_exchange_cut_short_is_ended_by_the_next_run(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever operation is the last one: afterwards all files are the new run's, and those of the old one are gone."""
    results(shared_tmp, "old", "a", "b.bp/1", "b.bp/2", "c", "d.bp/1")
    (shared_tmp / "out" / "notes.txt").write_text("mine")
    (shared_tmp / "out").rename(shared_tmp / "old")
    for n in range(50):
        shutil.rmtree(shared_tmp / "out", ignore_errors=True)
        shutil.copytree(shared_tmp / "old", shared_tmp / "out")
        left = [n]

        def counted(operation: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def count(path: Path, *words: object, **more: object) -> object:
                ending = path.name != LOCK and "files" in (folder.marked(shared_tmp / "out" / "unfinished") or {})
                left[0] -= ending
                if left[0] < 0:
                    raise KeyboardInterrupt
                return operation(path, *words, **more)

            return count

        with monkeypatch.context() as watched:
            for name in ("replace", "rename", "unlink"):
                watched.setattr(Path, name, counted(getattr(Path, name)))
            with suppress(KeyboardInterrupt):
                results(shared_tmp, "new", "a", "b.bp/1", "e", "f.bp/1")
                shutil.rmtree(shared_tmp / "old")
        with pytest.raises(BadInput, match="finished run"):
            folder.RunFolder(MPI.COMM_SELF, shared_tmp / "out").inspect()
        after = contents(shared_tmp / "out")
        assert after.pop("notes.txt") == b"mine" and after.pop(folder.RUN)
        assert {name: text for name, text in after.items() if name != LOCK} == dict.fromkeys(
            ("a", "b.bp/1", "e", "f.bp/1", "job.toml"), b"new"
        )
        if not (shared_tmp / "old").exists():
            break
    assert n > 8


def test_what_came_in_the_way_meanwhile_is_kept_and_so_are_the_results(shared_tmp: Path) -> None:
    """A file that somebody put there during the run: both are whole, and the next run ends what this one could not."""
    results(shared_tmp, "old", "a")
    (shared_tmp / "out" / "b").write_text("mine")
    with pytest.raises(BadInput, match=r"holds b, which is not of the run there; the new results are in .*unfinished"):
        results(shared_tmp, "new", "a", "b")
    assert contents(shared_tmp / "out").items() >= {"a": b"old", "b": b"mine", "unfinished/b": b"new"}.items()
    (shared_tmp / "out" / "b").rename(shared_tmp / "b")
    with pytest.raises(BadInput, match="finished run"):
        folder.RunFolder(MPI.COMM_SELF, shared_tmp / "out").inspect()
    assert contents(shared_tmp / "out").items() >= {"a": b"new", "b": b"new"}.items()


# -- one run at a time ------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_a_second_run_is_told_who_writes(shared_tmp: Path) -> None:
    on_rank_0(COMM, lambda: (shared_tmp / "out").mkdir())
    lock = Lock(shared_tmp / "out") if COMM.rank == 0 else None
    holder = COMM.bcast(os.getpid())
    with pytest.raises(BadInput, match=f"another run writes there .process {holder} on {socket.gethostname()}"):
        run(shared_tmp)
    if lock is not None:
        lock.release()
    run(shared_tmp)
    assert LOCK not in contents(shared_tmp / "out")


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from relax.jobs.lock import Lock; "
    script += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match=f"process {other.pid}"):
            Lock(tmp_path)
        other.kill()
        other.wait()
    Lock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_where_the_file_system_has_no_locks_the_words_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    first = Lock(tmp_path)
    with pytest.raises(BadInput, match=rf"process {os.getpid()} .*remove .*{LOCK}"):
        Lock(tmp_path)
    told = json.loads((tmp_path / LOCK).read_text())
    for change, free in (
        ({"ticks": "1"}, True), ({"process": 2**22 + 1, "ticks": "1"}, True), ({"host": "elsewhere"}, False)
    ):  # fmt: skip
        (tmp_path / LOCK).write_text(json.dumps({**told, **change}))
        if free:
            os.close(Lock(tmp_path)._file)
        else:
            with pytest.raises(BadInput, match="on elsewhere"):
                Lock(tmp_path)
    first.release()
    assert set(myself()) <= set(told)
