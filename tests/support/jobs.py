"""A small job, and folders that every rank agrees on."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import scripts
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
atol = 0.5

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


def command(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``relax`` in a process of its own; the options of :func:`scripts.python`."""
    return scripts.python("-m", "relax", *words, **options)
