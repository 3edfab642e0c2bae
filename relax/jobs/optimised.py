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
from relax.jobs.folder import JOB, UNFINISHED
from relax.jobs.report import opening, sizes
from relax.jobs.session import Outcome, Session
from relax.jobs.setting.optimised import Optimised
from relax.jobs.steps import Kept, Record, kept_in, put, save_control
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
    job, comm = session.job, session.comm
    if session.resume and job.solver.layout == "owned":
        raise BadInput('--resume: needs [solver] layout = "replicated"; an owned control is not kept')
    kept = parallel.on_rank_0(comm, lambda: _earlier_steps(session.results, job)) if session.resume else None
    setting: Optimised = session.build(
        lambda setting: _check_size(kept, setting, session.results), lambda folder: put(folder, kept)
    )
    session.progress.say(opening(job.pde.name, sizes(setting.problem, setting.G.size_out), comm))
    report = report_of(job, setting)
    try:
        with session.phase(setting.phase):
            result = _optimise(session, setting, kept)
    finally:
        session.progress.close()

    before = [] if kept is None else kept.history
    history = before + [_shifted(step, before) for step in result.history[1 if before else 0 :]]
    with session.phase("write"):
        predicted = setting.G(result.value)
        summary = _summary(job.method.name, setting, result, history, report.errors(predicted))
        summary |= report.write(session.folder, result.value, predicted, history)
        if job.solver.layout == "replicated":
            parallel.on_rank_0(comm, lambda: save_control(session.folder, result.value))
    setting.G.close()
    setting.prior.close()
    return session.finish(summary, f"{summary['status']}; {summary['steps']} steps, {report.closing(summary)}")


def _earlier_steps(folder: Path, job: Any) -> Kept | None:
    """What the run to go on with has kept, once it is known to be of the same problem. On one rank."""
    run = folder / UNFINISHED if (folder / UNFINISHED).exists() else folder
    try:
        old = parse((run / JOB).read_text(encoding="utf-8"), str(run / JOB))
    except (OSError, UnicodeDecodeError, BadInput) as error:
        raise BadInput(
            f"--resume: the job of the earlier run cannot be read: {error}; --overwrite starts anew"
        ) from None
    for table in type(job).model_fields:
        if table not in _FREE and getattr(old, table, None) != getattr(job, table):
            raise BadInput(
                f"{folder}: --resume: [{table}] is not what it was in {run / JOB}; use --overwrite to start anew"
            )
    return kept_in(folder)


def _check_size(kept: Kept | None, setting: Optimised, folder: Path) -> None:
    if kept is not None and len(kept.control) != setting.G.size_in:
        raise BadInput(
            f"{folder}: --resume: expected a control of {setting.G.size_in} numbers, the earlier run has kept "
            f"{len(kept.control)}; --overwrite starts anew"
        )


def _shifted(step: dict[str, Any], before: list[dict[str, Any]]) -> dict[str, Any]:
    """A step of a resumed run, its number and counts continued."""
    if not before:
        return step
    counted = ("step", "forward", "tangent", "adjoint", "seconds")
    return {**step, **{key: step[key] + before[-1][key] for key in counted if key in step and key in before[-1]}}


def _optimise(session: Session, setting: Optimised, kept: Kept | None) -> Result:
    G, method = setting.G, session.job.method
    replicated = session.job.solver.layout == "replicated"
    m0, before = (setting.start, []) if kept is None else (kept.control, kept.history)
    # The tolerance of a resumed run is relative to where the first one started.
    atol = max(_ATOL, method.rtol * before[0]["gradient_norm"]) if before else _ATOL
    record = Record(session.comm, session.folder, before)

    def after_step(step: dict[str, Any], value: Array) -> None:
        entry = _shifted(step, before)
        session.progress.step(entry, rtol=method.rtol, unit=setting.unit)
        if step["step"] > 0 or not before:
            record.add(entry, value if replicated else None)

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
