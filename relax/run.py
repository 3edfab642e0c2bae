"""Running a job: build, invert, write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ufl
from dolfinx import fem
from mpi4py import MPI

from relax import case, info, output, parallel, plot, tables
from relax.errors import BadInput
from relax.invert import Result, gauss_newton
from relax.job import Job, JobFile, parse
from relax.log import logger
from relax.prior import SmoothnessPrior
from relax.progress import Progress

Array = npt.NDArray[np.float64]

# Below this gradient norm the control is the minimiser to eight digits of the prior's standard deviation.
_ATOL = 1e-8


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        converged: whether the method reached its tolerance.
        folder: where the results are.
        summary: the content of ``summary.json``.
    """

    converged: bool
    folder: Path
    summary: dict[str, Any]


@dataclass
class _Clock:
    """Wall time of this rank, by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run_job(
    file: JobFile,
    *,
    folder: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    show: bool = True,
    comm: MPI.Comm = MPI.COMM_WORLD,
) -> Outcome:
    """Solve the inverse problem of a job and write its output folder.

    Collective.

    Args:
        file: the job, as ``relax.job.read`` gives it; the same on every rank.
        folder: the output folder; by default that of the job.
        overwrite: replace an earlier run.
        resume: start from the last control that an earlier run of this job left in the folder.
        show: print progress on rank 0.
        comm: the ranks of the run.

    Raises:
        RelaxError: on every rank. A method that does not converge is no error: see ``Outcome.converged``.
    """
    job, clock = file.job, _Clock()
    folder = folder if folder is not None else Path(job.output.folder)
    progress = Progress(comm, job.method.rtol, show=show)
    if resume and job.solver.layout == "owned":
        raise BadInput('--resume: needs [solver] layout = "replicated"; an owned control is not kept')
    before = parallel.on_rank_0(comm, lambda: _earlier_steps(folder, job)) if resume else []
    output.inspect(comm, folder, overwrite=overwrite, resume=resume)
    with clock.phase("build"):
        found = case.build(file, comm)
        prior = SmoothnessPrior(
            found.control.function_space,
            length=job.prior.length,
            std=job.prior.std,
            mean=job.prior.mean,
            layout=job.solver.layout,
        )
    output.clear(comm, folder, resume=resume)
    parallel.on_rank_0(comm, lambda: output.write_text(folder, output.JOB, file.text))
    sizes = _sizes(found)
    progress.say(
        f"{job.pde.name}: {sizes['state']} state and {sizes['control']} control values, {sizes['cells']} cells, "
        f"{found.G.size_out} observations, {comm.size} rank(s)"
    )
    with clock.phase("invert"):
        result = _invert(job, found, prior, folder, progress, before, resume)
    progress.close()

    history = before + [_shifted(step, before) for step in result.history[1 if before else 0 :]]
    with clock.phase("write"):
        predicted = found.G(result.value)
        summary = _summary(job, found, result, history, sizes, predicted)
        _write(folder, job, found, history, predicted)
    found.G.close()
    prior.close()
    summary["seconds"] = clock.seconds
    parallel.on_rank_0(comm, lambda: output.write_summary(folder, summary))
    progress.say(_last_words(summary, folder))
    return Outcome(result.converged, folder, summary)


def _earlier_steps(folder: Path, job: Job) -> list[dict[str, Any]]:
    """The history of the run to go on with, once it is known to be of the same inverse problem. On one rank."""
    kept = folder / output.JOB
    if not kept.exists():
        raise BadInput(f"{folder}: nothing to resume: there is no {output.JOB} of an earlier run")
    old = parse(kept.read_text(encoding="utf-8"), str(kept))
    for table in ("mesh", "pde", "observe", "data", "prior"):
        if getattr(old, table) != getattr(job, table):
            raise BadInput(f"{folder}: --resume: [{table}] is not what it was in {kept}; use --overwrite to start anew")
    return output.read_history(folder)


def _shifted(step: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A step of a resumed run, its number and counts continued."""
    if not before:
        return step
    counted = ("step", "forward", "tangent", "adjoint", "seconds")
    return {**step, **{key: step[key] + before[-1][key] for key in counted if key in step and key in before[-1]}}


