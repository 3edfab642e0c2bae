"""PETSc's options and its failures as sentences. Nothing else touches the options."""

from __future__ import annotations

import atexit
import ctypes
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.checks import closest
from relax.base.la import kinds
from relax.base.log import logger, warn
from relax.base.start import GET_DOLFINX, wheel_of_dolfinx
from relax.errors import BadInput

if np.dtype(PETSc.ScalarType).kind == "c":
    raise ImportError(
        f"this PETSc has complex scalars ({wheel_of_dolfinx() or PETSc.__file__}), and relax writes a complex state as "
        f"two real fields: {GET_DOLFINX}"
    )

Options = Mapping[str, object]

# MUMPS' maximum matching (control parameter 6) permutes by the values of the matrix that is analysed first. Without it
# a factor depends on its own matrix alone, and answers not on which point was visited before: bitwise, on one rank.
#: LU by MUMPS: any operator that is not singular, on any number of ranks.
DIRECT: Options = {
    "ksp_type": "preonly",
    "pc_type": "lu",
    "pc_factor_mat_solver_type": "mumps",
    "mat_mumps_icntl_6": 0,
}
#: L D L^T by MUMPS, half the work and memory of LU: symmetric operators, definite or not.
DIRECT_SYMMETRIC: Options = {**DIRECT, "pc_type": "cholesky"}
# Sequential at the root of the elimination tree, and null pivots apart: MUMPS counts negative pivots only then.
#: The same, and a count of negative eigenvalues with it.
DIRECT_COUNTING: Options = {**DIRECT_SYMMETRIC, "mat_mumps_icntl_13": 1, "mat_mumps_icntl_24": 1}


def has(package: str) -> bool:
    """Whether PETSc was built with this package, such as ``"hypre"``."""
    return bool(PETSc.Sys.hasExternalPackage(package))


#: The algebraic multigrid of the presets: BoomerAMG, and PETSc's own GAMG where PETSc has no hypre.
AMG = "hypre" if has("hypre") else "gamg"
# The unpreconditioned norm, because a preconditioned residual of 1e-10 can hide a true one of 1e-5.
#: Conjugate gradients with algebraic multigrid: symmetric positive operators, large or in 3-D.
AMG_CG: Options = {
    "ksp_type": "cg",
    "ksp_rtol": 1e-10,
    "ksp_norm_type": "unpreconditioned",
    "ksp_max_it": 500,
    "pc_type": AMG,
}
#: GMRES with algebraic multigrid from the right: operators that are not symmetric, large or in 3-D.
AMG_GMRES: Options = {
    "ksp_type": "gmres",
    "ksp_pc_side": "right",
    "ksp_rtol": 1e-10,
    "ksp_gmres_restart": 100,
    "ksp_max_it": 1000,
    "pc_type": AMG,
}
# Both parts by fixed operators; Chebyshev's steps on a mass matrix, which Jacobi's method bounds on any mesh.
#: GMRES with Schur's complement of two parts, velocity before pressure: Stokes' equations, large or in 3-D.
STOKES: Options = {
    "ksp_type": "fgmres",
    "ksp_rtol": 1e-10,
    "ksp_gmres_restart": 150,
    "ksp_max_it": 500,
    "pc_type": "fieldsplit",
    "pc_fieldsplit_type": "schur",
    "pc_fieldsplit_schur_fact_type": "upper",
    "fieldsplit_0_ksp_type": "preonly",
    "fieldsplit_0_pc_type": AMG,
    "fieldsplit_1_ksp_type": "chebyshev",
    "fieldsplit_1_ksp_max_it": 3,
    "fieldsplit_1_pc_type": "jacobi",
}
# Steps that may raise the residual raise it as far as it takes: PETSc's own limit, 1e4 times, ends penalties at once.
#: SNES: Newton with a backtracking line search.
NEWTON: Options = {"snes_type": "newtonls", "snes_linesearch_type": "bt", "snes_divergence_tolerance": 1e300}
#: SNES: Newton's own steps, through whatever residuals they lead.
FULL_STEPS: Options = {"snes_linesearch_type": "basic"}

