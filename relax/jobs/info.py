"""What ``relax info`` says: versions, ranks, threads, PETSc's packages, the BLAS in use, and what to mend."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from relax.base.start import GET_DOLFINX, one_thread_per_rank, wheel_of_dolfinx

PETSC_PACKAGES = ("mumps", "hypre", "cholmod", "superlu_dist", "ptscotch", "parmetis")


def version_of(*names: str) -> str | None:
    """The version of the first of these distributions that is installed, without importing it."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def relax_version() -> str:
    """The installed version, or that of the checkout in use."""
    import relax

    return str(getattr(relax, "__version__", None) or version_of("relax") or "not installed")


def blas_in_use(maps: str | None = None) -> str:
    """The kind of BLAS that this process has loaded: openblas, mkl, blis, accelerate, reference, or unknown.

    Args:
        maps: the text of ``/proc/self/maps``, for tests.
    """
    if maps is None:
        try:
            maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        except OSError:
            return "unknown"
    loaded = {line.split()[-1].lower() for line in maps.splitlines() if ".so" in line}
    # NumPy's own wheel carries an OpenBLAS that PETSc does not use, so the library that PETSc links to decides.
    shared = {path for path in loaded if "numpy" not in path and "scipy" not in path}
    for kind in ("mkl", "openblas", "blis"):
        if any(kind in path for path in shared):
            return kind
    if any(Path(path).name.startswith(("libblas", "librefblas")) for path in shared):
        return "reference"
    return "unknown"


def versions() -> dict[str, Any]:
    """Versions and the shape of the run, as ``summary.json`` keeps them. Needs DOLFINx."""
    import petsc4py
    from mpi4py import MPI
    from petsc4py import PETSc

    from relax.base.fem import compat

    return {
        "relax": relax_version(),
        "python": platform.python_version(),
        "dolfinx": compat.dolfinx_version(),
        "petsc": ".".join(str(n) for n in PETSc.Sys.getVersion()),
        "petsc4py": petsc4py.__version__,
        "numpy": version_of("numpy"),
        "torch": version_of("torch"),
        "mpi": " ".join(MPI.Get_library_version().replace("\x00", "").splitlines()[0].split(",")[0].split()),
        "ranks": MPI.COMM_WORLD.size,
        "threads_per_rank": threads(),
        "blas": blas_in_use(),
    }


def threads() -> str:
    """The number of BLAS threads of each rank, as far as the environment says."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            return os.environ[name]
    return f"up to {os.cpu_count()} (OMP_NUM_THREADS is not set)"


def report() -> tuple[list[tuple[str, str]], list[str]]:
    """The lines of ``relax info`` and its warnings. Works where DOLFINx is missing."""
    try:
        import dolfinx  # noqa: F401
    except ImportError as error:
        lines = [("relax", relax_version()), ("Python", platform.python_version()), ("DOLFINx", "missing")]
        hint = "" if getattr(error, "name", None) == "dolfinx" else f" (importing it failed: {error})"
        return lines, [GET_DOLFINX + hint]
    one_thread_per_rank()
    from petsc4py import PETSc

    from relax.base.fem import cache, compat

    found = versions()
    packages = {name: bool(PETSc.Sys.hasExternalPackage(name)) for name in PETSC_PACKAGES}
    wheel = wheel_of_dolfinx()
    lines = [
        ("relax", found["relax"]),
        ("Python", found["python"]),
        ("DOLFINx", f"{found['dolfinx']} (from the wheel {wheel})" if wheel else found["dolfinx"]),
        ("PETSc", f"{found['petsc']}, {PETSc.ScalarType.__name__} scalars, {PETSc.IntType.__name__} indices"),
        ("petsc4py", found["petsc4py"]),
        ("PETSc has", ", ".join(name for name, there in packages.items() if there) or "no external package"),
        ("PETSc lacks", ", ".join(name for name, there in packages.items() if not there) or "nothing relax uses"),
        ("torch", found["torch"] or "missing (only SolutionLayer and the optimisers for torch need it)"),
        ("MPI", found["mpi"]),
        ("ranks", str(found["ranks"])),
        ("threads", f"{found['threads_per_rank']} per rank"),
        ("BLAS", found["blas"]),
        ("form cache", str(cache.form_cache())),
    ]
    warnings = []
    if not compat.version_is_supported():
        tested = ", ".join(compat.SUPPORTED)
        warnings.append(f"DOLFINx {found['dolfinx']} is not one that relax is tested on: {tested}")
    if found["blas"] == "reference":
        warnings.append(
            "BLAS is the unoptimised reference BLAS, on which 3-D direct solves take ten times longer; "
            "install OpenBLAS (Debian: apt install libopenblas0-pthread)"
        )
    if not packages["mumps"]:
        warnings.append("PETSc lacks MUMPS, relax's default solver; choose another with -relax_<name>_pc_type")
    if not packages["hypre"]:
        warnings.append("PETSc lacks hypre: the presets amg_cg and amg_gmres use PETSc's own multigrid, GAMG, instead")
    if PETSc.ScalarType().dtype.kind == "c":
        warnings.append(
            f"PETSc has complex scalars ({wheel or PETSc.__file__}), on which relax does not run: {GET_DOLFINX}"
        )
    if found["ranks"] > 1 and found["threads_per_rank"] != "1":
        warnings.append("several ranks with several threads each compete for the cores; set OMP_NUM_THREADS=1")
    return lines, warnings
