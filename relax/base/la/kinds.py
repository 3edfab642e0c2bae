"""What PETSc's options are called, and what kind of value each takes: of those that are written often."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

from relax.base.checks import closest
from relax.errors import BadInput

_NUMBERS = """
ksp_rtol ksp_atol ksp_divtol ksp_richardson_scale pc_factor_shift_amount pc_factor_zeropivot pc_factor_fill pc_sor_omega
pc_gamg_threshold_scale pc_hypre_boomeramg_strong_threshold pc_hypre_boomeramg_tol pc_hypre_boomeramg_truncfactor
snes_rtol snes_atol snes_stol snes_divergence_tolerance snes_linesearch_damping snes_linesearch_maxstep
snes_linesearch_minlambda eps_tol
""".split()
_WHOLE_NUMBERS = """
ksp_max_it ksp_min_it ksp_gmres_restart pc_factor_levels pc_asm_overlap pc_mg_levels pc_gamg_agg_nsmooths
pc_gamg_coarse_eq_limit pc_sor_its pc_hypre_boomeramg_max_iter pc_hypre_boomeramg_max_levels snes_max_it snes_max_funcs
snes_max_fail snes_lag_jacobian snes_lag_preconditioner snes_linesearch_order snes_linesearch_max_it eps_max_it eps_ncv
eps_mpd
""".split()
_WORDS_AND_SWITCHES = """
ksp_type ksp_norm_type ksp_pc_side ksp_monitor ksp_monitor_true_residual ksp_view ksp_converged_reason
ksp_error_if_not_converged ksp_initial_guess_nonzero ksp_reuse_preconditioner pc_type pc_factor_mat_solver_type
pc_factor_mat_ordering_type pc_factor_shift_type pc_factor_reuse_ordering pc_asm_type pc_mg_cycle_type pc_mg_type
pc_gamg_type pc_gamg_threshold pc_hypre_type pc_hypre_boomeramg_coarsen_type pc_hypre_boomeramg_interp_type
pc_hypre_boomeramg_relax_type_all pc_fieldsplit_type pc_fieldsplit_schur_fact_type pc_fieldsplit_schur_precondition
snes_type snes_linesearch_type snes_linesearch_monitor snes_monitor snes_view snes_converged_reason
snes_error_if_not_converged eps_type eps_monitor eps_view st_type
""".split()
_MUMPS = re.compile(r"mat_mumps_(i?)cntl_\d+")
# What PETSc takes for a number besides numbers.
_ALSO_NUMBERS = re.compile(r"(petsc_)?(default|decide|determine|unlimited|current|curr)", re.IGNORECASE)

NAMES = (*_NUMBERS, *_WHOLE_NUMBERS, *_WORDS_AND_SWITCHES)


def is_known(key: str) -> bool:
    """Whether an option without its prefix is one of those that are listed here."""
    return key in NAMES or _MUMPS.fullmatch(key) is not None


def like(key: str) -> str:
    """``"; did you mean ksp_type?"`` for a key that is nearly one that is listed here; else nothing."""
    near = None if is_known(key) else closest(key, NAMES, cutoff=0.8)
    return f"; did you mean {near}?" if near else ""


def check(key: str, value: Any, name: str) -> None:
    """Refuse what is not of an option's kind. PETSc does so for what it reads, and a direct solver reads no tolerance.

    Args:
        key: without a prefix.
        value: of the call, or as it stands in PETSc's database.
        name: of the option, for the message.

    Raises:
        BadInput: where a number was expected and is not there.
    """
    mumps = _MUMPS.fullmatch(key)
    whole = key in _WHOLE_NUMBERS or (mumps is not None and mumps[1] == "i")
    if not whole and key not in _NUMBERS and mumps is None:
        return
    if isinstance(value, str):
        good = _ALSO_NUMBERS.fullmatch(value) is not None or _is_number(value, int if whole else float)
    else:
        kind = numbers.Integral if whole else numbers.Real
        good = isinstance(value, kind) and not isinstance(value, bool) and not math.isnan(value)
    if not good:
        raise BadInput(f"options: {name}: expected a {'whole ' * whole}number, got {value!r}")


def _is_number(text: str, kind: type[int] | type[float]) -> bool:
    try:
        return "_" not in text and not math.isnan(kind(text))
    except ValueError:
        return False
