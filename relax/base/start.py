"""What must be settled before numpy, MPI and torch are loaded: threads per rank, and DOLFINx's wheel.

Nothing that takes time is imported here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType

GET_DOLFINX = (
    "relax needs DOLFINx 0.9 to 0.11 with petsc4py (real scalars): `pip install dolfinx-solver-real` (Linux on x86-64, "
    "Python 3.12 or later), `apt install python3-dolfinx-real python3-petsc4py-real libopenblas0-pthread` (Debian 13), "
    "`conda install -c conda-forge fenics-dolfinx petsc4py`, or run through `environment/enter` of relax's source"
)


def launched_ranks() -> int:
    """How many ranks the launcher started, asked of the environment: works before MPI is up."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_NTASKS", "").isdigit():
        return int(os.environ["SLURM_NTASKS"])
    return 1


def one_thread_per_rank() -> None:
    """Ask BLAS and OpenMP for one thread per rank, unless the user has set ``OMP_NUM_THREADS``.

    Libraries read these names when they are loaded, so this runs before numpy is imported.
    """
    if launched_ranks() > 1 and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        os.environ.setdefault("MKL_NUM_THREADS", "1")


def one_torch_thread_per_rank() -> None:
    """Give torch, where it is loaded, one thread per rank, unless ``OMP_NUM_THREADS`` says otherwise. Local.

    Torch takes every core for each rank otherwise, whatever BLAS has been told.
    """
    torch = sys.modules.get("torch")
    if torch is not None and launched_ranks() > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(1)


def wheel_of_dolfinx() -> str | None:
    """The name and version of DOLFINx's wheel, where DOLFINx comes from one; both names where both are installed."""
    wheels = []
    for name in ("dolfinx-solver-real", "dolfinx-solver-complex"):
        try:
            wheels.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return " and ".join(wheels) or None


class _WheelFirst:
    """Has ``dolfinx_solver`` imported before DOLFINx, petsc4py or slepc4py, in an environment that has it.

    The libraries of that wheel find MPI only when mpi4py has loaded it. A finder, which finds nothing itself, because
    there is no other moment: ``import relax`` is cheap and loads no MPI, and scripts import DOLFINx themselves.
    """

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name in ("dolfinx", "petsc4py", "slepc4py") and find_spec("dolfinx_solver") is not None:
            one_thread_per_rank()
            # Where another thread has begun with it, this waits.
            importlib.import_module("dolfinx_solver")


def wheel_first() -> None:
    """From now on, whoever imports DOLFINx gets what its wheel needs before it."""
    if not any(isinstance(finder, _WheelFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WheelFirst())


def start_petsc(program: str, arguments: Sequence[str]) -> bool:
    """Start PETSc with a command line, of which it reads some at its start alone, such as ``-log_view``. Collective.

    ``from petsc4py import PETSc``, which is in ``import dolfinx``, starts it without one.

    Returns:
        False where it has been started before: then this does nothing.
    """
    if "petsc4py.PETSc" in sys.modules:
        return False
    # MPI by its own bindings, as DOLFINx does: PETSc would ask for less of it where threads are concerned.
    importlib.import_module("mpi4py.MPI")
    importlib.import_module("petsc4py").init([program, *arguments])
    return True
