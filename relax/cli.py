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

_RUN_HELP = """Run the job of a file and write its output folder.

A job names a mesh, an equation, where it is observed, the data, a prior, a method and a folder:

\b
    [mesh]
    file = "meshes/plate_with_holes.msh"  # or generator = "unit_square", n = 64
    [pde]
    name = "poisson.diffusion"            # or "my_module:my_function"
    source = 10.0                         # other keys are keywords of that function
    [observe]
    points = 60                           # or a CSV file with the columns x, y
    seed = 1
    [data]
    truth = "inclusions"                  # or file = "data.csv": x, y, value[, sigma]
    noise = 0.01                          # a fraction of the largest observation
    seed = 2
    [prior]
    length = 0.2
    std = 1.0
    [method]
    name = "gauss_newton"                 # max_steps = 50, rtol = 1e-6
    [output]
    folder = "results/my_job"             # relative to the current folder

An equation in time is observed at [observe] steps. A job with a [target] instead of [data] drives one number per step
so that the last state is as wanted; mpi_jobs/README.md has all tables.

\b
    [pde]
    name = "schrodinger.dipole"           # other keys are num_steps, dt, initial, potential, degree
    num_steps = 100
    dt = 0.1
    [target]
    populations = [0, 1, 0]               # of the lowest eigenstates, after the last step; or state = 2
    [prior]
    std = 2.0
    [method]
    name = "lbfgs"

A job with a [landscape] relaxes a function of x; one with [data] and [misfit] recovers up to three numbers by relaxing
their misfit over a box. Neither has a [prior].

\b
    [pde]
    name = "hamilton_jacobi.viscous_evolution"
    beta = 2.0                            # t, num_steps, route = "cole_hopf", "direct" or "auto"
    [landscape]
    function = "rugged"                   # or "my_module:my_function" of x
    [descent]
    starts = 40

\b
    [data]
    truth = [0.85, 1.2]
    noise = 0.03
    [misfit]
    box = [[0.7, 1.7], [0.7, 1.7]]        # num = 24, beta = 20.0, starts = 5

Paths of the job start from its project folder: the nearest folder, from the job file's own upwards, with a
pyproject.toml or a .git; else the job file's own. A module of yours is looked for there, beside the job file, and in
the current folder.

\b
    relax run mpi_jobs/poisson_inverse.toml
    mpirun -n 4 relax run mpi_jobs/poisson_inverse.toml --output results/again
    relax run job.toml --overwrite -- -log_view -relax_poisson_diffusion_pc_type gamg

SIGUSR1, which mpirun and srun pass on, stops a run after its present step, as --time-limit does; --resume goes on.

Exit status: 0 done, 1 failed, 2 wrong job or command line, 3 not converged (the results are written all the same),
75 stopped, to be resumed.
"""

_CHECK_HELP = """Check the derivatives of an equation of your own: Taylor orders, adjoint identity, Hessian symmetry.

MODULE:FUNCTION is a function of a mesh, or of nothing, that returns a relax.Problem, a relax.Evolution or a
relax.ReducedMap; or the name of one that relax has, such as poisson.diffusion or heat.evolution.

\b
    relax check my_equations:cubic_reaction
    relax check examples.new_pde:cubic_reaction --n 16
    mpirun -n 2 relax check my_equations:plate --mesh meshes/plate_with_holes.msh

Exit status: 0 all derivatives are right, 1 one is not, 2 wrong command line.
"""

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

Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of every error.")]


@app.command("run", help=_RUN_HELP)
def _run(
    job: Annotated[Path, typer.Argument(metavar="JOB.toml", hidden=True)],
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Write here instead of [output] folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last step of an earlier run.")] = False,
    time_limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop after the last step that fits, as 30s, 10min, 2h; by default Slurm's."),
    ] = None,
    debug: Debug = False,
) -> int:
    def action() -> int:
        from mpi4py import MPI

        from relax.base import checkpoint, ending, parallel
        from relax.errors import BadInput
        from relax.jobs import read, run_job

        if overwrite and resume:
            raise BadInput("--overwrite and --resume: expected one of them")
        file = parallel.on_rank_0(MPI.COMM_WORLD, lambda: read(job))
        limit = None if time_limit is None else checkpoint.seconds(time_limit, "--time-limit")
        outcome = run_job(file, folder=output, overwrite=overwrite, resume=resume, time_limit=limit)
        return ending.OK if outcome.converged else ending.NOT_CONVERGED

    return _on_all_ranks(action, debug)


@app.command("check", help=_CHECK_HELP)
def _check(
    function: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", hidden=True)],
    mesh: Annotated[Path | None, typer.Option(metavar="FILE", help="A mesh file; by default the unit square.")] = None,
    n: Annotated[int, typer.Option(min=1, show_default=False, help="The unit square in n by n squares; 8.")] = 8,
    seed: Annotated[int, typer.Option(min=0, show_default=False, help="Of the random directions; 0.")] = 0,
    debug: Debug = False,
) -> int:
    def action() -> int:
        from relax.jobs import check

        check.check(function, mesh, n, seed)
        return 0

    return _on_all_ranks(action, debug)


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
