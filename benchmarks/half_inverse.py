"""What a step of HalfInverse costs on the papers' problems, in CPU seconds and in memory, against what it must.

Run: ``environment/enter python3 benchmarks/half_inverse.py``. The batches, networks and cut-offs are those of
``examples/papers``; the reference code, on one thread, takes 1.00, 23.5 and 75.6 s, and 6.8, 11.7 and 5.2 GB.
"""

from __future__ import annotations

from timing import seconds, table  # isort: skip  (sets the number of threads)

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAPERS = Path(__file__).resolve().parents[1] / "examples" / "papers"
for _folder in ("oscillators", "hig_poisson", "quantum_dipole"):
    sys.path.insert(0, str(PAPERS / _folder))

import hig_poisson  # noqa: E402
import oscillators  # noqa: E402
import quantum_dipole  # noqa: E402
from oscillators import harness  # noqa: E402


@dataclass(frozen=True)
class Case:
    """A problem, and what a step may cost.

    Attributes:
        begin: makes a training with HalfInverse. Collective.
        seconds: CPU seconds per step.
        memory: by how much steps may raise the peak of resident memory, MB; None where nothing is asked.
        repeats: how often it is timed.
    """

    begin: Callable[[], harness.Training]
    seconds: float
    memory: float | None
    repeats: int


CASES = {
    "oscillators, B 128": Case(lambda: oscillators.half_inverse(128, 0.5)(0, 1.0), 0.08, 200.0, 9),
    "quantum dipole, B 16": Case(
        lambda: quantum_dipole.half_inverse(quantum_dipole.Dipole(), 16, 16)(0, 0.5), 0.4, None, 9
    ),
    "Poisson 8 x 8, B 16": Case(lambda: hig_poisson.half_inverse(16)(0, 0.03), 1.0, None, 5),
    "Poisson 8 x 8, B 64": Case(lambda: hig_poisson.half_inverse(64)(0, 0.01), 8.0, None, 2),
}


def stepping(case: Case) -> Callable[[], object]:
    """A step on the next batch."""
    training = case.begin()
    return lambda: training.step(next(training.batches))


def memory_of(name: str) -> None:
    """Print by how much three steps raise the peak."""
    step = stepping(CASES[name])
    before = harness.forget_peak()
    for _ in range(3):
        step()
    print(harness.peak_memory() - before)


def main() -> None:
    """Print the tables."""
    for name, case in CASES.items():
        (time,) = seconds(stepping(case), repeats=case.repeats)
        table(f"a step of HalfInverse, {name}", [("CPU seconds", time, time, case.seconds)], repeats=case.repeats)
    if harness.COMM.size > 1:
        return
    print("\ngrowth of the peak of resident memory, first three steps")
    for name, case in CASES.items():
        words = [sys.executable, __file__, "--memory-of", name]
        grown = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        verdict = ""
        if case.memory is not None:
            verdict = f"  must be <= {case.memory:g}  {'ok' if grown <= case.memory else 'MISSED'}"
        print(f"  {name:<58}{grown:10.0f} MB{verdict}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory-of"]:
        memory_of(sys.argv[2])
    else:
        main()
