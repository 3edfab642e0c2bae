"""Results and files are the user's: nothing of theirs is removed, old results stay until new ones are there, one run at
a time, and a run goes on from its last good checkpoint."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import jobs
import numpy as np
import pytest
from contract import raised_everywhere
from mpi4py import MPI

from relax.base.parallel import on_rank_0
from relax.errors import BadInput, SolveFailed
from relax.invert import METHODS
from relax.jobs import Outcome, folder, run_job, toml
from relax.jobs.lock import LOCK, Lock, myself
from relax.jobs.steps import Kept, Record, kept_in, put

COMM = MPI.COMM_WORLD
FEW = jobs.changed(("n = 8", "n = 4"), ('name = "gauss_newton"', "max_steps = 2"))


def run(where: Path, text: str = FEW, name: str = "job.toml", **how: bool) -> Outcome:
    file = toml.read(jobs.write(where / name, text))
    return run_job(file, folder=where / "out", show=False, **how)


def contents(where: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return on_rank_0(COMM, lambda: {str(p.relative_to(where)): p.read_bytes() for p in where.rglob("*") if p.is_file()})


def rank_0_writes(path: Path, text: str) -> None:
    on_rank_0(COMM, lambda: (path.parent.mkdir(exist_ok=True, parents=True), path.write_text(text)))


@pytest.fixture
def here() -> Iterator[Path]:
    with jobs.shared_folder() as where:
        yield where


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one rank."""
    where = tmp_path_factory.mktemp("finished")
    run(where)
    return where / "out"


# -- files of the user ------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_a_folder_of_somebody_is_left_alone(here: Path) -> None:
    """A job file, measured data and a figure do not make it a run's; neither does a mark that is damaged."""
    for name in ("job.toml", "sensors.csv", "figure.png"):
        rank_0_writes(here / "out" / name, "mine")
    before = contents(here / "out")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(BadInput, match="not a folder of relax|nothing to resume"):
            run(here, **how)
        assert contents(here / "out") == before
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
        rank_0_writes(here / "out" / folder.RUN, mark)
        with pytest.raises(BadInput, match=r"run\.json: is damaged"):
            run(here, overwrite=True)
    assert contents(here / "out") == {**before, folder.RUN: b"\x00"}


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("what", ["job", "points"])
def test_a_folder_that_holds_what_the_job_reads_is_refused(here: Path, what: str) -> None:
    rank_0_writes(here / "out" / "points.csv", "x,y\n0.5,0.5\n")
    text = FEW if what == "job" else jobs.changed(("points = 12", 'points = "out/points.csv"'), of=FEW)
    with pytest.raises(BadInput, match=r"holds (job\.toml|points\.csv), which this job reads"):
        run(here, text, name="out/job.toml" if what == "job" else "job.toml")


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_only_what_a_run_has_written_is_replaced(here: Path) -> None:
    run(here, jobs.changed(('name = "poisson.diffusion"', 'name = "heat.evolution"\nnum_steps = 2\ndt = 0.1'), of=FEW))
    rank_0_writes(here / "out" / "notes.txt", "mine")
    run(here, overwrite=True)
    assert contents(here / "out")["notes.txt"] == b"mine" and "strip.png" not in contents(here / "out")
    rank_0_writes(here / "out" / "strip.png", "mine")
    with pytest.raises(BadInput, match=r"holds strip\.png, which is not of the run there"):
        run(here, overwrite=True)
    assert contents(here / "out")["strip.png"] == b"mine"


# -- results stay until there are others ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("how", ["overwrite", "resume"])
@pytest.mark.parametrize("where", ["steps", "writing"])
def test_a_run_that_fails_leaves_the_results_before_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, how: str, where: str
) -> None:
    run(here)
    before = contents(here / "out")

    def fails(*_: object, **__: object) -> None:
        raise SolveFailed("on purpose")

    with monkeypatch.context() as broken:
        if where == "steps":
            broken.setattr(type(METHODS["gauss_newton"]), "run", property(lambda self: fails))
        else:
            broken.setattr("relax.jobs.inverse.report.write_fields", fails)
        raised_everywhere(SolveFailed, lambda: run(here, **{how: True}))
    after = contents(here / "out")
    assert before.items() <= after.items()
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"unfinished"}
    assert run(here, **{how: True}).summary["steps"] == (2 if how == "overwrite" else 4)
    assert contents(here / "out").keys() == before.keys()


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


