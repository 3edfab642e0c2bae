"""Small jobs that relax, and how tests run them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import chirps
import jobs
import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.jobs import Outcome, run_job, toml
from relax.jobs.contents import DESCENTS, RESULT
from relax.jobs.setting import csv_files

COMM = MPI.COMM_WORLD
ROOT = Path(__file__).resolve().parents[2]

LANDSCAPE_JOB = """
[mesh]
generator = "interval"
n = 60
lower = -3.0
upper = 3.0

[pde]
name = "hamilton_jacobi.viscous_evolution"
beta = 2.0
t = 2.0
num_steps = 4
route = "cole_hopf"
theta = 1.0

[landscape]
function = "rugged"

[descent]
starts = 6
times = [0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0]

[output]
folder = "results/landscape"
frames = 3
"""

MISFIT_JOB = """
[mesh]
generator = "interval"
n = 8
lower = 0.0
upper = 1.0

[pde]
name = "chirps:chirp"
frequency = 20.0

[observe]
points = "sensors.csv"

[data]
truth = [0.8]
noise = 0.02
seed = 1

[misfit]
box = [0.1, 0.9]
num = 24
starts = 3

[output]
folder = "results/misfit"
"""

LANDSCAPE_FILES = "descents.csv figure.png job.toml result.json run.json states.bp strip.png summary.json".split()
MISFIT_FILES = "descents.csv figure.png job.toml result.json run.json samples.csv summary.json".split()


def prepared(folder: Path, text: str) -> Path:
    """The job file, with the sensors of the chirp beside it."""
    jobs.write(folder / "sensors.csv", "x\n" + "".join(f"{x}\n" for x in chirps.SENSORS))
    return jobs.write(folder / "job.toml", text)


def run(folder: Path, text: str, name: str = "out", **how: object) -> Outcome:
    return run_job(toml.read(prepared(folder, text)), folder=folder / name, show=False, **how)  # type: ignore[arg-type]


def landscape(*substitutions: tuple[str, str]) -> str:
    return jobs.changed(*substitutions, of=LANDSCAPE_JOB)


def misfit(*substitutions: tuple[str, str]) -> str:
    return jobs.changed(*substitutions, of=MISFIT_JOB)


def names_in(folder: Path) -> list[str]:
    return parallel.on_rank_0(COMM, lambda: sorted(path.name for path in folder.iterdir()))


def result_of(folder: Path) -> dict:
    return parallel.on_rank_0(COMM, lambda: json.loads((folder / RESULT).read_text()))


def columns_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    return parallel.on_rank_0(COMM, lambda: csv_files.read(folder / name).columns)


def alone(text: str) -> tuple[dict, dict[str, np.ndarray]]:
    """``result.json`` and ``descents.csv`` of the job, run by each rank for itself."""
    folder = Path(tempfile.mkdtemp(prefix="relax-test-"))
    try:
        (folder / "sensors.csv").write_text("x\n" + "".join(f"{x}\n" for x in chirps.SENSORS))
        (folder / "job.toml").write_text(text)
        run_job(toml.read(folder / "job.toml"), folder=folder / "out", show=False, comm=MPI.COMM_SELF)
        return (
            json.loads((folder / "out" / RESULT).read_text()),
            csv_files.read(folder / "out" / DESCENTS).columns,
        )
    finally:
        shutil.rmtree(folder)
