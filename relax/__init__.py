"""relax: PDEs inside learning and inverse problems, on DOLFINx and PETSc, with torch and MPI.

``import relax`` is cheap. Names are loaded when first used, so that ``relax info`` and ``relax --help`` work where
DOLFINx is missing, and torch is loaded only by those who use it. It stands above any import of DOLFINx: where that is
the wheel from PyPI, MPI has to be loaded first, and relax sees to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from relax.parallel_start import GET_DOLFINX, one_thread_per_rank, wheel_first

wheel_first()

__version__ = "0.1.0"

if TYPE_CHECKING:
    from relax import errors as errors
    from relax import invert as invert
    from relax import meshes as meshes
    from relax import observe as observe
    from relax import pdes as pdes
    from relax import relaxation as relaxation
    from relax import train as train
    from relax._petsc import AMG_CG as AMG_CG
    from relax._petsc import AMG_GMRES as AMG_GMRES
    from relax._petsc import DIRECT as DIRECT
    from relax._petsc import DIRECT_SYMMETRIC as DIRECT_SYMMETRIC
    from relax._petsc import NEWTON as NEWTON
    from relax.boundary import clamp as clamp
    from relax.boundary import clamp_boundary as clamp_boundary
    from relax.complex_layer import ComplexLayer as ComplexLayer
    from relax.continuation import Continuation as Continuation
    from relax.eigenmap import EigenMap as EigenMap
    from relax.errors import BadInput as BadInput
    from relax.errors import BadProblem as BadProblem
    from relax.errors import CheckFailed as CheckFailed
    from relax.errors import NotConverged as NotConverged
    from relax.errors import PointsOutsideMesh as PointsOutsideMesh
    from relax.errors import RelaxError as RelaxError
    from relax.errors import SolveFailed as SolveFailed
    from relax.evolution import Evolution as Evolution
    from relax.invert import Result as Result
    from relax.invert import Stats as Stats
    from relax.invert import Status as Status
    from relax.invert.gauss_newton import gauss_newton as gauss_newton
    from relax.invert.lbfgs import lbfgs as lbfgs
    from relax.layer import SolutionLayer as SolutionLayer
    from relax.linearization import Linearization as Linearization
    from relax.observe import AtSteps as AtSteps
    from relax.observe import FieldValues as FieldValues
    from relax.observe import Functional as Functional
    from relax.observe import Observable as Observable
    from relax.observe import PointValues as PointValues
    from relax.observe import Stack as Stack
    from relax.observe import TimeIntegral as TimeIntegral
    from relax.prior import BlockPrior as BlockPrior
    from relax.prior import IdentityPrior as IdentityPrior
    from relax.prior import SmoothnessPrior as SmoothnessPrior
    from relax.problem import Problem as Problem
    from relax.reduced import ReducedMap as ReducedMap
    from relax.reduced import control_values as control_values
    from relax.relaxation import SGLD as SGLD
    from relax.relaxation import ElasticSGD as ElasticSGD
    from relax.relaxation import EntropySGD as EntropySGD
    from relax.relaxation import HamiltonJacobi as HamiltonJacobi
    from relax.relaxation import HeatSmoothing as HeatSmoothing
    from relax.relaxation import Parle as Parle
    from relax.relaxation import ProximalPoint as ProximalPoint
    from relax.relaxation import RelaxedLandscape as RelaxedLandscape
    from relax.solver import Newton as Newton
    from relax.substitution import Substitution as Substitution
    from relax.teams import Teams as Teams
    from relax.theta import theta_evolution as theta_evolution
    from relax.train import HalfInverse as HalfInverse
    from relax.train import gauss_newton_inverse as gauss_newton_inverse
    from relax.train import lbfgs_inverse as lbfgs_inverse
    from relax.train import physical_gradient as physical_gradient
    from relax.verify import MapReport as MapReport
    from relax.verify import check_map as check_map

_HOMES = {
    "relax.problem": ("Problem",),
    "relax.boundary": ("clamp", "clamp_boundary"),
    "relax.evolution": ("Evolution",),
    "relax.continuation": ("Continuation",),
    "relax.substitution": ("Substitution",),
    "relax.theta": ("theta_evolution",),
    "relax.observe": ("Observable", "PointValues", "FieldValues", "Functional", "Stack", "AtSteps", "TimeIntegral"),
    "relax.solver": ("Newton",),
    "relax._petsc": ("DIRECT", "DIRECT_SYMMETRIC", "AMG_CG", "AMG_GMRES", "NEWTON"),
    "relax.reduced": ("ReducedMap", "control_values"),
    "relax.linearization": ("Linearization",),
    "relax.eigenmap": ("EigenMap",),
    "relax.verify": ("check_map", "MapReport"),
    "relax.prior": ("SmoothnessPrior", "IdentityPrior", "BlockPrior"),
    "relax.invert": ("gauss_newton", "lbfgs", "Result", "Stats", "Status"),
    "relax.layer": ("SolutionLayer",),
    "relax.complex_layer": ("ComplexLayer",),
    "relax.relaxation": (
        "RelaxedLandscape",
        "EntropySGD",
        "HamiltonJacobi",
        "HeatSmoothing",
        "ProximalPoint",
        "SGLD",
        "Parle",
        "ElasticSGD",
    ),
    "relax.train": ("HalfInverse", "physical_gradient", "gauss_newton_inverse", "lbfgs_inverse"),
    "relax.teams": ("Teams",),
    "relax.errors": (
        "RelaxError",
        "SolveFailed",
        "NotConverged",
        "PointsOutsideMesh",
        "BadProblem",
        "BadInput",
        "CheckFailed",
    ),
}
_MODULES = ("errors", "invert", "meshes", "observe", "pdes", "relaxation", "train")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, *_MODULES, "init"]  # noqa: PLE0604

_GET_TORCH = "needs torch, which is not installed: on Debian `apt install python3-torch`, or `pip install torch`"


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF and name not in _MODULES:
        raise AttributeError(f"module 'relax' has no attribute {name!r}")
    one_thread_per_rank()
    try:
        if name in _MODULES:
            return importlib.import_module(f"relax.{name}")
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing == "torch":
            raise ImportError(f"relax.{name} {_GET_TORCH}") from error
        if missing in ("dolfinx", "petsc4py", "ufl", "basix", "mpi4py"):
            raise ImportError(GET_DOLFINX) from error
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def init(argv: Sequence[str] = ()) -> None:
    """Prepare a parallel run: PETSc options, one thread per rank, and a job that ends when one rank fails.

    Collective. Call it once at the start of a script, as ``relax.init(sys.argv)``.

    Args:
        argv: a command line. What follows ``--`` goes to PETSc, such as ``-- -relax_poisson_diffusion_ksp_monitor``.
    """
    one_thread_per_rank()
    arguments = list(argv)
    for_petsc = arguments[arguments.index("--") + 1 :] if "--" in arguments else []
    try:
        from relax import _petsc, cache, parallel
    except ModuleNotFoundError as error:
        raise ImportError(GET_DOLFINX) from error
    _petsc.insert_command_line(for_petsc)
    parallel.end_job_on_exception()
    cache.sweep_stale_forms()
