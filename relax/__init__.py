"""relax: PDEs inside learning and inverse problems, on DOLFINx and PETSc, with torch and MPI.

``import relax`` is cheap. Names are loaded when first used, so that ``relax info`` and ``relax --help`` work where
DOLFINx is missing, and torch is loaded only by those who use it. It stands above any import of DOLFINx: where that is
the wheel from PyPI, MPI has to be loaded first, and relax sees to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relax.base import lazy
from relax.base.start import GET_DOLFINX, one_thread_per_rank, start_petsc, wheel_first

wheel_first()

__version__ = "0.1.0"

_HOME_OF = lazy.names(__name__)

__all__ = [*_HOME_OF, "init"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        one_thread_per_rank()
    return lazy.value(__name__, _HOME_OF, name)


def __dir__() -> list[str]:
    return sorted(__all__)


def init(argv: Sequence[str] = ()) -> None:
    """Prepare a parallel run: PETSc options, one thread per rank, and a job that ends when one rank fails.

    Collective. Call it once at the start of a script, as ``relax.init(sys.argv)``, and above the import of DOLFINx,
    which starts PETSc.

    Args:
        argv: a command line. What follows ``--`` goes to PETSc, such as ``-- -relax_poisson_diffusion_ksp_monitor``.

    Raises:
        BadInput: for an option such as ``-log_view`` that PETSc reads at its start, where it has been started already;
            on every rank, for options that differ between the ranks.
    """
    one_thread_per_rank()
    arguments = list(argv)
    for_petsc = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    try:
        started = start_petsc("".join(arguments[:1]), for_petsc)
        from relax.base import ending
        from relax.base.fem import cache
        from relax.base.la.options import insert_command_line
    except ModuleNotFoundError as error:
        raise ImportError(GET_DOLFINX) from error
    insert_command_line([] if started else for_petsc)
    ending.end_job_on_exception()
    cache.sweep_stale_forms()
