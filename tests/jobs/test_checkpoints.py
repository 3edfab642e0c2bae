"""A run goes on from its last good checkpoint; what is damaged is named, and nothing is touched before all is read."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import jobs
import numpy as np
import pytest
from contract import raised_everywhere
from mpi4py import MPI
from run_folders import FEW, contents, run

from relax.base import checkpoint_files, files
from relax.base.ending import Stopped
from relax.base.fem import stored_fields
from relax.base.parallel import on_rank_0
from relax.errors import BadInput, SolveFailed
from relax.invert.loop import checked_history
from relax.jobs import folder
from relax.jobs.contents import HISTORY
from relax.jobs.lock import LOCK
from relax.jobs.steps import Record

COMM = MPI.COMM_WORLD
# Converges in seven steps.
JOB = jobs.changed(("n = 8", "n = 4"), ('name = "gauss_newton"', "rtol = 1e-10"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on one rank that took all its steps."""
    where = tmp_path_factory.mktemp("finished")
    run(where)
    return where / "out"


def cut_short(where: Path, text: str = JOB, after: int = 2) -> Path:
    """A run that stopped after some steps; its folder. Collective."""
    with pytest.MonkeyPatch.context() as patched:
        steps = iter(range(after))
        patched.setattr(
            "relax.jobs.stopping.Stopping.after_step", lambda *_: "asked" if next(steps, None) is None else ""
        )
        with pytest.raises(Stopped, match=f"after step {after}, which is kept"):
            run(where, text)
    return where / "out" / folder.UNFINISHED


def kept(work: Path) -> checkpoint_files.Kept | None:
    return checkpoint_files.newest(work / folder.CHECKPOINT, MPI.COMM_SELF)


def last_of(work: Path) -> list[Path]:
    """The checkpoints, the last first."""
    return sorted((work / folder.CHECKPOINT).iterdir(), reverse=True)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("method", ["gauss_newton", "lbfgs"])
@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_a_resumed_run_takes_the_steps_of_one_that_nobody_stopped(shared_tmp: Path, method: str, layout: str) -> None:
    """To the bit: what the method knows, the history and the counts are there again."""
    if layout == "owned" and not stored_fields.is_possible():
        pytest.skip("no package that keeps fields is installed")
    text = JOB.replace('name = "gauss_newton"', f'name = "{method}"').replace("rtol = 1e-10", f'name = "{method}"')
    text = f'{text}\n[solver]\nlayout = "{layout}"\n'
    whole = run(shared_tmp, text, overwrite=True)
    history = on_rank_0(COMM, lambda: read_history(shared_tmp))
    on_rank_0(COMM, lambda: shutil.rmtree(shared_tmp / "out"))
    cut_short(shared_tmp, text)
    again = run(shared_tmp, text, resume=True)
    assert again.summary["steps"] == whole.summary["steps"] > 3
    # One solve more, at the control that was kept.
    assert again.summary["solves"]["forward"] == whole.summary["solves"]["forward"] + 1
    for one, two in zip(history, on_rank_0(COMM, lambda: read_history(shared_tmp)), strict=True):
        assert one["cost"] == pytest.approx(two["cost"], rel=1e-14) and one["step_length"] == two["step_length"]
        assert one["cg_iterations"] == two["cg_iterations"]


def read_history(where: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (where / "out" / HISTORY).read_text().splitlines()]


@pytest.mark.ranks(1, 2)
def test_without_a_package_for_fields_a_run_says_that_it_keeps_nothing(
    shared_tmp: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stored_fields, "_PACKAGES", ("no_such_package",))
    outcome = run(shared_tmp, f'{JOB}\n[solver]\nlayout = "owned"\n')
    assert outcome.converged and not (shared_tmp / "out" / folder.CHECKPOINT).exists()
    assert "keeps nothing to go on from: for its fields adios4dolfinx or io4dolfinx is needed" in caplog.text
    with pytest.raises(BadInput, match="nothing to resume: there is no run that keeps its steps"):
        run(shared_tmp, JOB, resume=True)


