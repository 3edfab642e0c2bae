"""Jobs that optimise a field or a control in time, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from relax.base import parallel
from relax.base.checkpoint_files import Kept, newest
from relax.base.types import Array
from relax.errors import BadInput
from relax.invert.loop import checked_history
from relax.invert.result import Result
from relax.invert.table import METHODS
from relax.jobs.contents import CHECKPOINT, UNFINISHED
from relax.jobs.report import opening, sizes
from relax.jobs.session import Outcome, Session
from relax.jobs.setting.optimised import Optimised
from relax.jobs.steps import Record, checkpoint_of, earlier_run, put, save_control


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
    kept = _kept(session) if session.resume else None
    setting: Optimised = session.build(
        lambda setting: _check_fits(kept, setting, session.results), lambda folder: put(folder, kept)
    )
    session.progress.say(opening(job.pde.name, sizes(setting.problem, setting.G.size_out), comm))
    report = report_of(job, setting)
    try:
        with session.phase(setting.phase):
            result = _optimise(session, setting, kept)
    finally:
        session.progress.close()

    with session.phase("write"):
        predicted = setting.G(result.value)
        summary = _summary(job.method.name, setting, result, report.errors(predicted))
        summary |= report.write(session.folder, result.value, predicted, result.history)
        if job.solver.layout == "replicated":
            parallel.on_rank_0(comm, lambda: save_control(session.folder, result.value))
    setting.G.close()
    setting.prior.close()
    return session.finish(summary, f"{summary['status']}; {summary['steps']} steps, {report.closing(summary)}")


def _kept(session: Session) -> Kept | None:
    """What the run to go on with has kept, once it is known to be of the same problem. Collective.

    Raises:
        BadInput: on every rank, when it is of another problem, or damaged.
    """
    run = earlier_run(session.comm, session.results, session.job)
    try:
        kept = newest(run / CHECKPOINT, session.comm)
        if kept is not None:
            optimiser = kept.states["optimiser"]
            if missing := {"control", "history"} - optimiser.keys():
                raise BadInput(f"{kept.folder}: has no {missing.pop()}")
            checked_history(optimiser["history"])
        return kept
    except (BadInput, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"--resume: {error}; --overwrite starts anew") from None


def _check_fits(kept: Kept | None, setting: Optimised, folder: Path) -> None:
    if kept is not None:
        control = kept.states["optimiser"]["control"]
        setting.G.layout.restored(control, f"{folder}: --resume: the control of the earlier run")


def _optimise(session: Session, setting: Optimised, kept: Kept | None) -> Result:
    G, method = setting.G, session.job.method
    before = [] if kept is None else kept.states["optimiser"]["history"]
    record = Record(session.comm, session.folder, before)
    # One that had ended after max_steps is resumed to take so many more.
    is_more = kept is not None and kept.folder.parents[1].name != UNFINISHED
    max_steps = method.max_steps + (before[-1]["step"] if is_more else 0)

    def after_step(entry: dict[str, Any], value: Array) -> None:
        session.progress.step(entry, atol=method.atol, rtol=method.rtol, unit=setting.unit)
        record.add(entry)

    try:
        result: Result = METHODS[method.name].run(
            G, setting.data, setting.start, noise=setting.noise, prior=setting.prior, rtol=method.rtol,
            atol=method.atol, max_steps=max_steps, callback=after_step,
            checkpoint=checkpoint_of(session, fields=G.layout.kind == "owned"),
        )  # fmt: skip
        return result
    finally:
        record.close()


def _summary(method: str, setting: Optimised, result: Result, errors: dict[str, Any]) -> dict[str, Any]:
    last = result.history[-1]
    stats = asdict(result.stats)
    return {
        "status": result.status.value,
        "converged": result.converged,
        "method": method,
        "steps": last["step"],
        **errors,
        "gradient_norm": last["gradient_norm"],
        "solves": {**{key: stats[key] for key in ("forward", "tangent", "adjoint")}, "cg_iterations": result.stats.cg},
        "sizes": sizes(setting.problem, setting.G.size_out),
    }