def test_an_exchange_cut_short_anywhere_is_ended_by_the_next_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever operation is the last one: afterwards all files are the new run's, and those of the old one are gone."""
    results(here, "old", "a", "b.bp/1", "b.bp/2", "c", "d.bp/1")
    (here / "out" / "notes.txt").write_text("mine")
    (here / "out").rename(here / "old")
    for n in range(50):
        shutil.rmtree(here / "out", ignore_errors=True)
        shutil.copytree(here / "old", here / "out")
        left = [n]

        def counted(operation: Callable[..., object], left: list[int] = left) -> Callable[..., object]:
            def count(path: Path, *words: object, **more: object) -> object:
                ending = path.name != LOCK and "files" in (folder.marked(here / "out" / "unfinished") or {})
                left[0] -= ending
                if left[0] < 0:
                    raise KeyboardInterrupt
                return operation(path, *words, **more)

            return count

        with monkeypatch.context() as watched:
            for name in ("replace", "rename", "unlink"):
                watched.setattr(Path, name, counted(getattr(Path, name)))
            with suppress(KeyboardInterrupt):
                results(here, "new", "a", "b.bp/1", "e", "f.bp/1")
                shutil.rmtree(here / "old")
        with pytest.raises(BadInput, match="finished run"):
            folder.RunFolder(MPI.COMM_SELF, here / "out").inspect()
        after = contents(here / "out")
        assert after.pop("notes.txt") == b"mine" and after.pop(folder.RUN)
        assert {name: text for name, text in after.items() if name != LOCK} == dict.fromkeys(
            ("a", "b.bp/1", "e", "f.bp/1", "job.toml"), b"new"
        )
        if not (here / "old").exists():
            break
    assert n > 8


def test_what_came_in_the_way_meanwhile_is_kept_and_so_are_the_results(here: Path) -> None:
    """A file that somebody put there during the run: both are whole, and the next run ends what this one could not."""
    results(here, "old", "a")
    (here / "out" / "b").write_text("mine")
    with pytest.raises(BadInput, match=r"holds b, which is not of the run there; the new results are in .*unfinished"):
        results(here, "new", "a", "b")
    assert contents(here / "out").items() >= {"a": b"old", "b": b"mine", "unfinished/b": b"new"}.items()
    (here / "out" / "b").rename(here / "b")
    with pytest.raises(BadInput, match="finished run"):
        folder.RunFolder(MPI.COMM_SELF, here / "out").inspect()
    assert contents(here / "out").items() >= {"a": b"new", "b": b"new"}.items()


# -- one run at a time ------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_a_second_run_is_told_who_writes(here: Path) -> None:
    on_rank_0(COMM, lambda: (here / "out").mkdir())
    lock = Lock(here / "out") if COMM.rank == 0 else None
    holder = COMM.bcast(os.getpid())
    with pytest.raises(BadInput, match=f"another run writes there .process {holder} on {socket.gethostname()}"):
        run(here)
    if lock is not None:
        lock.release()
    run(here)
    assert LOCK not in contents(here / "out")


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


# -- checkpoints ------------------------------------------------------------------------------------------------------


def unfinished(where: Path, steps: int = 3) -> Path:
    """A run that was killed after some steps."""
    work = where / "out" / folder.UNFINISHED
    work.mkdir(parents=True)
    folder.write_json(work, folder.RUN, {"relax": "0", **myself()})
    folder.write_text(work, folder.JOB, FEW)
    record = Record(MPI.COMM_SELF, work)
    for n in range(steps):
        record.add({"step": n, "gradient_norm": 1.0 / (n + 1)}, np.full(25, 0.1 * n))
    record.close()
    return work


def test_lines_are_whole_and_what_is_kept_is_the_last_step(here: Path) -> None:
    work = unfinished(here)
    history = [json.loads(line) for line in (work / folder.HISTORY).read_text().splitlines()]
    kept = kept_in(here / "out")
    assert kept is not None and kept.history == history and [entry["step"] for entry in history] == [0, 1, 2]
    assert (kept.control == 0.2).all()
    # A line that a kill has cut does not swallow the next one.
    with (work / folder.HISTORY).open("a") as file:
        file.write('{"step": 3, "gradi')
    put(work, kept)
    record = Record(MPI.COMM_SELF, work, kept.history)
    record.add({"step": 3, "gradient_norm": 0.1}, np.full(25, 0.3))
    record.close()
    lines = (work / folder.HISTORY).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]


def npz(control: object, history: object) -> bytes:
    content = io.BytesIO()
    np.savez(content, control=control, history=np.array(json.dumps(history)))
    return content.getvalue()


ENTRIES = [{"step": 0, "gradient_norm": 1.0}, {"step": 1, "gradient_norm": 0.5}]
DAMAGE = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "one bit": lambda whole: whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
    "NaN": lambda whole: npz(np.array([1.0, np.nan]), ENTRIES),
    "complex": lambda whole: npz(np.ones(25, complex), ENTRIES),
    "a matrix": lambda whole: npz(np.ones((5, 5)), ENTRIES),
    "text": lambda whole: b"1.0 2.0 3.0\n",
    "null lines": lambda whole: npz(np.ones(25), [None, None]),
    "a step is missing": lambda whole: npz(np.ones(25), ENTRIES[1:]),
    "another file": lambda whole: npz(np.ones(25), {"a": 1}),
}


