"""The .sbatch files that train, on two ranks: stopped by SIGUSR1, killed, and gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scripts

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
STEPS = 12


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


class Training:
    """One of the jobs, small, by ``mpirun``, and this Python in the place of the one on the PATH."""

    def __init__(self, name: str, folder: Path, words: str) -> None:
        self.name, self._words = name, words.split()
        (folder / "bin").mkdir()
        for command, action in (("python3", f'exec {sys.executable} "$@"'), ("relax", "exit 1")):
            (folder / "bin" / command).write_text(f"#!/bin/sh\n{action}\n")
            (folder / "bin" / command).chmod(0o755)
        self._path = f"{folder / 'bin'}:{os.environ['PATH']}"

    def start(self, out: Path, every: str) -> subprocess.Popen[str]:
        words = [*self._words, "--steps", str(STEPS), "--every", every]
        own = {"PATH": self._path, "OUT": str(out), "LAUNCH": "mpirun -n 2", "SLURM_SUBMIT_DIR": str(ROOT)}
        return subprocess.Popen(
            ["bash", ROOT / "mpi_jobs" / f"{self.name}.sbatch", *words],
            env=scripts.own_environment() | own,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip

    def run(self, out: Path, *, every: str = "1h", at: str = "", act: Callable[[int], None] = lambda pid: None) -> str:
        """Start it, ``act`` when a file is there, and return its status and words."""
        with self.start(out, every) as process:
            if at:
                until(lambda: (out / at).exists() or process.poll() is not None, "it never came there")
                act(process.pid)
            _, words = process.communicate(timeout=2 * DEADLINE)
        until(lambda: not scripts.with_word(out), "a rank is left")
        return f"status {process.returncode}: {words}"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("name", "words", "weights", "how"),
    [
        ("train_closed_loop", "--n 16 --batch 4", "law.pt", signal.SIGUSR1),
        ("train_half_inverse", "--n 6 --batch 4", "network.pt", signal.SIGKILL),
    ],
)
def test_a_training_goes_on_to_the_weights_of_one_run(
    tmp_path: Path, name: str, words: str, weights: str, how: signal.Signals
) -> None:
    """SIGUSR1 to the batch shell, with no checkpoint due for an hour; SIGKILL to a rank, in the midst of a step."""
    job, whole, out = Training(name, tmp_path, words), tmp_path / "whole", tmp_path / "out"
    assert job.run(whole).startswith("status 0:")
    if how is signal.SIGUSR1:
        ended = job.run(out, at="curve.csv", act=lambda pid: os.kill(pid, how))
        assert ended.startswith("status 75:") and "relax: stopped: SIGUSR1: the program ends after step" in ended
        assert f"started again with OUT={out}, it goes on" in ended
        assert [path.name for path in (out / "checkpoint").iterdir()] == ["checkpoint-000001"]
    else:
        ended = job.run(
            out, every="0s", at="checkpoint/checkpoint-000002", act=lambda _: os.kill(scripts.with_word(out)[0], how)
        )
        assert not ended.startswith(("status 0:", "status 75:"))
    steps = len(np.loadtxt(out / "curve.csv", ndmin=1))
    assert 0 < steps < STEPS and not (out / weights).exists()

    assert job.run(out).startswith("status 0:")
    assert (out / "curve.csv").read_bytes() == (whole / "curve.csv").read_bytes()
    found, wanted = (torch.load(folder / weights) for folder in (out, whole))
    assert len(wanted) > 3 and all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert not list(out.glob(".*"))
