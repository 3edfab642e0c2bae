"""The settings of HalfInverse, and which of them make sense."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from relax.base.types import Array
from relax.errors import BadInput

METHODS = ("auto", "gram", "svd", "krylov")
# Settings that are of the optimiser, not of its groups.
OWN = (
    "method",
    "batch_invariant",
    "sub_batches",
    "keep_factor",
    "krylov_steps",
    "krylov_tolerance",
    "measure",
)


# Settings of groups that are the same in all of them: they share one Jacobian.
_SHARED = ("power", "rcond", "damping", "cap")


def check_own(settings: dict[str, Any]) -> None:
    """Raise ``BadInput`` for settings of the optimiser that make no sense, by themselves or together."""
    method, blocks, tolerance = settings["method"], settings["sub_batches"], settings["krylov_tolerance"]
    if method not in METHODS:
        raise BadInput(f"HalfInverse: expected one of {', '.join(METHODS)} as method, got {method!r}")
    for name in ("sub_batches", "keep_factor", "krylov_steps"):
        value = settings[name]
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1
        if not whole and not (name != "keep_factor" and value is None):
            raise BadInput(f"HalfInverse: expected a whole number >= 1 as {name}, got {value!r}")
    if not isinstance(tolerance, float | int | np.floating) or not 0.0 <= tolerance < 1.0:
        raise BadInput(f"HalfInverse: expected a number in [0, 1) as krylov_tolerance, got {tolerance!r}")
    if settings["keep_factor"] > 1 and blocks is not None:
        raise BadInput("HalfInverse: expected keep_factor=1 with sub_batches, whose factors are not kept")
    if method in ("svd", "krylov") and (blocks is not None or settings["keep_factor"] > 1):
        raise BadInput(f"HalfInverse: sub_batches and keep_factor are of method='gram', got method={method!r}")


def listed(params: Any) -> Any:
    """Parameters, or groups of them, as a list; a tensor is left to torch, which refuses it in words."""
    if isinstance(params, torch.Tensor):
        return params
    found = list(params)
    if not found:
        raise BadInput("HalfInverse: expected parameters, got an empty list")
    return found


def check_groups(groups: Sequence[dict[str, Any]]) -> None:
    """Raise ``BadInput`` for settings of groups that are out of their range, or differ and must not."""
    for group in groups:
        _check_of_group(group)
        for key in _SHARED:
            if group[key] != groups[0][key]:
                raise BadInput(f"HalfInverse: expected one {key} for all groups, which share one Jacobian")


def check_tensors(params: Iterable[torch.Tensor]) -> None:
    """Raise ``BadInput`` for parameters that are not real numbers."""
    for p in params:
        if p.is_complex() or not p.is_floating_point():
            raise BadInput(f"HalfInverse: expected real parameters, got {p.dtype}; torch.view_as_real gives them")


def _check_of_group(settings: dict[str, Any]) -> None:
    longest = sys.float_info.max if settings["cap"] is None else math.inf
    rules: Sequence[tuple[str, Callable[[float], bool], str]] = (
        ("lr", lambda v: 0.0 <= v <= longest, "a finite number >= 0 (or inf with a cap)"),
        ("power", lambda v: -1.0 <= v <= 1.0, "a number from -1 to 1"),
        ("rcond", lambda v: 0.0 <= v < 1.0, "a number in [0, 1)"),
        ("damping", lambda v: 0.0 <= v < math.inf, "a finite number >= 0"),
        ("cap", lambda v: 0.0 < v < math.inf, "a finite number > 0, or None"),
    )
    for key, holds, words in rules:
        value = settings[key]
        if key == "cap" and value is None:
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not holds(number):
            raise BadInput(f"HalfInverse: expected {words} as {key}, got {value!r}")


@dataclass(frozen=True)
class StepReport:
    """What one step of :class:`relax.HalfInverse` did. Dimensionless but for losses.

    Attributes:
        loss: before the step, of all teams.
        predicted: by how much it should fall to first order: lr gᵀ J d. A step that meets the target of a quadratic
            loss exactly realises half of it.
        actual: by how much it fell on the same batch; None unless ``measure=True``.
        lr: of the first group, as used: below its setting where ``cap`` says so.
        singular_values: of the Jacobian, falling; of ``krylov`` those that it has found.
        kept: how many of them took part.
        method: "gram", "svd" or "krylov".
        iterations: of ``krylov``; else 0.
        by_layers: whether the Jacobian was found by layers, not by a sweep for each row. Always so for ``krylov``.
    """

    loss: float
    predicted: float
    actual: float | None
    lr: float
    singular_values: Array
    kept: int
    method: str
    iterations: int
    by_layers: bool
