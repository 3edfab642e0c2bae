"""``make kills``: runs are killed, asked to stop, or find the disk full, at random moments, and gone on with.

usage: kills.py [--seed S] [--kills N] [--signals N] [--kinds KIND ...] [PART ...]

PARTs are kills, signals and disks; all by default.

kills    kill -9 of a rank or of mpirun at N random moments of jobs of each kind, from the start to the end; in every
         third chain over finished results. What is left is resumed on 1, 2 or 3 ranks, every other one killed again.
signals  SIGUSR1 to mpirun at N random moments after the first printed line: status 75 and a resume, or 0 with results.
disks    RLIMIT_FSIZE at 0, in the middle and before the end of each file that a run writes, over finished results.

Exit status: 0 when all of that holds, 1 with what did not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "support"))

import jobs  # noqa: E402
import relaxation_jobs  # noqa: E402
import scripts  # noqa: E402

DEADLINE = 120.0
# Seconds long; the first two with steps of a tolerance at which 1e-9 means something.
TEXTS = {
    "inverse": jobs.changed(("n = 8", "n = 40"), ('name = "gauss_newton"', "rtol = 1e-12\natol = 1e-12")),
    "control": jobs.CONTROL_JOB.replace("rtol = 1e-4\natol = 0.5", "rtol = 1e-4\natol = 1e-12\nmax_steps = 20"),
    "landscape": relaxation_jobs.landscape(("n = 60", "n = 400"), ("num_steps = 4", "num_steps = 60")),
    "misfit": relaxation_jobs.misfit(),
}
# The numbers that a run is judged by, from its folder.
RESULTS: dict[str, Callable[[Path], np.ndarray]] = {
    "inverse": lambda out: np.load(out / "control.npy"),
    "control": lambda out: np.load(out / "control.npy"),
    "landscape": lambda out: np.array([v for key in ("least", "largest") for v in read(out / "result.json")[key]]),
    "misfit": lambda out: np.array(read(out / "result.json")["value"]),
}


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


class Failure(Exception):
    """What did not hold."""


def expect(condition: object, words: str) -> None:
    if not condition:
        raise Failure(words)


def start(job: Path, out: Path, ranks: int, *options: str, limit: int | None = None) -> subprocess.Popen[str]:
    command = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    command += [sys.executable, "-m", "relax", "run", str(job), "--output", str(out), *options]

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # A session of their own, so that nothing that is left behind escapes.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=scripts.own_environment() | {"TMPDIR": str(job.parent)}, start_new_session=True, preexec_fn=limited,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its status and its words."""
    try:
        said, words = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Failure(f"hangs: {process.args}") from None
    return process.returncode, said + words


def state(out: Path) -> dict[str, bytes]:
    """The finished results of a folder."""
    if not (out / "run.json").exists():
        return {}
    names = read(out / "run.json")["files"]
    return {str(p.relative_to(out)): p.read_bytes() for n in names for p in walk(out / n) if p.is_file()}