PRESETS: dict[str, Options] = {
    "direct": DIRECT,
    "direct_symmetric": DIRECT_SYMMETRIC,
    "amg_cg": AMG_CG,
    "amg_gmres": AMG_GMRES,
}
# Of states with two parts.
_OF_PARTS: dict[str, Options] = {"stokes": STOKES}

_FAMILIES = ("ksp_", "pc_", "mat_", "snes_", "sub_", "mg_", "fieldsplit_", "npc_", "esteig_", "redundant_", "prefix_")

# Options that make sense only beside the ``pc_type`` or ``ksp_type`` that they were written for.
_BOUND_TO_PC = ("pc_", "mat_mumps_")
_BOUND_TO_KSP = ("ksp_norm_type", "ksp_pc_side", "ksp_gmres_")

_KSP_REASONS = {
    -2: "broke down with a zero inner product",
    -3: "did not reach its tolerance within ksp_max_it iterations",
    -4: "diverged: the residual grew beyond the divergence tolerance",
    -5: "broke down",
    -6: "broke down: the operator or preconditioner is not suited to BiCG",
    -7: "needs a symmetric operator and this one is not",
    -8: "found the preconditioner indefinite",
    -9: "met NaN or infinity",
    -10: "found the operator indefinite",
    -11: "could not set up its preconditioner or factor the operator (is the operator singular?)",
}
_SNES_REASONS = {
    -1: "left the domain of the residual",
    -2: "evaluated the residual too many times",
    -3: "had a linear solve fail",
    -4: "met NaN or infinity in the residual",
    -5: "did not reach its tolerance within the allowed steps",
    -6: "found no decrease along the Newton direction",
    -7: "failed in its inner solve",
    -8: "stopped in a local minimum of the residual norm that is no root",
    -9: "diverged: the residual grew beyond the divergence tolerance",
    -10: "could not evaluate the Jacobian",
    -11: "left the trust region",
    -13: "left the domain of the objective of its line search",
    -14: "met NaN or infinity in the objective of its line search",
}


# Read when PETSc starts and never again: -log_view later on ends in an error when PETSc ends.
# DOLFINx names its solvers by the ids of Python's objects, which are each rank's own.
_OF_AN_OBJECT = re.compile(r"\d{9,}")
_AT_START = re.compile(r"-(log|malloc|info|fp_trap|objects_dump|history|start_in_debugger|on_error_|memory_view)")


def insert_command_line(arguments: Sequence[str]) -> None:
    """Put command-line options into PETSc's database after PETSc has started. Collective over all ranks.

    Raises:
        BadInput: for one that is read at PETSc's start alone; on every rank, for options that differ between ranks.
    """
    late = next(filter(_AT_START.match, arguments), None)
    if late is None and arguments:
        PETSc.Options().insertString(" ".join(f'"{a}"' if " " in a else a for a in arguments))
    same_on_all_ranks(MPI.COMM_WORLD, "", {"": late} if late else {})
    if late:
        raise BadInput(
            f"{late}: PETSc reads this when it starts, and it has been started already, by an import of DOLFINx or "
            "petsc4py: call relax.init(sys.argv) above that, or set PETSC_OPTIONS in the environment"
        )


def same_on_all_ranks(comm: MPI.Comm, prefix: str, options: Options | str | None) -> None:
    """Refuse options of a call, or of PETSc's database, that differ between ranks, which solve together. Collective.

    Args:
        comm: the ranks.
        prefix: of the names in the database that count.
        options: of the call.

    Raises:
        BadInput: on every rank, naming an option and two ranks.
    """
    if comm.size == 1:
        return
    given = options if isinstance(options, Mapping) else {"a preset": options} if isinstance(options, str) else {}
    mine = {str(key): str(value) for key, value in given.items()}
    database = {name: value for name, value in _database().items() if not _OF_AN_OBJECT.search(name)}
    mine |= {f"-{name}": str(value) for name, value in database.items() if name.startswith(prefix)}
    first, *others = parallel.on_each_rank(comm, mine)
    for rank, theirs in enumerate(others, 1):
        if theirs != first:
            key = min(key for key in first | theirs if first.get(key) != theirs.get(key))
            here, there = (repr(some[key]) if key in some else "not there" for some in (first, theirs))
            raise BadInput(
                f"options: expected the same on each of the {comm.size} ranks, which solve together, but {key} is "
                f"{here} on rank 0 and {there} on rank {rank}"
            )


