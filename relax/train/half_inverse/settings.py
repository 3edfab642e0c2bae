"""The settings of HalfInverse, and which of them make sense."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from relax.base.checks import ABOVE_0, AT_LEAST_0, FRACTION, Rule, at_least, number_in, one_of
from relax.base.types import Array
from relax.errors import BadInput

METHODS = ("auto", "gram", "svd", "krylov")
# Settings that are of the optimiser, not of its groups.
OWN = ("method", "batch_invariant", "sub_batches", "keep_factor", "krylov_steps", "krylov_tolerance", "measure")
# Settings of groups that are the same in all of them: they share one Jacobian.
_SHARED = ("power", "rcond", "damping", "cap")


def check_own(settings: dict[str, Any]) -> None:
    """Raise ``BadInput`` for settings of the optimiser that make no sense, by themselves or together."""
    method, blocks = settings["method"], settings["sub_batches"]
    one_of(method, METHODS, "HalfInverse: method")
    for name in ("sub_batches", "keep_factor", "krylov_steps"):
        if settings[name] is not None or name == "keep_factor":
            at_least(settings[name], 1, f"HalfInverse: {name}")
    number_in(settings["krylov_tolerance"], FRACTION, "HalfInverse: krylov_tolerance")
    if settings["keep_factor"] > 1 and blocks is not None:
        raise BadInput("HalfInverse: expected keep_factor=1 with sub_batches, whose factors are not kept")
    if method in ("svd", "krylov") and (blocks is not None or settings["keep_factor"] > 1):
        raise BadInput(f"HalfInverse: sub_batches and keep_factor are of method='gram', got method={method!r}")


def listed(params: Any) -> Any:
    """Parameters, or groups of them, as a list; a tensor is left to torch, which refuses it in words."""
    if isinstance(params, torch.Tensor):
        return params
    if not isinstance(params, Iterable):
        hint = "; .parameters() are its" if isinstance(params, torch.nn.Module) else ""
        raise BadInput(f"HalfInverse: expected parameters, got {type(params).__name__}{hint}")
    given = list(params)
    if not given:
        raise BadInput("HalfInverse: expected parameters, got an empty list")
    return given


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
    rules: dict[str, Rule] = {
        "lr": (lambda v: 0.0 <= v <= longest, f"{AT_LEAST_0[1]} (or inf with a cap)"),
        "power": (lambda v: -1.0 <= v <= 1.0, "a number from -1 to 1"),
        "rcond": FRACTION,
        "damping": AT_LEAST_0,
        "cap": (ABOVE_0[0], f"{ABOVE_0[1]}, or None"),
    }
    for key, rule in rules.items():
        if settings[key] is not None or key != "cap":
            number_in(settings[key], rule, f"HalfInverse: {key}")


@dataclass(frozen=True)
class StepReport:
    """An account of one step of :class:`relax.HalfInverse`. Dimensionless but for losses.

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
