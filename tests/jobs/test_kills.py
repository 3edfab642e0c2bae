"""Runs that are killed: nothing on file is lost, and the next run goes on, on any number of ranks, to the same end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jobs
import numpy as np
import pytest
import scripts

from relax.jobs.lock import LOCK

JOB = jobs.changed(("n = 8", "n = 32"), ('name = "gauss_newton"', "rtol = 1e-10"))
STEP = "checkpoint/checkpoint-00000"
DEADLINE = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def results(out: Path) -> dict[str, bytes]:
    """The files of a folder, but for those of an unfinished run and the lock that a killed one leaves."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file() and p.name != LOCK}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nobody kills."""
    where = tmp_path_factory.mktemp("whole")
    assert jobs.command("run", jobs.write(where / "job.toml", JOB), "--output", where / "out").returncode == 0
    return where / "out"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("file", "who", "how", "ranks"),
    [
        ("run.json", 0, signal.SIGKILL, 1),
        (f"{STEP}1", 1, signal.SIGKILL, 2),
        (f"{STEP}2", 0, signal.SIGKILL, 3),
        ("fields.xdmf", "mpirun", signal.SIGKILL, 2),
        ("fields.bp", 1, signal.SIGINT, 1),
    ],
    ids=["at the start", "after a step", "after two steps", "while it writes", "interrupted while it writes"],
)
def test_a_killed_run_is_gone_on_with(
    tmp_path: Path, whole: Path, file: str, who: int | str, how: signal.Signals, ranks: int
) -> None:
    """A rank, or mpirun, is killed outright while earlier results are there; the run after it has ``ranks`` ranks."""
    job, out = jobs.write(tmp_path / "job.toml", JOB), tmp_path / "out"
    shutil.copytree(whole, out)
    before = results(out)

    command = ["mpirun", "-n", "2", sys.executable, "-m", "relax", "run", job, "--output", out, "--overwrite"]
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=scripts.own_environment(),
    )  # fmt: skip
    with process:
        until(lambda: (out / "unfinished" / file).exists() or process.poll() is not None, "the run never came there")
        assert process.poll() is None
        victim = process.pid if who == "mpirun" else scripts.with_word(out)[int(who)]
        os.kill(victim, how)
        _, words = process.communicate(timeout=DEADLINE)
    # Ranks that mpirun leaves behind hold the folder until they are gone.
    until(lambda: not scripts.with_word(out), "a rank is left")
    assert process.returncode != 0 and (how is not signal.SIGINT or "interrupted; the whole job ends" in words)
    if who == "mpirun" and not (out / "unfinished").exists():
        # They went on to the end.
        assert results(out).keys() == before.keys()
        return
    assert results(out) == before

    again = jobs.command("run", job, "--output", out, "--resume", ranks=ranks)
    assert again.returncode == 0, again
    assert not (out / "unfinished").exists() and results(out).keys() == before.keys()
    control, wanted = np.load(out / "control.npy"), np.load(whole / "control.npy")
    # The steps of the two are the same but for rounding, which ranks share differently.
    assert np.abs(control - wanted).max() < 1e-8 * np.abs(wanted).max()
    steps = json.loads((out / "summary.json").read_text())["steps"]
    assert steps <= json.loads((whole / "summary.json").read_text())["steps"] + 1
