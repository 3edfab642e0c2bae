"""What `relax status` and `relax compare` say of a folder, and that they touch nothing."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import jobs
import pytest
from run_folders import ENDED, FEW, STEPS, begun, contents, finished, run, write_history

from relax import cli
from relax.errors import BadInput
from relax.jobs.compare import compare
from relax.jobs.lock import LOCK, Lock
from relax.jobs.status import seconds_left, status

LONG = jobs.changed(("max_steps = 2", "max_steps = 40\natol = 1e-3"), of=FEW)


def test_a_run_on_its_way(tmp_path: Path) -> None:
    begun(tmp_path / "out" / "unfinished", LONG)
    lock = Lock(tmp_path / "out")
    before = contents(tmp_path)
    try:
        said = status(tmp_path / "out")
    finally:
        assert contents(tmp_path) == before
        lock.release()
    # |g| falls to a tenth in 4 s, and is to fall to a hundredth.
    for words in (
        "out: running\n",
        f"held by     process {os.getpid()} on ",
        "step        3 of at most 40\n",
        "misfit      1 noise levels\n",
        "|g|         1.000e-01\n",
        "time        12 s in these steps\n",
        "left        about 8 s for |g| to fall to 1.0e-03, an estimate",
        "checkpoint  step 3",
    ):
        assert words in said
    said = status(tmp_path / "out")
    assert "unfinished: no process works on it" in said and "step 3, from which --resume goes on" in said


def test_each_part_of_a_run_has_its_checkpoints(tmp_path: Path) -> None:
    work = begun(tmp_path / "unfinished", history=[])
    for part, step in (("trajectory", 30), ("descents", 4)):
        (work / "checkpoint" / part).mkdir()
        (work / "checkpoint" / "checkpoint-000004").rename(work / "checkpoint" / part / "checkpoint-000004")
        (work / "checkpoint" / part / "checkpoint-000004" / "manifest.json").write_text(f'{{"step": {step}}}')
        (work / "checkpoint" / "checkpoint-000004").mkdir()
    assert "checkpoint  descents, step 4; trajectory, step 30, from which" in status(tmp_path)


def test_a_lock_tells_who_as_far_as_can_be_known(tmp_path: Path) -> None:
    begun(tmp_path / "unfinished")
    held = {"host": "elsewhere", "process": 7, "started": "today"}
    for told, words in (
        (held, "process 7 on elsewhere, since today (whether it lives cannot be told from this host)"),
        ({**held, "host": os.uname().nodename, "process": 2**22 + 1, "ticks": "1"}, "no process works on it"),
    ):
        (tmp_path / LOCK).write_text(json.dumps(told))
        assert words in status(tmp_path)
    (tmp_path / LOCK).write_text("")
    assert "held by     which is unknown" in status(tmp_path)
    shutil.rmtree(tmp_path / "unfinished")
    assert "running: it builds what its job describes" in status(tmp_path)


def test_a_finished_run_and_one_that_is_to_replace_it(tmp_path: Path) -> None:
    said = status(finished(tmp_path / "out"))
    for words in ("finished\n", "converged: quickly", "time        1 min 12 s (build 1.5 s, invert 1 min 10 s)"):
        assert words in said
    begun(tmp_path / "out" / "unfinished", jobs.CONTROL_JOB, STEPS[:2], step=1)
    said = status(tmp_path / "out")
    assert "step        1 of at most 500" in said and "4 tolerances" in said
    assert "before it   the results of a finished run" in said
    finished(tmp_path / "other" / "unfinished")
    assert "ended before its files took their place" in status(tmp_path / "other")


@pytest.mark.slow
def test_what_a_run_leaves_is_read(shared_tmp: Path) -> None:
    """The names in the folders above are those that runs write."""
    run(shared_tmp, LONG)
    said = status(shared_tmp / "out")
    summary = json.loads((shared_tmp / "out" / "summary.json").read_text())
    assert f"step        {summary['steps']}\n" in said and f"checkpoint  step {summary['steps']}" in said
    assert f"misfit      {summary['errors']['misfit_in_noise_levels']:.4g} noise levels" in said
    assert f"|g|         {summary['gradient_norm']:.3e}" in said and "build " in said


def test_a_step_in_the_writing_is_not_yet_there(tmp_path: Path) -> None:
    work = begun(tmp_path / "unfinished")
    with (work / "history.jsonl").open("a") as file:
        file.write('{"step": 4, "misfit_in')
    assert "step        3 of" in status(tmp_path)
    write_history(work, [])
    assert "step        none yet" in status(tmp_path)
    (work / "history.jsonl").write_text('{"step": 0}\nnull\n')
    with pytest.raises(BadInput, match="line 2 is damaged"):
        status(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ([1.0, 0.1, 0.01, 1e-3], 4.0 * 3),
        # Those of the later half count: a slow start is past.
        ([1.0, 1.0, 0.1, 0.01], 4.0 * 4),
        ([1.0, 0.5, 0.25, 0.125], 4.0 * 17),
        # No more than max_steps.
        ([1.0, 0.99, 0.98, 0.97], 4.0 * 17),
        ([1.0, 0.1], None),
        ([1.0, 0.1, 0.2, 0.3], None),
        ([1.0, 0.1, 0.01, math.nan], None),
        ([1.0, 0.1, 0.01, None], None),
        ([1.0, 0.1, 0.01, 1e-7], None),
        ([0.0, 0.0, 0.0, 0.0], None),
    ],
)
def test_the_time_left_is_an_estimate_or_not_said(sizes: list[Any], left: float | None) -> None:
    history = [{**STEPS[n], "gradient_norm": size} for n, size in enumerate(sizes)]
    found = seconds_left(history, 1e-6, 20)
    assert found is None if left is None else found == pytest.approx(left)


@pytest.mark.parametrize("what", ["nothing", "a file", "run.json", "run.json: is damaged", "summary.json: is damaged"])
@pytest.mark.parametrize("command", [["status"], ["compare", "good"]], ids=["status", "compare"])
def test_another_folder_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], what: str, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "good")
    if what == "a file":
        (tmp_path / "out").write_text("")
    elif what != "nothing":
        (tmp_path / "out").mkdir()
    if "summary" in what:
        finished(tmp_path / "out" / "x").rename(tmp_path / "y")
        (tmp_path / "out").rmdir()
        (tmp_path / "y").rename(tmp_path / "out")
        (tmp_path / "out" / "summary.json").write_text("[1")
    elif "damaged" in what:
        (tmp_path / "out" / "run.json").write_text("{")
    before = contents(tmp_path)
    assert cli.execute([*command, "out"]) == 2
    said = capfd.readouterr()
    assert said.err.startswith("relax: error: out") and contents(tmp_path) == before and not said.out
    assert (what if "damaged" in what or command == ["status"] else "expected the output folder") in said.err


def test_two_runs_are_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = jobs.changed(("length = 0.5", "length = 0.3"), ("source = 10.0", "dirichlet = { left = 1.0 }"), of=FEW)
    other = {**ENDED, "steps": 5, "fidelity": 0.99, "versions": {"relax": "0.1.0", "ranks": 3}}
    finished(tmp_path / "a")
    finished(tmp_path / "b", text, other)
    assert cli.execute(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()]
    for row in (
        ["prior.length", "0.5", "0.3"],
        ["pde.source", "10.0", "(not", "given)"],
        ["pde.dirichlet.left", "(not", "given)", "1.0"],
        ["steps", "3", "5"],
        ["fidelity", "-", "0.99"],
        ["errors.misfit_in_noise_levels", "1", "1"],
        ["solves.forward", "4", "4"],
        ["seconds.invert", "70", "70"],
        ["ranks", "2", "3"],
    ):
        assert row in rows
    names = [row[0] for row in rows]
    assert "relax" not in names and "pde.name" not in names and "data.seed" not in names
    assert "no key differs" in compare(tmp_path / "a", tmp_path / "a")


def test_an_unfinished_run_is_not_compared(tmp_path: Path) -> None:
    begun(tmp_path / "out" / "unfinished")
    with pytest.raises(BadInput, match="the run in it is unfinished; `relax status` says how far it is"):
        compare(tmp_path / "out", tmp_path / "out")
