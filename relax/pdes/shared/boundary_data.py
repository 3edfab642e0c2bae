"""Data that several equations take: boundary values and fluxes by tag, coefficients above zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import ufl
from dolfinx import fem
from ufl.core.expr import Expr

from relax import meshes
from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.fem.coefficients import Coefficient, as_coefficient
from relax.errors import BadInput
from relax.meshes import Tag
from relax.problem.boundary import clamp, clamp_boundary

BoundaryData: TypeAlias = Mapping[Tag, Coefficient]


def conditions(
    equation: str,
    V: fem.FunctionSpace,
    dirichlet: BoundaryData | None,
    neumann: BoundaryData | None = None,
    *,
    may_float: bool = False,
) -> list[fem.DirichletBC]:
    """u = g on the tagged parts, and u = 0 on the whole boundary where nothing is said.

    Collective.

    Args:
        equation: its name, for the messages.
        V: the space of u.
        dirichlet: tag -> g; None for the whole boundary at 0.
        neumann: tag -> flux, to be told apart from those.
        may_float: whether the equation has one solution without any clamped part, ``dirichlet={}``.

    Raises:
        BadInput: when the parts do not fit together, or as :func:`relax.clamp`.
    """
    if dirichlet is None:
        if neumann:
            raise BadInput(
                f"{equation}: got neumann= without dirichlet=, which alone clamps the whole boundary to 0; "
                "name the clamped part, such as dirichlet={'left': 0.0}"
                + (", or say dirichlet={} for none" if may_float else "")
            )
        return [clamp_boundary(V)]
    if dirichlet == {} and not may_float:
        raise BadInput(
            f"{equation}: expected a clamped part, got dirichlet={{}}: u would be known up to a constant only"
        )
    for what, data in (("dirichlet", dirichlet), ("neumann", neumann or {})):
        of_kind(data, Mapping, "a table of tag -> value, such as {'left': 0.0}", f"{equation}: {what}")
    both = set(dirichlet) & set(neumann or {})
    if both:
        raise BadInput(f"{equation}: {sorted(map(str, both))} are in dirichlet= and in neumann=; expected one of them")
    return [clamp(V, tag, value) for tag, value in dirichlet.items()]


def minus_fluxes(residual: ufl.Form, V: fem.FunctionSpace, v: ufl.Argument, neumann: BoundaryData | None) -> ufl.Form:
    """The residual less (q, v) on each tagged part, tag -> q. Collective."""
    for tag, q in (neumann or {}).items():
        residual -= as_coefficient(q, V) * v * meshes.ds(V.mesh, tag)
    return residual


def check_positive(what: str, k: Expr, V: fem.FunctionSpace) -> None:
    """Refuse a coefficient known to be zero or less somewhere; a UFL expression is taken on trust.

    Collective.

    Args:
        what: the equation and the coefficient, such as "poisson.source: expected a conductivity".
        k: the coefficient.
        V: a space on its mesh.

    Raises:
        BadInput: with the least value.
    """
    if isinstance(k, fem.Function):
        values = k.x.array
    elif isinstance(k, fem.Constant):
        values = np.asarray(k.value)
    else:
        return
    least = -parallel.largest(V.mesh.comm, float(np.max(-values, initial=-np.inf)))
    if not least > 0.0:
        raise BadInput(f"{what} above 0 everywhere, got {least:g} at the least")
