"""A small job, and folders that every rank agrees on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpi4py import MPI

SMALL_JOB = """
[mesh]
generator = "unit_square"
n = 8

[pde]
name = "poisson.diffusion"
source = 10.0

[observe]
points = 12
seed = 1

[data]
truth = "inclusions"
noise = 0.02
seed = 2

[prior]
length = 0.5
std = 0.5

[method]
name = "gauss_newton"

[output]
folder = "results/small"
"""


# Four steps of the heat equation, seen after two of them.
HEAT_JOB = """
[mesh]
generator = "unit_square"
n = 6

[pde]
name = "heat.evolution"
num_steps = 4
dt = 0.01

[observe]
points = 10
steps = [2, 4]
seed = 1

[data]
truth = "inclusions"
noise = 0.02
seed = 2

[prior]
length = 0.5
std = 0.5

[output]
folder = "results/heat"
frames = 3
"""

# A particle in a box on (0, 2), from its ground state to the next one, in about six periods of the resonance.
CONTROL_JOB = """
[mesh]
generator = "interval"
n = 8
lower = 0.0
upper = 2.0

[pde]
name = "schrodinger.dipole"
num_steps = 50
dt = 0.2

[target]
populations = [0, 1, 0]

[start]
shape = "sine"
periods = 6
amplitude = 0.3

[prior]
std = 2.0

[method]
name = "lbfgs"
rtol = 1e-4

[output]
folder = "results/control"
frames = 6
"""


def changed(*substitutions: tuple[str, str], of: str = SMALL_JOB) -> str:
    """A job, the small one by default, with some of its text replaced."""
    text = of
    for old, new in substitutions:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def shared_folder(comm: MPI.Comm = MPI.COMM_WORLD) -> Iterator[Path]:
    """A new folder, the same on every rank, removed at the end. Collective."""
    name = comm.bcast(tempfile.mkdtemp(prefix="relax-test-") if comm.rank == 0 else None)
    try:
        yield Path(name)
    finally:
        comm.Barrier()
        if comm.rank == 0:
            shutil.rmtree(name)


def write(path: Path, text: str, comm: MPI.Comm = MPI.COMM_WORLD) -> Path:
    """Write a file on rank 0. Collective."""
    if comm.rank == 0:
        path.write_text(text, encoding="utf-8")
    comm.Barrier()
    return path


def command(
    *arguments: object,
    ranks: int = 1,
    timeout: float = 120.0,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``relax`` in a process of its own, under mpirun for more than one rank."""
    # What an MPI process inherits would make its children take part in its own job.
    inherited = re.compile(r"OMPI_(COMM|APP|FIRST|UNIVERSE|FILE|ARGV|COMMAND)|PMIX_|PRTE_(LAUNCHED|NODE)")
    variables = {k: v for k, v in os.environ.items() if not inherited.match(k)} | (environment or {})
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    words = [*launcher, sys.executable, "-m", "relax", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=variables, check=False)
