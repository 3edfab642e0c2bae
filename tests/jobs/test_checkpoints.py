"""A run goes on from its last good checkpoint; what is damaged is named, and nothing is touched before all is read."""

from __future__ import annotations

import errno
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from contract import raised_everywhere
from mpi4py import MPI
from run_folders import FEW, contents, run

from relax.base.parallel import on_rank_0
from relax.errors import BadInput, SolveFailed
from relax.jobs import folder
from relax.jobs.lock import LOCK, myself
from relax.jobs.steps import Kept, Record, kept_in, put

COMM = MPI.COMM_WORLD


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one rank."""
    where = tmp_path_factory.mktemp("finished")
    run(where)
    return where / "out"


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


def test_lines_are_whole_and_what_is_kept_is_the_last_step(shared_tmp: Path) -> None:
    work = unfinished(shared_tmp)
    history = [json.loads(line) for line in (work / folder.HISTORY).read_text().splitlines()]
    kept = kept_in(shared_tmp / "out")
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
    shared_tmp: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    work = unfinished(shared_tmp)
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
            kept = kept_in(shared_tmp / "out")
            assert kept is not None and len(kept.history) == 2 and (kept.control == 0.1).all()
            assert f"{work / name} is damaged" in caplog.text and "of step 1, is used" in caplog.text
        else:
            with pytest.raises(BadInput, match=f"{name} is damaged .*--overwrite starts anew"):
                run(shared_tmp, resume=True)
        assert contents(work) == before


@pytest.mark.parametrize("damaged", ["cut", "a folder"])
def test_a_run_goes_on_from_the_good_one_and_keeps_it(
    shared_tmp: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    """Until another is written: a disk that is full at once leaves what there was."""
    work = unfinished(shared_tmp)
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
            run(shared_tmp, resume=True)
    assert before.read_bytes() == good
    assert run(shared_tmp, resume=True).summary["steps"] == 3


@pytest.mark.ranks(1, 2)
def test_a_disk_that_is_full_in_the_middle_is_named(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("relax.jobs.steps.write_bytes", full)
        words = str(raised_everywhere(SolveFailed, lambda: run(shared_tmp)))
    assert "the disk does not take the step (No space left on device)" in words
    assert run(shared_tmp, overwrite=True).summary["steps"] == 2


def test_a_run_that_fails_at_its_end_can_be_gone_on_with(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoints are there until it has ended."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "_sync_all", broken)
        with pytest.raises(BadInput, match="Input/output error"):
            run(shared_tmp)
    kept = on_rank_0(COMM, lambda: kept_in(shared_tmp / "out"))
    assert kept is not None and len(kept.history) == 3
    assert run(shared_tmp, resume=True).summary["steps"] == 4


def test_a_resumed_run_that_is_killed_at_once_is_resumed_again(shared_tmp: Path, finished: Path) -> None:
    """From the finished one's last step: its copy is in the new folder before that has its name."""
    shutil.copytree(finished, shared_tmp / "out")
    with pytest.raises(KeyboardInterrupt):
        with pytest.MonkeyPatch.context() as killed:
            killed.setattr("relax.jobs.optimised.Record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            run(shared_tmp, resume=True)
    kept = kept_in(shared_tmp / "out")
    assert (shared_tmp / "out" / "unfinished").exists() and kept is not None and len(kept.history) == 3


def test_what_is_not_relaxs_lock_is_left_alone(shared_tmp: Path) -> None:
    (shared_tmp / "out").mkdir()
    (shared_tmp / "out" / LOCK).write_text("mine")
    with pytest.raises(BadInput, match="expected the lock of a run"):
        run(shared_tmp)
    assert (shared_tmp / "out" / LOCK).read_text() == "mine"


@pytest.mark.parametrize("file", ["control.npy", "history.jsonl", "job.toml"])
@pytest.mark.parametrize("how", ["cut", "empty", "text", "a folder"])
def test_a_finished_run_that_is_damaged_is_named_and_left_alone(
    shared_tmp: Path, finished: Path, file: str, how: str
) -> None:
    shutil.copytree(finished, shared_tmp / "out")
    path = shared_tmp / "out" / file
    if how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(DAMAGE[how](path.read_bytes()) if how != "cut" else path.read_bytes()[:-20])
    before = contents(shared_tmp / "out")
    with pytest.raises(BadInput, match=f"--resume.*{file}"):
        run(shared_tmp, resume=True)
    assert contents(shared_tmp / "out") == before


def test_another_length_is_named_before_anything_is_touched(shared_tmp: Path) -> None:
    work = unfinished(shared_tmp)
    (work / folder.CHECKPOINTS[0]).write_bytes(npz(np.ones(7), ENTRIES))
    before = contents(shared_tmp / "out")
    with pytest.raises(BadInput, match="expected a control of 25 numbers, the earlier run has kept 7"):
        run(shared_tmp, resume=True)
    assert contents(shared_tmp / "out") == before


@pytest.mark.ranks(1, 2)
def test_an_unfinished_run_is_gone_on_with_or_replaced_when_asked(shared_tmp: Path) -> None:
    on_rank_0(COMM, lambda: unfinished(shared_tmp) and None)
    with pytest.raises(BadInput, match="unfinished run.*--resume"):
        run(shared_tmp)
    assert run(shared_tmp, resume=True).summary["steps"] == 4
    assert "unfinished" not in contents(shared_tmp / "out")
    # One that was killed before its first step has nothing to lose.
    on_rank_0(COMM, lambda: [shutil.rmtree(shared_tmp / "out"), unfinished(shared_tmp, steps=0)] and None)
    assert run(shared_tmp, resume=True).summary["steps"] == 2


def test_links_are_not_followed(shared_tmp: Path) -> None:
    work, mine = unfinished(shared_tmp), shared_tmp / "mine.txt"
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
    work.symlink_to(shared_tmp)
    with pytest.raises(BadInput, match="is not what an unfinished run leaves"):
        run(shared_tmp, overwrite=True)
