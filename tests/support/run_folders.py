"""Runs of a small job in a folder that all ranks share, and what they leave."""

from __future__ import annotations

from pathlib import Path

import jobs
from mpi4py import MPI

from relax.base.parallel import on_rank_0
from relax.jobs import Outcome, run_job, toml

COMM = MPI.COMM_WORLD
FEW = jobs.changed(("n = 8", "n = 4"), ('name = "gauss_newton"', "max_steps = 2"))


def run(where: Path, text: str = FEW, name: str = "job.toml", **how: bool) -> Outcome:
    file = toml.read(jobs.write(where / name, text))
    return run_job(file, folder=where / "out", show=False, **how)


def contents(where: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return on_rank_0(COMM, lambda: {str(p.relative_to(where)): p.read_bytes() for p in where.rglob("*") if p.is_file()})
