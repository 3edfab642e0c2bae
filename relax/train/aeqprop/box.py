"""Bounds of parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import as_number
from relax.base.fem.coefficients import interpolated
from relax.base.fem.forms import num_owned
from relax.base.types import Array
from relax.errors import BadInput
from relax.train.aeqprop.energy import Energy

_EXPECTED = "Aeqprop: bounds: expected (lower, upper) for all parameters, or {parameter: (lower, upper)}"


def box_of(energy: Energy, bounds: Any) -> tuple[Array, Array]:
    """Least and largest values of all parameters, one after the other: owned values. Collective.

    Args:
        energy: its parameters.
        bounds: (lower, upper), or {parameter: (lower, upper)}; None for none. Either is a number, a Function, a
            function of x or a UFL expression, or None.

    Raises:
        BadInput: for others, for a lower bound above the upper one, or for none between them.
    """
    given = bounds if isinstance(bounds, Mapping) else dict.fromkeys(energy.parameters, bounds)
    if any(not any(theta is p for p in energy.parameters) for theta in given):
        raise BadInput(f"{_EXPECTED}, got one for what is no parameter of the energy")
    lows, highs = [], []
    for theta in energy.parameters:
        pair = given.get(theta)
        if pair is None:
            pair = (None, None)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise BadInput(f"{_EXPECTED}, got {pair!r:.80}")
        lows.append(_side(theta, pair[0], -np.inf))
        highs.append(_side(theta, pair[1], np.inf))
    low, high = np.concatenate(lows), np.concatenate(highs)
    comm = energy.state.function_space.mesh.comm
    if parallel.any_rank(comm, not (low < high).all()):
        raise BadInput("Aeqprop: bounds: expected each lower bound below the upper one, which is not so everywhere")
    return low, high


def _side(theta: fem.Function, bound: Any, nothing: float) -> Array:
    Q = theta.function_space
    if bound is None or as_number(bound) == nothing:
        return np.full(num_owned(Q), nothing)
    return interpolated(bound, Q).x.array[: num_owned(Q)]
