"""What the Hamilton–Jacobi equations are given, checked."""

from __future__ import annotations

import numpy as np
from dolfinx import fem
from dolfinx.mesh import Mesh

from relax.errors import BadInput


def check_number(equation: str, name: str, value: object, *, zero: bool = False) -> float:
    """A finite number above 0, or of at least 0. Local.

    Raises:
        BadInput: otherwise.
    """
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    number = float(value) if is_number else float("nan")  # type: ignore[arg-type]
    if not np.isfinite(number) or number < 0.0 or (number == 0.0 and not zero):
        least = "of at least 0" if zero else "above 0"
        raise BadInput(f"{equation}: {name}: expected a finite number {least}, got {value!r}")
    return number


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
    return check_number(equation, "beta", beta)


def check_stabilisation(equation: str, stabilisation: object) -> None:
    """True, False or "auto". Local.

    Raises:
        BadInput: otherwise.
    """
    if not isinstance(stabilisation, bool | np.bool_) and stabilisation != "auto":
        raise BadInput(f"{equation}: stabilisation: expected True, False or 'auto', got {stabilisation!r}")


def lagrange(equation: str, mesh: Mesh, degree: object) -> fem.FunctionSpace:
    """The scalar Lagrange space of this degree. Collective.

    Raises:
        BadInput: unless the degree is a whole number of at least 1.
    """
    if isinstance(degree, bool) or not isinstance(degree, int | np.integer) or degree < 1:
        raise BadInput(f"{equation}: degree: expected a whole number of at least 1, got {degree!r}")
    return fem.functionspace(mesh, ("Lagrange", int(degree)))
