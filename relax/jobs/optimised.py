"""Jobs that optimise a field or a control in time, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from relax.base import parallel
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert import Result, gauss_newton, lbfgs
from relax.jobs import kinds, report_kinds
from relax.jobs.folder import JOB, HistoryFile, load_control, read_history, save_control
from relax.jobs.progress import Progress
from relax.jobs.session import Outcome, Session
from relax.jobs.toml import Job, parse

# Below this gradient norm the control is the minimiser to eight digits of the prior's standard deviation.
_ATOL = 1e-8
_METHODS: dict[str, Callable[..., Result]] = {"gauss_newton": gauss_newton, "lbfgs": lbfgs}
# What must not have changed for a run to be resumed.
_SAME = ("mesh", "pde", "observe", "data", "target", "prior")


def run(session: Session, *, overwrite: bool, resume: bool) -> Outcome:
    """Recover the field, or drive the control, of a job. Collective.

    Args:
        session: the run.
        overwrite: replace an earlier run.
        resume: start from the last control that an earlier run of this job left in the folder.
    """
    job, folder, comm = session.job, session.folder, session.comm
    if resume and job.solver.layout == "owned":
        raise BadInput('--resume: needs [solver] layout = "replicated"; an owned control is not kept')
    before = parallel.on_rank_0(comm, lambda: _earlier_steps(folder, job)) if resume else []
    found = session.build(overwrite=overwrite, resume=resume)
    assert isinstance(found, kinds.InverseCase | kinds.ControlCase)
    reporter = report_kinds.report_of(job, found)
    try:
        with session.phase(found.phase):
            result = _optimise(job, found, folder, session.progress, before, resume)
    finally:
        session.progress.close()

    history = before + [_shifted(step, before) for step in result.history[1 if before else 0 :]]
    with session.phase("write"):
        predicted = found.G(result.value)
        summary = _summary(job, found, result, history, reporter.errors(predicted))
        summary |= reporter.write(folder, result.value, predicted, history)
    found.G.close()
    found.prior.close()
    return session.finish(summary, f"{summary['status']}; {summary['steps']} steps, {reporter.closing(summary)}")


def _earlier_steps(folder: Path, job: Job) -> list[dict[str, Any]]:
    """The history of the run to go on with, once it is known to be of the same problem. On one rank."""
    kept = folder / JOB
    if not kept.exists():
        raise BadInput(f"{folder}: nothing to resume: there is no {JOB} of an earlier run")
    old = parse(kept.read_text(encoding="utf-8"), str(kept))
    for table in _SAME:
        if getattr(old, table) != getattr(job, table):
            raise BadInput(f"{folder}: --resume: [{table}] is not what it was in {kept}; use --overwrite to start anew")
    return read_history(folder)


def _shifted(step: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A step of a resumed run, its number and counts continued."""
    if not before:
        return step
    counted = ("step", "forward", "tangent", "adjoint", "seconds")
    return {**step, **{key: step[key] + before[-1][key] for key in counted if key in step and key in before[-1]}}


def _optimise(
    job: Job,
    found: kinds.InverseCase | kinds.ControlCase,
    folder: Path,
    progress: Progress,
    before: list[dict[str, Any]],
    resume: bool,
) -> Result:
    comm, G = found.G.comm, found.G
    m0 = parallel.on_rank_0(comm, lambda: load_control(folder, G.size_in)) if resume else found.start
    # The tolerance of a resumed run is relative to where the first one started.
    atol = max(_ATOL, job.method.rtol * before[0]["gradient_norm"]) if before else _ATOL
    record = HistoryFile(comm, folder)

    def after_step(step: dict[str, Any], value: Array) -> None:
        entry = _shifted(step, before)
        progress.step(entry)
        if step["step"] == 0 and before:
            return
        if comm.rank == 0 and job.solver.layout == "replicated":
            save_control(folder, value)
        record.write(entry)

    try:
        return _METHODS[job.method.name](
            G, found.data, m0, noise=found.noise, prior=found.prior, rtol=job.method.rtol, atol=atol,
            max_steps=job.method.max_steps, callback=after_step,
        )  # fmt: skip
    finally:
        record.close()


def _summary(
    job: Job,
    found: kinds.InverseCase | kinds.ControlCase,
    result: Result,
    history: list[dict[str, Any]],
    errors: dict[str, Any],
) -> dict[str, Any]:
    stats = asdict(result.stats)
    solves = {key: history[-1].get(key, stats[key]) for key in ("forward", "tangent", "adjoint")}
    return {
        "status": result.status.value,
        "converged": result.converged,
        "method": job.method.name,
        "steps": history[-1]["step"],
        **errors,
        "gradient_norm": history[-1]["gradient_norm"],
        "solves": {**solves, "cg_iterations": sum(step.get("cg_iterations") or 0 for step in history)},
        "sizes": report_kinds.sizes(found),
    }