@pytest.mark.parametrize("how", [*DAMAGE, "a folder"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    here: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    work = unfinished(here)
    for i, name in enumerate(folder.CHECKPOINTS):
        whole = (work / name).read_bytes()
        if how == "a folder":
            (work / name).unlink()
            (work / name).mkdir()
        else:
            (work / name).write_bytes(DAMAGE[how](whole))
        before = contents(work)
        if i == 0:
            caplog.clear()
            kept = kept_in(here / "out")
            assert kept is not None and len(kept.history) == 2 and (kept.control == 0.1).all()
            assert f"{work / name} is damaged" in caplog.text and "of step 1, is used" in caplog.text
        else:
            with pytest.raises(BadInput, match=f"{name} is damaged .*--overwrite starts anew"):
                run(here, resume=True)
        assert contents(work) == before


@pytest.mark.parametrize("damaged", ["cut", "a folder"])
def test_a_run_goes_on_from_the_good_one_and_keeps_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    """Until another is written: a disk that is full at once leaves what there was."""
    work = unfinished(here)
    last, before = (work / name for name in folder.CHECKPOINTS)
    if damaged == "cut":
        last.write_bytes(last.read_bytes()[:100])
    else:
        last.unlink()
        last.mkdir()
    good = before.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("relax.jobs.steps.write_bytes", full)
        with pytest.raises(BadInput, match="No space left"):
            run(here, resume=True)
    assert before.read_bytes() == good
    assert run(here, resume=True).summary["steps"] == 3


@pytest.mark.ranks(1, 2)
def test_a_disk_that_is_full_in_the_middle_is_named_on_all_ranks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("relax.jobs.steps.write_bytes", full)
        words = str(raised_everywhere(SolveFailed, lambda: run(here)))
    assert "the disk does not take the step (No space left on device)" in words
    assert run(here, overwrite=True).summary["steps"] == 2


def test_a_run_that_fails_at_its_very_end_can_be_gone_on_with(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoints are there until it has ended."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "_sync_all", broken)
        with pytest.raises(BadInput, match="Input/output error"):
            run(here)
    kept = on_rank_0(COMM, lambda: kept_in(here / "out"))
    assert kept is not None and len(kept.history) == 3
    assert run(here, resume=True).summary["steps"] == 4


def test_a_resumed_run_that_is_killed_at_once_is_resumed_again(here: Path, finished: Path) -> None:
    """From the finished one's last step: its copy is in the new folder before that has its name."""
    shutil.copytree(finished, here / "out")
    with pytest.raises(KeyboardInterrupt):
        with pytest.MonkeyPatch.context() as killed:
            killed.setattr("relax.jobs.optimised.Record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            run(here, resume=True)
    kept = kept_in(here / "out")
    assert (here / "out" / "unfinished").exists() and kept is not None and len(kept.history) == 3


def test_what_is_not_relaxs_lock_is_left_alone(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / LOCK).write_text("mine")
    with pytest.raises(BadInput, match="expected the lock of a run"):
        run(here)
    assert (here / "out" / LOCK).read_text() == "mine"


@pytest.mark.parametrize("file", ["control.npy", "history.jsonl", "job.toml"])
@pytest.mark.parametrize("how", ["cut", "empty", "text", "a folder"])
def test_a_finished_run_that_is_damaged_is_named_and_left_alone(
    here: Path, finished: Path, file: str, how: str
) -> None:
    shutil.copytree(finished, here / "out")
    path = here / "out" / file
    if how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(DAMAGE[how](path.read_bytes()) if how != "cut" else path.read_bytes()[:-20])
    before = contents(here / "out")
    with pytest.raises(BadInput, match=f"--resume.*{file}"):
        run(here, resume=True)
    assert contents(here / "out") == before


def test_another_length_is_named_before_anything_is_touched(here: Path) -> None:
    work = unfinished(here)
    (work / folder.CHECKPOINTS[0]).write_bytes(npz(np.ones(7), ENTRIES))
    before = contents(here / "out")
    with pytest.raises(BadInput, match="expected a control of 25 numbers, the earlier run has kept 7"):
        run(here, resume=True)
    assert contents(here / "out") == before


@pytest.mark.ranks(1, 2)
def test_an_unfinished_run_is_gone_on_with_or_replaced_when_asked(here: Path) -> None:
    on_rank_0(COMM, lambda: unfinished(here) and None)
    with pytest.raises(BadInput, match="unfinished run.*--resume"):
        run(here)
    assert run(here, resume=True).summary["steps"] == 4
    assert "unfinished" not in contents(here / "out")
    # One that was killed before its first step has nothing to lose.
    on_rank_0(COMM, lambda: [shutil.rmtree(here / "out"), unfinished(here, steps=0)] and None)
    assert run(here, resume=True).summary["steps"] == 2


def test_links_are_not_followed(here: Path) -> None:
    work, mine = unfinished(here), here / "mine.txt"
    mine.write_text("mine")
    kept = Kept(np.ones(25), ENTRIES)
    for name in (folder.HISTORY, *folder.CHECKPOINTS):
        (work / name).unlink()
        (work / name).symlink_to(mine)
    put(work, kept)
    record = Record(MPI.COMM_SELF, work, kept.history)
    record.add({"step": 2, "gradient_norm": 0.1}, np.ones(25))
    record.close()
    assert mine.read_text() == "mine" and not (work / folder.HISTORY).is_symlink()
    shutil.rmtree(work)
    work.symlink_to(here)
    with pytest.raises(BadInput, match="is not what an unfinished run leaves"):
        run(here, overwrite=True)
