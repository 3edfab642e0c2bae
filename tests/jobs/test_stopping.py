"""Runs that are asked to stop: after their present step, with what they can be gone on from, and status 75."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import scripts
from contract import raised_everywhere
from mpi4py import MPI
from relaxation_jobs import LANDSCAPE_JOB, MISFIT_JOB, prepared
from run_folders import run

from relax.base import parallel
from relax.base.ending import Stopped
from relax.base.fem import stored_fields
from relax.invert.objective import Recorder
from relax.jobs import read, run_job
from relax.jobs.stopping import Stopping

COMM = MPI.COMM_WORLD
JOB = jobs.changed(("n = 8", "n = 4"))


@pytest.mark.ranks(1, 2)
def test_sigusr1_to_one_rank_stops_all_after_the_step(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, before = Recorder.add, signal.getsignal(signal.SIGUSR1)

    def signalled(self: Recorder, *given: object) -> bool:
        if COMM.rank == COMM.size - 1 and len(self.history) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return add(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "add", signalled)
        words = str(raised_everywhere(Stopped, lambda: run(shared_tmp, JOB)))
    assert "SIGUSR1: the run ends after step 2, which is kept; the same command with --resume goes on" in words
    # The signal is the caller's again.
    assert signal.getsignal(signal.SIGUSR1) is before
    assert run(shared_tmp, JOB, resume=True).converged


@pytest.mark.ranks(1, 2)
def test_a_time_limit_stops_before_the_step_that_does_not_fit(shared_tmp: Path) -> None:
    file = read(jobs.write(shared_tmp / "job.toml", JOB))
    with pytest.raises(Stopped, match="the time limit of 0.001 s: the run ends after step 0"):
        run_job(file, folder=shared_tmp / "out", time_limit=1e-3, show=False)
    assert run_job(file, folder=shared_tmp / "out", resume=True, time_limit=1e3, show=False).converged


def test_the_end_of_a_slurm_job_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1e9]
    monkeypatch.setattr("relax.jobs.stopping.time.time", lambda: clock[0])
    for limit, steps in ((None, (1.0, 1.0, 34.0)), (1000.0, (1.0, 1.0, 340.0))):
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(clock[0]) + 100))
        stopping = Stopping(limit)
        stops = []
        for seconds in steps:
            clock[0] += seconds
            stops.append(stopping.after_step())
        # Steps of a second fit twice into what is left, the third does not.
        assert stops == ["", "", "the end of the Slurm job" if limit is None else "the time limit of 1000 s"]
        stopping.close()


@pytest.mark.slow
def test_sigusr1_to_mpirun_ends_with_status_75_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """mpirun passes it on; it may come as soon as the first line is there."""
    job = jobs.write(tmp_path / "job.toml", jobs.changed(("n = 8", "n = 48"), ("length = 0.5", "length = 0.1")))
    command = ["mpirun", "-n", "2", sys.executable, "-m", "relax", "run", job, "--output", tmp_path / "out"]
    with subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=scripts.own_environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None and "poisson.diffusion" in process.stdout.readline()
        process.send_signal(signal.SIGUSR1)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 75 and "relax: stopped: SIGUSR1: the run ends after step" in words
    again = jobs.command("run", job, "--output", tmp_path / "out", "--resume", ranks=1)
    assert again.returncode == 0, again
    late = jobs.command("run", job, "--output", tmp_path / "out", "--overwrite", "--time-limit", "1 month", ranks=1)
    assert late.returncode == 2 and "--time-limit: expected a time" in late.stderr


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("kind", ["landscape", "misfit"])
def test_jobs_that_relax_go_on_from_each_of_their_parts(
    shared_tmp: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Stopped again and again, one ends with the result of one that nobody stopped."""
    if kind == "landscape" and not stored_fields.is_possible():
        pytest.skip("no package that keeps fields is installed")
    text = {
        "landscape": LANDSCAPE_JOB,
        "misfit": MISFIT_JOB.replace("num = 24", "num = 6"),
    }[kind]
    (shared_tmp / "whole").mkdir(exist_ok=True)
    prepared(shared_tmp / "whole", text)
    file = read(shared_tmp / "whole" / "job.toml")
    wanted = run_job(file, folder=shared_tmp / "wanted", show=False).summary
    steps = iter(range(10**6))
    # After every third step.
    monkeypatch.setattr(Stopping, "after_step", lambda self: "asked" if next(steps) % 3 == 2 else "")
    stops = 0
    while True:
        try:
            found = run_job(file, folder=shared_tmp / "out", resume=stops > 0, show=False).summary
            break
        except Stopped:
            stops += 1
            assert stops < 60
    assert stops > 2
    for key in set(wanted) - {"seconds", "versions", "solves"}:
        assert found[key] == wanted[key] or found[key] == pytest.approx(wanted[key], rel=1e-9), key
    names = parallel.on_rank_0(COMM, lambda: [{p.name for p in (shared_tmp / f).iterdir()} for f in ("out", "wanted")])
    assert names[0] == names[1] and "checkpoint" not in names[0]