def test_lines_are_whole(shared_tmp: Path) -> None:
    """A line that a kill has cut does not swallow the next one."""
    work = cut_short(shared_tmp)
    history = [json.loads(line) for line in (work / HISTORY).read_text().splitlines()]
    found = kept(work)
    assert found is not None and found.step == 2
    assert [entry["step"] for entry in history] == [0, 1, 2] and found.states["optimiser"]["history"] == history
    with (work / HISTORY).open("a") as file:
        file.write('{"step": 3, "gradi')
    record = Record(MPI.COMM_SELF, work, history)
    record.add({"step": 3, "gradient_norm": 0.1})
    record.close()
    lines = (work / HISTORY).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


DAMAGE = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "one bit": lambda whole: flipped(whole, len(whole) // 2),
    "text": lambda whole: b"1.0 2.0 3.0\n",
    "null": lambda whole: b"null",
}


@pytest.mark.parametrize("file", ["state.npz", "manifest.json"])
@pytest.mark.parametrize("how", [*DAMAGE, "a folder", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    shared_tmp: Path, caplog: pytest.LogCaptureFixture, file: str, how: str
) -> None:
    work = cut_short(shared_tmp)
    for i, path in enumerate(last_of(work)):
        whole = (path / file).read_bytes()
        (path / file).unlink()
        if how == "a folder":
            (path / file).mkdir()
        elif how != "gone":
            (path / file).write_bytes(DAMAGE[how](whole))
        before = contents(work)
        if i == 0:
            caplog.clear()
            found = kept(work)
            assert found is not None and found.step == 1 and len(found.states["optimiser"]["history"]) == 2
            assert f"{path} is damaged" in caplog.text and "of step 1, is used" in caplog.text
        else:
            with pytest.raises(BadInput, match=r"--resume: .* is damaged .*--overwrite starts anew"):
                run(shared_tmp, JOB, resume=True)
        assert contents(work) == before


def test_a_run_goes_on_from_the_good_one_and_keeps_it(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until another is written: a disk that is full at once leaves what there was."""
    work = cut_short(shared_tmp)
    last, before = last_of(work)
    (last / "state.npz").write_bytes(b"")
    good = contents(before)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint_files, "write_bytes", full)
        with pytest.raises(SolveFailed, match="No space left.*what was there before is whole"):
            run(shared_tmp, JOB, resume=True)
    assert contents(before) == good and not last.exists()
    assert run(shared_tmp, JOB, resume=True).converged


@pytest.mark.ranks(1, 2)
def test_a_disk_that_is_full_in_the_middle_is_named(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint_files, "write_bytes", full)
        words = str(raised_everywhere(SolveFailed, lambda: run(shared_tmp)))
    assert "the disk does not take what is written there (No space left on device)" in words
    assert run(shared_tmp, overwrite=True).summary["steps"] == 2


def test_a_run_that_fails_at_its_end_can_be_gone_on_with(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(folder, "_sync_all", broken)
        with pytest.raises(BadInput, match="Input/output error"):
            run(shared_tmp)
    found = kept(shared_tmp / "out" / folder.UNFINISHED)
    assert found is not None and found.step == 2
    assert run(shared_tmp, resume=True).summary["steps"] == 2


def test_a_resumed_run_that_is_killed_at_once_is_resumed_again(shared_tmp: Path, finished: Path) -> None:
    """From the finished one's last step: its copy is in the new folder before that has its name."""
    shutil.copytree(finished, shared_tmp / "out")
    with pytest.raises(KeyboardInterrupt):
        with pytest.MonkeyPatch.context() as killed:
            killed.setattr("relax.jobs.optimised.Record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            run(shared_tmp, resume=True)
    found = kept(shared_tmp / "out" / folder.UNFINISHED)
    assert found is not None and found.step == 2


def test_what_is_not_relaxs_lock_is_left_alone(shared_tmp: Path) -> None:
    (shared_tmp / "out").mkdir()
    (shared_tmp / "out" / LOCK).write_text("mine")
    with pytest.raises(BadInput, match="expected the lock of a run"):
        run(shared_tmp)
    assert (shared_tmp / "out" / LOCK).read_text() == "mine"


@pytest.mark.parametrize("file", ["checkpoint", "job.toml"])
@pytest.mark.parametrize("how", ["cut", "empty", "text", "a folder"])
def test_a_finished_run_that_is_damaged_is_named_and_left_alone(
    shared_tmp: Path, finished: Path, file: str, how: str
) -> None:
    shutil.copytree(finished, shared_tmp / "out")
    out = shared_tmp / "out"
    for path in [each / "state.npz" for each in last_of(out)] if file == "checkpoint" else [out / file]:
        if how == "a folder":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(DAMAGE[how](path.read_bytes()) if how != "cut" else path.read_bytes()[:-20])
    before = contents(out)
    with pytest.raises(BadInput, match=f"--resume.*{file}"):
        run(shared_tmp, resume=True)
    assert contents(out) == before


@pytest.mark.parametrize(
    "how", ["another length", "NaN", "a matrix", "a step is missing", "null lines", "the other layout"]
)
def test_what_does_not_fit_is_named_before_anything_is_touched(shared_tmp: Path, how: str) -> None:
    """Files that are whole, and say something else."""
    work = cut_short(shared_tmp)
    found = kept(work)
    assert found is not None
    state = found.states["optimiser"]
    control, history = state["control"], state["history"]
    changed = {
        "another length": {"control": np.ones(7)},
        "NaN": {"control": control * np.nan},
        "a matrix": {"control": np.ones((25, 25))},
        "a step is missing": {"history": history[1:]},
        "null lines": {"history": [None, None]},
        "the other layout": {"control": [1.0]},
    }[how]
    shutil.rmtree(work / folder.CHECKPOINT)
    checkpoint_files.write(work / folder.CHECKPOINT, MPI.COMM_SELF, 2, {"optimiser": {**state, **changed}}, None)
    before = contents(shared_tmp / "out")
    with pytest.raises(BadInput, match="--resume: the (control|history)"):
        run(shared_tmp, JOB, resume=True)
    assert contents(shared_tmp / "out") == before


@pytest.mark.parametrize("gone", ["control", "history"])
def test_what_is_missing_is_named(shared_tmp: Path, gone: str) -> None:
    work = cut_short(shared_tmp)
    found = kept(work)
    assert found is not None
    state = {key: value for key, value in found.states["optimiser"].items() if key != gone}
    checkpoint_files.write(work / folder.CHECKPOINT, MPI.COMM_SELF, 2, {"optimiser": state}, None)
    with pytest.raises(BadInput, match=f"--resume: .* has no {gone}; --overwrite starts anew"):
        run(shared_tmp, JOB, resume=True)


def test_a_history_begins_with_step_0() -> None:
    for history in ([], [{"step": 1}], [{"a": 1}], ["x"]):
        with pytest.raises(BadInput, match="expected the steps from 0 on"):
            checked_history(history)


@pytest.mark.ranks(1, 2)
def test_an_unfinished_run_is_gone_on_with_or_replaced_when_asked(shared_tmp: Path) -> None:
    cut_short(shared_tmp)
    with pytest.raises(BadInput, match="unfinished run.*--resume"):
        run(shared_tmp, JOB)
    assert run(shared_tmp, JOB, resume=True).converged
    assert "unfinished" not in contents(shared_tmp / "out")
    # One that was killed before its first step has nothing to lose.
    on_rank_0(COMM, lambda: shutil.rmtree(shared_tmp / "out"))
    work = cut_short(shared_tmp, after=0)
    on_rank_0(COMM, lambda: shutil.rmtree(work / folder.CHECKPOINT))
    assert run(shared_tmp, FEW, resume=True).summary["steps"] == 2


def test_links_are_not_followed(shared_tmp: Path) -> None:
    work, mine = cut_short(shared_tmp), shared_tmp / "mine.txt"
    mine.write_text("mine")
    (work / HISTORY).unlink()
    (work / HISTORY).symlink_to(mine)
    record = Record(MPI.COMM_SELF, work, [{"step": 0}])
    record.add({"step": 1, "gradient_norm": 0.1})
    record.close()
    assert mine.read_text() == "mine" and not (work / HISTORY).is_symlink()
    files.remove(work)
    work.symlink_to(shared_tmp)
    with pytest.raises(BadInput, match="is not what an unfinished run leaves"):
        run(shared_tmp, JOB, overwrite=True)
