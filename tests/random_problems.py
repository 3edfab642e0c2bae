"""``make random-problems``: maps of random PDEs, on any number of ranks.

usage: random_problems.py --seeds FIRST:LAST [--numbers FILE]

Each problem of ``support/random_pdes.py`` is solved and differentiated. On one rank ``check_map`` looks at it, and
difference quotients that know nothing of relax's derivatives look at the gradient and the Hessian action; the numbers
of all problems go to FILE. On several ranks the numbers are compared with those in FILE.

Exit status: 0 all is well, 1 a derivative is wrong, ``check_map`` complains, a solve fails, or ranks differ.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import relax

# isort: split
import numpy as np
from dolfinx import jit
from mpi4py import MPI
from petsc4py import PETSc

sys.path.insert(0, str(Path(__file__).parent / "support"))
from random_maps import SAME, gaps, looked_at, numbers_of  # noqa: E402
from random_pdes import drawn  # noqa: E402

from relax import ReducedMap  # noqa: E402

COMM = MPI.COMM_WORLD


@dataclass
class Found:
    """The worst of each figure with its seed, and what failed."""

    worst: dict[str, tuple[float, int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def note(self, figures, seed):
        for what, value in figures.items():
            # Orders must not be low, gaps must not be large.
            worse = min if "order" in what else max
            self.worst[what] = worse(self.worst.get(what, (value, seed)), (value, seed))

    def fail(self, seed, *wrong):
        self.failures += [f"seed {seed}: {words}" for words in wrong]


def one(seed, found, known):
    """A problem from its seed to its numbers. Collective."""
    problem, observable, words = drawn(seed, COMM)
    with ReducedMap(problem, observable) as G:
        numbers = numbers_of(G, seed)
        if COMM.size == 1:
            figures, wrong = looked_at(G, seed)
            found.note(figures, seed)
            found.fail(seed, *wrong)
        elif seed not in known:
            found.fail(seed, "one rank has no numbers of it")
        else:
            figures = gaps(numbers, known[seed])
            found.note({f"{what} beside one rank": gap for what, gap in figures.items()}, seed)
            wrong = [f"{what}: {gap:.1e} from that of one rank" for what, gap in figures.items() if not gap < SAME]
            found.fail(seed, *wrong)
        return numbers, f"{G.size_in} -> {G.size_out}: {words}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0:200", metavar="FIRST:LAST", help="the last one is left out")
    parser.add_argument("--numbers", type=Path, metavar="FILE", help="written on one rank, compared with on several")
    arguments = parser.parse_args()
    if COMM.size > 1 and not (arguments.numbers and arguments.numbers.exists()):
        parser.error("--numbers: on several ranks expected the file of a run on one rank")
    relax.init(sys.argv[:1])
    # What is compiled is used a few times, on a small mesh.
    jit.DOLFINX_DEFAULT_JIT_OPTIONS["cffi_extra_compile_args"] = (["-O0", "-g0"], "as DOLFINx describes it")
    first, last = map(int, arguments.seeds.split(":"))
    known, kept, found, start = {}, {}, Found(), time.monotonic()
    if COMM.size > 1:
        with np.load(arguments.numbers) as file:
            for name in file:
                seed, what = name.split(":")
                known.setdefault(int(seed), {})[what] = file[name]
    for seed in range(first, last):
        began = time.monotonic()
        try:
            numbers, words = one(seed, found, known)
            kept |= {f"{seed}:{what}": array for what, array in numbers.items()}
        except relax.RelaxError as error:
            words = f"{type(error).__name__}: {error}"
            found.fail(seed, words)
        except Exception:
            if COMM.size > 1:
                raise
            words = traceback.format_exc()
            found.fail(seed, words)
        gc.collect()
        PETSc.garbage_cleanup(COMM)
        if COMM.rank == 0:
            print(f"{seed:>5}{time.monotonic() - began:7.1f} s  {words}", flush=True)
    if COMM.size == 1 and arguments.numbers:
        arguments.numbers.parent.mkdir(parents=True, exist_ok=True)
        np.savez(arguments.numbers, **kept)
    if COMM.rank == 0:
        taken = time.monotonic() - start
        print(f"\n{last - first} problems on {COMM.size} rank(s), {taken:.0f} s; the worst of each, and its seed")
        for what, (value, seed) in sorted(found.worst.items()):
            print(f"  {what:<32}{value:>12.3g}{seed:>8}")
        print("\n".join(found.failures) or "none failed")
    return int(bool(found.failures))


if __name__ == "__main__":
    sys.exit(main())