def walk(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")


def run(job: Path, out: Path, ranks: int, *options: str) -> str:
    status, words = ended(start(job, out, ranks, *options))
    expect(status in (0, 3), f"status {status} of {' '.join(options) or 'a run'} on {ranks} rank(s): {words}")
    return words


def options_for(out: Path, is_over: bool, before: dict[str, bytes]) -> list[str]:
    """How the next run of a chain is started; nothing when it has ended."""
    if (out / "unfinished").exists():
        return ["--resume"]
    if is_over and state(out) == before:
        return ["--overwrite"]
    return []


class Kind:
    """A kind of job, and what runs that nobody kills give."""

    def __init__(self, name: str, where: Path) -> None:
        self.name = name
        self.where = where / name
        self.where.mkdir()
        (self.where / "chirps.py").write_text((Path(__file__).parent / "support" / "chirps.py").read_text())
        self.job = self.where / "job.toml"
        relaxation_jobs.prepared(self.where, TEXTS[name])
        self.wanted: dict[int, np.ndarray] = {}
        self.seconds: dict[int, float] = {}
        self.steps = 0
        for ranks in (1, 2, 3):
            out = self.where / f"whole-{ranks}"
            began = time.monotonic()
            run(self.job, out, ranks)
            self.seconds[ranks] = time.monotonic() - began
            self.wanted[ranks] = RESULTS[name](out)
            self.steps = max(self.steps, read(out / "summary.json").get("steps", 0))
        self.whole = self.where / "whole-1"
        one = self.wanted[1]
        self.size = float(np.abs(one).max())
        self.spread = max(float(np.abs(other - one).max()) for other in self.wanted.values())
        print(f"{name}: {self.seconds[1]:.1f} s, ranks differ by {self.spread / self.size:.1e}", flush=True)

    def judge(self, out: Path, ranks: list[int], kills: int) -> float:
        """The relative distance from what nobody kills gives."""
        found = RESULTS[self.name](out)
        far = float(np.abs(found - self.wanted[1]).max())
        bound = max(10.0 * self.spread, 1e-9 * self.size if self.name == "inverse" else 1e-12 * self.size)
        expect(far <= bound, f"{far / self.size:.1e} away, {bound / self.size:.1e} allowed, on {ranks} ranks")
        if set(ranks) == {1}:
            expect(far == 0.0, f"one rank, and {far:.1e} away")
        steps = read(out / "summary.json").get("steps", 0)
        expect(steps <= self.steps + kills, f"{steps} steps, {self.steps} without {kills} kills")
        return far / self.size


def chain(kind: Kind, rng: random.Random, number: int) -> str:
    """A run that is killed, and gone on with."""
    out = kind.where / f"chain-{number}"
    is_over = number % 3 == 2
    if is_over:
        shutil.copytree(kind.whole, out)
    before = state(out)
    ranks, kills, moments = [], 0, []
    more = 1 + number % 2
    while True:
        n = rng.choice((1, 2, 3)) if number % 5 else 1
        options = options_for(out, is_over, before)
        process = start(kind.job, out, n, *options)
        ranks.append(n)
        if kills < more:
            moment = rng.uniform(0.0, kind.seconds[n])
            time.sleep(moment)
            victims = [process.pid, *scripts.with_word(out)]
            victim = rng.choice(victims)
            if process.poll() is None:
                os.kill(victim, signal.SIGKILL)
                kills += 1
                moments.append(f"{moment:.2f}")
        status, words = ended(process)
        until = time.monotonic() + DEADLINE
        while scripts.with_word(out):
            expect(time.monotonic() < until, "a rank is left behind")
            time.sleep(0.05)
        now = state(out)
        if status in (0, 3) or now not in ({}, before):
            break
        expect(now == before, "finished results are gone")
        expect(kills > 0, f"status {status} without a kill: {words}")
        expect(len(ranks) < 12, f"does not end: {words}")
    expect(not (out / "unfinished").exists() or state(out), "no results")
    if (out / "unfinished").exists():
        # Killed after its last word: the next run puts them in place, and says that there is nothing to do.
        ended(start(kind.job, out, 1))
    far = kind.judge(out, ranks, kills)
    shutil.rmtree(out)
    return f"killed at {', '.join(moments) or 'no moment'} s, on {ranks} ranks, {far:.1e} away"


def signals(kind: Kind, rng: random.Random, number: int) -> str:
    out = kind.where / f"signal-{number}"
    is_over = number % 2 == 1
    if is_over:
        shutil.copytree(kind.whole, out)
    before = state(out)
    process = start(kind.job, out, 2, *(["--overwrite"] if is_over else []))
    assert process.stdout is not None
    expect(process.stdout.readline(), "no line")
    time.sleep(rng.uniform(0.0, kind.seconds[2] / 2))
    if process.poll() is None:
        process.send_signal(signal.SIGUSR1)
    status, words = ended(process)
    expect(status in (0, 3, 75), f"status {status}: {words}")
    if status == 75:
        expect(state(out) == before and (out / "unfinished").exists(), "75, and not as it was")
        run(kind.job, out, rng.choice((1, 2, 3)), "--resume")
    kind.judge(out, [2], 1)
    shutil.rmtree(out)
    return f"status {status}"


def disks(kind: Kind) -> Iterator[str]:
    """A disk that is full at some byte of a file."""
    out = kind.where / "disk"
    sizes = {p.stat().st_size for p in kind.whole.rglob("*") if p.is_file()}
    limits = sorted({limit for size in sizes for limit in (0, size // 2, size - 1) if limit >= 0})
    for limit in limits:
        shutil.copytree(kind.whole, out)
        before = state(out)
        status, words = ended(start(kind.job, out, 1, "--overwrite", limit=limit))
        expect("Traceback" not in words, f"{limit} bytes: {words}")
        expect(state(out) == before or status == 0, f"{limit} bytes: the old results are not whole")
        expect(status in (1, 2) or status == 0 and limit >= max(sizes) // 2, f"{limit} bytes: status {status}: {words}")
        shutil.rmtree(out)
        last = re.sub(r"\s+", " ", words.strip().splitlines()[-1] if words.strip() else "")
        yield f"{limit} bytes a file: status {status}, {last[:100]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=["kills", "signals", "disks", []], default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=15, help="chains of each kind")
    parser.add_argument("--signals", type=int, default=5, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=list(TEXTS), default=list(TEXTS))
    given = parser.parse_args()
    rng = random.Random(given.seed)
    failures = 0

    def told(what: str, action: Callable[[], str]) -> None:
        nonlocal failures
        try:
            print(f"{what}: {action()}", flush=True)
        except Failure as failure:
            failures += 1
            print(f"{what}: FAILED: {failure}", flush=True)

    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder:
        for name in given.kinds:
            kind = Kind(name, Path(folder))
            if not given.parts or "kills" in given.parts:
                for number in range(given.kills):
                    told(f"{name}, kill {number}", lambda kind=kind, number=number: chain(kind, rng, number))
            if not given.parts or "signals" in given.parts:
                for number in range(given.signals):
                    told(f"{name}, signal {number}", lambda kind=kind, number=number: signals(kind, rng, number))
            if not given.parts or "disks" in given.parts:
                lines = disks(kind)
                told(f"{name}, disks", lambda lines=lines: "\n    ".join(["", *lines]))
    print(f"{failures} failed" if failures else "all of it holds")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
