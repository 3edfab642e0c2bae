"""What must be settled before numpy, MPI and torch start: threads per rank."""

from __future__ import annotations

import os
import sys


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