def _invert(
    job: Job,
    found: case.Case,
    prior: SmoothnessPrior,
    folder: Path,
    progress: Progress,
    before: list[dict[str, Any]],
    resume: bool,
) -> Result:
    comm, G = found.G.comm, found.G
    m0 = parallel.on_rank_0(comm, lambda: output.load_control(folder, G.size_in)) if resume else prior.mean
    # The tolerance of a resumed run is relative to where the first one started.
    atol = max(_ATOL, job.method.rtol * before[0]["gradient_norm"]) if before else _ATOL
    record = output.History(comm, folder)

    def after_step(step: dict[str, Any], value: Array) -> None:
        entry = _shifted(step, before)
        progress.step(entry)
        if step["step"] == 0 and before:
            return
        if comm.rank == 0 and job.solver.layout == "replicated":
            output.save_control(folder, value)
        record.write(entry)

    try:
        return gauss_newton(
            G, found.data, m0, noise=found.noise, prior=prior, rtol=job.method.rtol, atol=atol,
            max_steps=job.method.max_steps, callback=after_step,
        )  # fmt: skip
    finally:
        record.close()


def _sizes(found: case.Case) -> dict[str, int]:
    def length(V: fem.FunctionSpace) -> int:
        return int(V.dofmap.index_map.size_global * V.dofmap.index_map_bs)

    domain = found.problem.mesh
    return {
        "cells": int(domain.topology.index_map(domain.topology.dim).size_global),
        "state": length(found.problem.state.function_space),
        "control": length(found.control.function_space),
        "observations": found.G.size_out,
    }


def _norm(comm: MPI.Comm, expression: Any) -> float:
    local = fem.assemble_scalar(fem.form(ufl.inner(expression, expression) * ufl.dx))
    return float(np.sqrt(parallel.sum_over_ranks(comm, np.array([float(np.real(local))]))[0]))


def _summary(
    job: Job,
    found: case.Case,
    result: Result,
    history: list[dict[str, Any]],
    sizes: dict[str, int],
    predicted: Array,
) -> dict[str, Any]:
    comm = found.G.comm
    errors: dict[str, Any] = {
        "misfit_in_noise_levels": float(np.sqrt(np.mean(((predicted - found.data) / found.noise) ** 2)))
    }
    if found.truth is not None:
        errors["relative_l2"] = _norm(comm, found.control - found.truth) / _norm(comm, found.truth)
    stats = asdict(result.stats)
    solves = {key: history[-1].get(key, stats[key]) for key in ("forward", "tangent", "adjoint")}
    return {
        "status": result.status.value,
        "converged": result.converged,
        "method": job.method.name,
        "steps": history[-1]["step"],
        "errors": errors,
        "gradient_norm": history[-1]["gradient_norm"],
        "noise_level": float(found.noise.max()),
        "solves": {**solves, "cg_iterations": sum(step.get("cg_iterations") or 0 for step in history)},
        "sizes": sizes,
        "seconds": {},
        "versions": info.versions(),
    }


def _write(folder: Path, job: Job, found: case.Case, history: list[dict[str, Any]], predicted: Array) -> None:
    """Fields, sensors, figure. Collective."""
    comm = found.G.comm
    recovery = found.control
    fields = {"recovery": recovery, "state": found.problem.state}
    panels = [plot.Panel("recovery", recovery)]
    if found.truth is not None:
        fields = {"truth": found.truth, **fields}
        panels = [plot.Panel("truth", found.truth), *panels]
    output.write_fields(folder, fields)
    parallel.on_rank_0(comm, lambda: tables.write(folder / output.SENSORS, _sensors(found, predicted)))
    if not plot.can_draw(recovery):
        panels = []
    label = recovery.name.replace("_", " ")
    if not plot.draw(comm, folder / output.FIGURE, panels, found.points, history, label=label):
        logger.warning("%s is left out: matplotlib is not installed", output.FIGURE)


def _sensors(found: case.Case, predicted: Array) -> dict[str, Array]:
    num = len(found.points)
    columns: dict[str, Array] = dict(zip(("x", "y", "z"), found.points.T, strict=False))
    wanted = {"value": found.data, "sigma": found.noise, "predicted": predicted, "exact": found.exact}
    for stem, values in wanted.items():
        if values is not None:
            names = case.value_columns(stem, num, len(values))
            columns.update(zip(names, values.reshape(num, -1).T, strict=True))
    return columns


def _last_words(summary: dict[str, Any], folder: Path) -> str:
    errors = summary["errors"]
    error = f", relative L2 error {errors['relative_l2']:.3f}" if "relative_l2" in errors else ""
    return (
        f"{summary['status']}; {summary['steps']} steps, misfit {errors['misfit_in_noise_levels']:.3f} noise levels"
        f"{error}; results in {folder}"
    )
