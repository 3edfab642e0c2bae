"""Jobs that optimise a field or a control in time, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from relax.base import parallel
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.result import Result
from relax.invert.table import METHODS
from relax.jobs.folder import JOB, HistoryFile, load_control, read_history, save_control
from relax.jobs.report import opening, sizes
from relax.jobs.session import Outcome, Session
from relax.jobs.setting.optimised import Optimised
from relax.jobs.toml import parse

# Below this gradient norm the control is the minimiser to eight digits of the prior's standard deviation.
_ATOL = 1e-8
# What may have changed where a run is resumed.
_FREE = ("start", "method", "solver", "output")


class Report(Protocol):
    """What a run leaves. Collective, but for ``closing``."""

    def errors(self, predicted: Array) -> dict[str, Any]:
        """Entries of the summary, while controls and state hold the result."""

    def write(self, folder: Path, value: Array, predicted: Array, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Write files and figures; more entries of the summary."""

    def closing(self, summary: dict[str, Any]) -> str:
        """How it went, in words."""


def run(session: Session, report_of: Callable[[Any, Any], Report]) -> Outcome:
    """Recover the field, or drive the control, of a job; ``report_of(job, setting)`` writes it. Collective."""
    job, folder, comm = session.job, session.folder, session.comm
    if session.resume and job.solver.layout == "owned":
        raise BadInput('--resume: needs [solver] layout = "replicated"; an owned control is not kept')
    before = parallel.on_rank_0(comm, lambda: _earlier_steps(folder, job)) if session.resume else []
    setting: Optimised = session.build()
    session.progress.say(opening(job.pde.name, sizes(setting.problem, setting.G.size_out), comm))
    report = report_of(job, setting)
    try:
        with session.phase(setting.phase):
            result = _optimise(session, setting, before)
    finally:
        session.progress.close()

    history = before + [_shifted(step, before) for step in result.history[1 if before else 0 :]]
    with session.phase("write"):
        predicted = setting.G(result.value)
        summary = _summary(job.method.name, setting, result, history, report.errors(predicted))
        summary |= report.write(folder, result.value, predicted, history)
    setting.G.close()
    setting.prior.close()
    return session.finish(summary, f"{summary['status']}; {summary['steps']} steps, {report.closing(summary)}")


def _earlier_steps(folder: Path, job: Any) -> list[dict[str, Any]]:
    """The history of the run to go on with, once it is known to be of the same problem. On one rank."""
    kept = folder / JOB
    if not kept.exists():
        raise BadInput(f"{folder}: nothing to resume: there is no {JOB} of an earlier run")
    old = parse(kept.read_text(encoding="utf-8"), str(kept))
    for table in type(job).model_fields:
        if table not in _FREE and getattr(old, table, None) != getattr(job, table):
            raise BadInput(f"{folder}: --resume: [{table}] is not what it was in {kept}; use --overwrite to start anew")
    return read_history(folder)


def _shifted(step: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A step of a resumed run, its number and counts continued."""
    if not before:
        return step
    counted = ("step", "forward", "tangent", "adjoint", "seconds")
    return {**step, **{key: step[key] + before[-1][key] for key in counted if key in step and key in before[-1]}}


def _optimise(session: Session, setting: Optimised, before: list[dict[str, Any]]) -> Result:
    comm, folder, G, method = session.comm, session.folder, setting.G, session.job.method
    replicated = session.job.solver.layout == "replicated"
    m0 = parallel.on_rank_0(comm, lambda: load_control(folder, G.size_in)) if session.resume else setting.start
    # The tolerance of a resumed run is relative to where the first one started.
    atol = max(_ATOL, method.rtol * before[0]["gradient_norm"]) if before else _ATOL
    record = HistoryFile(comm, folder)

    def after_step(step: dict[str, Any], value: Array) -> None:
        entry = _shifted(step, before)
        session.progress.step(entry, rtol=method.rtol, unit=setting.unit)
        if step["step"] == 0 and before:
            return
        if comm.rank == 0 and replicated:
            save_control(folder, value)
        record.write(entry)

    try:
        result: Result = METHODS[method.name].run(
            G, setting.data, m0, noise=setting.noise, prior=setting.prior, rtol=method.rtol, atol=atol,
            max_steps=method.max_steps, callback=after_step,
        )  # fmt: skip
        return result
    finally:
        record.close()


def _summary(
    method: str, setting: Optimised, result: Result, history: list[dict[str, Any]], errors: dict[str, Any]
) -> dict[str, Any]:
    stats = asdict(result.stats)
    solves = {key: history[-1].get(key, stats[key]) for key in ("forward", "tangent", "adjoint")}
    return {
        "status": result.status.value,
        "converged": result.converged,
        "method": method,
        "steps": history[-1]["step"],
        **errors,
        "gradient_norm": history[-1]["gradient_norm"],
        "solves": {**solves, "cg_iterations": sum(step.get("cg_iterations") or 0 for step in history)},
        "sizes": sizes(setting.problem, setting.G.size_out),
    }
