"""Runs of a small job in a folder that all ranks share, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jobs
from mpi4py import MPI

from relax.base.parallel import on_rank_0
from relax.jobs import Outcome, run_job, toml
from relax.jobs.contents import CHECKPOINT, HISTORY, JOB, RUN, SUMMARY
from relax.jobs.lock import myself

COMM = MPI.COMM_WORLD
FEW = jobs.changed(("n = 8", "n = 4"), ('name = "gauss_newton"', "max_steps = 2"))


def run(where: Path, text: str = FEW, name: str = "job.toml", **how: bool) -> Outcome:
    file = toml.read(jobs.write(where / name, text))
    return run_job(file, folder=where / "out", show=False, **how)


STEPS = [
    {"step": n, "misfit_in_noise_levels": 8.0 / 2**n, "gradient_norm": 10.0 ** (2 - n), "seconds": 0.5 + 4.0 * n}
    for n in range(4)
]
ENDED = {
    "status": "converged: quickly", "converged": True, "steps": 3, "errors": {"misfit_in_noise_levels": 1.0},
    "solves": {"forward": 4}, "seconds": {"build": 1.5, "invert": 70.0}, "versions": {"relax": "0.1.0", "ranks": 2},
}  # fmt: skip


def begun(folder: Path, text: str = FEW, history: Sequence[dict[str, Any]] = STEPS, step: int = 3) -> Path:
    """What a run that is on its way has written, without a solve. On one rank."""
    (folder / CHECKPOINT / f"checkpoint-{step + 1:06d}").mkdir(parents=True)
    (folder / RUN).write_text(json.dumps({"relax": "0.1.0", **myself()}))
    (folder / JOB).write_text(text)
    (folder / CHECKPOINT / f"checkpoint-{step + 1:06d}" / "manifest.json").write_text(json.dumps({"step": step}))
    write_history(folder, history)
    return folder


def write_history(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    (folder / HISTORY).write_text("".join(json.dumps(step) + "\n" for step in history))


def finished(folder: Path, text: str = FEW, summary: dict[str, Any] = ENDED) -> Path:
    """What a run leaves, as far as commands read it, without a solve. On one rank."""
    begun(folder, text)
    (folder / SUMMARY).write_text(json.dumps(summary))
    files = [path.name for path in folder.iterdir()]
    (folder / RUN).write_text(json.dumps({"relax": "0.1.0", **myself(), "files": files}))
    return folder


def contents(where: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return on_rank_0(COMM, lambda: {str(p.relative_to(where)): p.read_bytes() for p in where.rglob("*") if p.is_file()})