def preset(options: Options | str | None) -> Options | None:
    """A preset's options by name; a mapping or None as it is. The log says where GAMG stands in for hypre.

    Raises:
        BadInput: for an unknown name, listing the known ones.
    """
    named = PRESETS | _OF_PARTS
    if isinstance(options, str) and options not in named:
        raise BadInput(f"options: expected a mapping of PETSc options or one of {sorted(named)}, got {options!r}")
    chosen = named[options] if isinstance(options, str) else options
    if AMG == "gamg" and any(chosen is amg for amg in (AMG_CG, AMG_GMRES, STOKES)):
        logger.warning("this PETSc has no hypre: its own multigrid, GAMG, takes the place of BoomerAMG")
    return chosen


def known(options: Options) -> Options:
    """``options``, with every key checked for the family it belongs to, and its value for its kind.

    Raises:
        BadInput: for a key of none, naming the nearest family: PETSc itself passes over a misspelled key in silence;
            for words where PETSc wants a number.
    """
    for key in options:
        bare = key.removeprefix("lin_")
        if not bare.startswith(_FAMILIES):
            near = closest(bare.split("_")[0] + "_", _FAMILIES)
            hint = f"; did you mean {near}{bare.partition('_')[2]}?" if near else ""
            raise BadInput(f"options: expected keys that start with {', '.join(_FAMILIES)}; got {key!r}{hint}")
        kinds.check(bare, options[key], key)
    return options


def split(options: Options) -> tuple[dict[str, object], dict[str, object]]:
    """Options of forward solves, and those of tangent and adjoint solves without their ``lin_``."""
    forward = {k: v for k, v in options.items() if not k.startswith("lin_")}
    return forward, {k.removeprefix("lin_"): v for k, v in options.items() if k.startswith("lin_")}


class Merged(dict[str, object]):
    """Options over defaults.

    Attributes:
        given: the keys of the former: what the user should be told of where nothing reads them.
    """

    given: Collection[str] = ()


def merged(defaults: Options, options: Options | None) -> Merged:
    """``options`` over ``defaults``; a new ``pc_type`` or ``ksp_type`` drops the defaults written for the old one."""
    if not options:
        return Merged(defaults)
    kept = dict(defaults)
    for key, bound in (("pc_type", _BOUND_TO_PC), ("ksp_type", _BOUND_TO_KSP)):
        if key in options and options[key] != defaults.get(key):
            kept = {k: v for k, v in kept.items() if not k.startswith(bound)}
    both = Merged({**kept, **options})
    both.given = tuple(options)
    return both


def user_options(prefix: str, keys: Sequence[str] = ("ksp_type", "pc_type")) -> dict[str, object]:
    """Those of ``keys`` that the user has set on the command line or in the environment for this prefix."""
    database = _database()
    return {k: database[prefix + k] for k in keys if prefix + k in database}


def has_user_options(prefix: str) -> bool:
    """Whether PETSc's database holds any option that starts with ``prefix``."""
    return any(name.startswith(prefix) for name in _database())


def _database() -> dict[str, str | None]:
    """All options. To ask PETSc for one of them is to use it, and then nobody knows whether anything else has."""
    return dict(PETSc.Options().getAll())


@contextmanager
def inserted(prefix: str, options: Options) -> Iterator[None]:
    """``options`` in PETSc's database for as long as the block runs, under what the user has set there.

    Raises:
        BadInput: for words in the database where PETSc wants a number.
    """
    database, users = PETSc.Options(), _database()
    for name, value in users.items():
        if name.startswith(prefix):
            kinds.check(name.removeprefix(prefix), value, f"-{name}")
    chosen = merged(options, user_options(prefix))
    mine = {prefix + k: v for k, v in chosen.items() if prefix + k not in users}
    for name, own in mine.items():
        database.setValue(name, None if own is True else own)
    try:
        yield
    finally:
        for name in mine:
            if _is_read(name):
                _read.add(name)
            database.delValue(name)


