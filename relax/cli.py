"""The command ``relax``. What follows ``--`` goes to PETSc.

Nothing heavy is imported before a command needs it, for two reasons: ``relax --help`` and ``relax info`` work where
DOLFINx is missing, and PETSc must be given its options before DOLFINx starts it, or ``-log_view`` comes too late.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from relax.base.start import GET_DOLFINX, launched_ranks, one_thread_per_rank, start_petsc
from relax.jobs import help_texts

app = typer.Typer(
    name="relax",
    help="PDEs inside inverse problems and learning, on DOLFINx and PETSc, with MPI.\n\n"
    "What follows `--` on any command line goes to PETSc: `relax run job.toml -- -log_view`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

TrustMesh = Annotated[
    bool, typer.Option("--trust-mesh", help="Let the mesh's .geo file run programs (SystemCall and its like).")
]
Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of every error.")]


@app.command("run", help=help_texts.RUN)
def _run(
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", hidden=True)],
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Write here instead of [output] folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last step of an earlier run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be solved, and where; solve and write nothing.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value of a key, as prior.length=0.3; repeatable."),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop after the last step that fits, as 30s, 10min, 2h; by default Slurm's."),
    ] = None,
    trust_mesh: TrustMesh = False,
    debug: Debug = False,
) -> int:
    def action() -> int:
        from mpi4py import MPI

        from relax.base import checkpoint, ending, parallel
        from relax.errors import BadInput
        from relax.jobs import read, run_job

        if overwrite and resume:
            raise BadInput("--overwrite and --resume: expected one of them")
        file = parallel.on_rank_0(MPI.COMM_WORLD, lambda: read(job, settings or (), trust_mesh=trust_mesh))
        limit = None if time_limit is None else checkpoint.seconds(time_limit, "--time-limit")
        if dry_run:
            from relax.jobs.preview import preview

            preview(file, folder=output, overwrite=overwrite, resume=resume)
            return ending.OK
        outcome = run_job(file, folder=output, overwrite=overwrite, resume=resume, time_limit=limit)
        return ending.OK if outcome.converged else ending.NOT_CONVERGED

    return _on_all_ranks(action, debug)


@app.command("check", help=help_texts.CHECK)
def _check(
    function: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", hidden=True)],
    mesh: Annotated[Path | None, typer.Option(metavar="FILE", help="A mesh file; by default the unit square.")] = None,
    n: Annotated[int, typer.Option(min=1, show_default=False, help="The unit square in n by n squares; 8.")] = 8,
    seed: Annotated[int, typer.Option(min=0, show_default=False, help="Of the random directions; 0.")] = 0,
    trust_mesh: TrustMesh = False,
    debug: Debug = False,
) -> int:
    def action() -> int:
        from relax.jobs import check

        check.check(function, mesh, n, seed, trust_mesh=trust_mesh)
        return 0

    return _on_all_ranks(action, debug)


@app.command("status", help=help_texts.STATUS)
def _status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", hidden=True)],
) -> int:
    from relax.jobs.status import status

    return _said(lambda: status(folder))


@app.command("compare", help=help_texts.COMPARE)
def _compare(
    first: Annotated[Path, typer.Argument(metavar="DIR1", hidden=True)],
    second: Annotated[Path, typer.Argument(metavar="DIR2", hidden=True)],
) -> int:
    from relax.jobs.compare import compare

    return _said(lambda: compare(first, second))


@app.command("info")
def _info() -> int:
    """Say which versions, ranks, threads and libraries are at hand, and what to mend."""
    from relax.jobs import info

    lines, warnings = info.report()
    if _is_rank_0():
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            print(f"{name:<{width}}  {value}")
        for warning in warnings:
            print(f"WARNING: {warning}")
        sys.stdout.flush()
    return 0


@app.command("clean-cache")
def _clean_cache(
    everything: Annotated[bool, typer.Option("--all", help="Remove finished ones as well.")] = False,
) -> int:
    """Remove what killed jobs left of forms that they compiled.

    `relax run` and `relax check` do so by themselves for what is older than ten minutes. Do not use this while DOLFINx
    compiles without relax, nor --all while another run does.
    """
    from relax.base.fem import cache

    if not _is_rank_0():
        return 0
    if everything:
        print(f"removed {cache.remove_all_forms()} files from {cache.form_cache()}")
    else:
        print(f"removed {len(cache.sweep_stale_forms(older_than=0.0))} unfinished forms from {cache.form_cache()}")
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        import relax

        if _is_rank_0():
            print(f"relax {relax.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    pass


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line as (relax's own part, what follows ``--``)."""
    arguments = list(argv)
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def main(argv: Sequence[str] | None = None) -> None:
    """The console script: run the command line and leave with its exit status."""
    sys.exit(execute(sys.argv[1:] if argv is None else argv))


def execute(argv: Sequence[str]) -> int:
    """Run a command line; return its exit status, the same on every rank. Collective for ``run`` and ``check``."""
    own, for_petsc = split_arguments(argv)
    _petsc_arguments[:] = for_petsc
    command: Any = typer.main.get_command(app)
    asks_for_help = not own or not {"-h", "--help"}.isdisjoint(own)
    try:
        with _unheard() if asks_for_help and not _is_rank_0() else nullcontext():
            with command.make_context("relax", own) as context:
                return int(command.invoke(context) or 0)
    except typer.Exit as leave:
        return int(leave.exit_code)
    except _WRONG_COMMAND_LINE as error:
        if _is_rank_0():
            error.show()
        return 2


# click's UsageError. typer brings a click of its own since 0.26 and needed the package before; this name is in both.
_WRONG_COMMAND_LINE: Any = typer.BadParameter.__base__

# What followed `--`; kept here because typer, which calls the commands, knows only relax's own part.
_petsc_arguments: list[str] = []


def _is_rank_0() -> bool:
    """Whether this is the rank that speaks; asks the launcher's environment while MPI is not up."""
    if "mpi4py.MPI" in sys.modules:
        return bool(sys.modules["mpi4py.MPI"].COMM_WORLD.rank == 0)
    if launched_ranks() == 1:
        return True
    names = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


@contextmanager
def _unheard() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _said(action: Callable[[], str]) -> int:
    """Print what a command that reads has to say, or what is wrong; without MPI, so that it works beside a run."""
    from relax.errors import BadInput

    try:
        text = action()
    except BadInput as error:
        if _is_rank_0():
            print(f"relax: error: {error}", file=sys.stderr)
        return 2
    if _is_rank_0():
        print(text, flush=True)
    return 0


def _on_all_ranks(action: Callable[[], int], debug: bool) -> int:
    """Start PETSc and MPI, then run a command on every rank. Collective."""
    one_thread_per_rank()
    try:
        # A reader that goes away (`relax info | head`) is no reason for PETSc to abort the job.
        started = start_petsc("relax", ["-no_signal_handler", *_petsc_arguments])
        import relax

        relax.init([] if started else ["--", *_petsc_arguments])
        from mpi4py import MPI

        from relax.base import ending, log
    except ImportError as error:
        if not debug:
            if _is_rank_0():
                why = error if GET_DOLFINX in str(error) else f"{GET_DOLFINX} ({error})"
                print(f"relax: error: {why}", file=sys.stderr)
            return 1
        raise
    log.to_console()
    return ending.run(action, MPI.COMM_WORLD, debug=debug)
