"""What the Hamilton–Jacobi equations are given, checked."""

from __future__ import annotations

import numpy as np

from relax.base.checks import positive
from relax.errors import BadInput


def check_beta(equation: str, beta: object) -> float:
    """A finite inverse temperature above 0. Local.

    Raises:
        BadInput: otherwise.
    """
    if isinstance(beta, float | np.floating) and np.isposinf(beta):
        raise BadInput(
            f"{equation}: beta: expected a finite number above 0, got {beta!r}; any large number will do, and "
            "relax.relaxation.hopf_lax is the limit"
        )
    return positive(beta, f"{equation}: beta")


def check_stabilisation(equation: str, stabilisation: object) -> None:
    """True, False or "auto". Local.

    Raises:
        BadInput: otherwise.
    """
    if not isinstance(stabilisation, bool | np.bool_) and stabilisation != "auto":
        raise BadInput(f"{equation}: stabilisation: expected True, False or 'auto', got {stabilisation!r}")