# Names of options of calls that PETSc has read, and of those about which the user has been told that it has not.
_read: set[str] = set()
_told: set[str] = set()


def _is_read(name: str) -> bool:
    """Whether PETSc has read an option of its database."""
    database = PETSc.Options()
    if hasattr(database, "used"):
        return bool(database.used(name))
    # petsc4py has this function since 3.23 only, PETSc has had it for long.
    flag = ctypes.c_int(0)
    ctypes.CDLL(PETSc.__file__).PetscOptionsUsed(None, name.encode(), ctypes.byref(flag))
    return bool(flag.value)


def tell_unread(prefix: str, given: Collection[str], solver: str) -> None:
    """Warn of a call's options that nothing has read, and of misspelled ones of the command line; once of each.

    Called on all ranks, when a solve is over: PETSc reads the last options within it.

    Args:
        prefix: of the solver.
        given: keys of the call.
        solver: what solved, in words.
    """
    users = _database()
    for key in given:
        name = prefix + key
        if name not in _read | _told | users.keys():
            _told.add(name)
            hint = kinds.like(key) or f"; {solver} has no use for it"
            warn(f"options: nothing has read {key!r} of {prefix}{hint}")
    for name in users.keys() - _told:
        # What begins with anything else belongs to derivatives, or to a problem whose name begins with this one's.
        own = name.startswith(prefix) and name.removeprefix(prefix).startswith(_FAMILIES)
        hint = kinds.like(name.removeprefix(prefix)) if own else ""
        if hint and not _is_read(name):
            _told.add(name)
            warn(f"nothing has read the option -{name}{hint.replace('mean ', f'mean -{prefix}')}")


@atexit.register
def _tell_at_the_end() -> None:
    """Warn of options with relax's prefix that nothing has read, where anything was solved at all."""
    if not _read:
        return
    for name in sorted(users := _database()):
        if name.startswith("relax_") and name not in _told and not _is_read(name):
            prefixes = {read[: -len(key)] for read in _read for key in ("ksp_type", "pc_type") if read.endswith(key)}
            names = {prefix + key for prefix in prefixes for key in kinds.NAMES}
            near = None if name in names else closest(name, names - users.keys(), cutoff=0.8)
            warn(f"nothing has read the option -{name}" + (f"; did you mean -{near}?" if near else ""))


@contextmanager
def refused_options(prefix: str) -> Iterator[None]:
    """A block that reads options: what PETSc refuses there is the user's to mend.

    Raises:
        BadInput: naming the prefix and PETSc's complaint.
    """
    try:
        yield
    except PETSc.Error as error:
        raise BadInput(
            f"PETSc refuses an option with prefix {prefix}: {first_line(error)}. Expected types and packages that this "
            "PETSc has (`relax info` lists packages; -help after `--` lists the rest)"
        ) from error


def ksp_reason(reason: int) -> str:
    """What a KSP did that ended with this reason."""
    return _KSP_REASONS.get(reason, f"stopped with PETSc's reason {reason}")


def first_line(error: PETSc.Error) -> str:
    """The last line of PETSc's report, which says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def snes_failure(snes: PETSc.SNES, prefix: str) -> str:
    """What a SNES did that did not converge."""
    reason = int(snes.getConvergedReason())
    words = _SNES_REASONS.get(reason, f"stopped with PETSc's reason {reason}")
    inner = int(snes.getKSP().getConvergedReason())
    if reason == -3 and inner < 0:
        words += f", which {ksp_reason(inner)}"
    # Where the first residual is not finite, SNES has not kept its norm.
    norm = np.nan if reason == -4 else snes.getFunctionNorm()
    return f"Newton's method ({prefix}) {words}: {snes.getIterationNumber()} steps, residual norm {norm:.3e}"


def snes_advice(prefix: str) -> str:
    """What to try where Newton's method fails."""
    return (
        f"Try a better first guess in problem.state, more steps, -{prefix}snes_monitor to see where it stalls, another "
        f"-{prefix}snes_linesearch_type (bt, basic, l2)"
    )
