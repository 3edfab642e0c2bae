"""What a closed loop is given: which arguments functions take, losses by step, what the controller sees."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from relax.errors import BadInput
from relax.observe import Observable
from relax.train.closed_loop.one_step import OneStep

Loss: TypeAlias = Callable[..., Tensor]


def positional(function: Callable[..., Any], *, needed: bool = False) -> list[str]:
    """The names of its positional arguments, those that need a value alone where asked for."""
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        arguments = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [a.name for a in arguments if a.kind in kinds and (a.default is a.empty or not needed)]


def takes_time(step: Callable[..., Any]) -> bool:
    """Whether a step is given t: as a third argument that it needs, or that it calls so."""
    return len(positional(step, needed=True)) > 2 or positional(step)[2:3] == ["t"]


def losses_by_step(losses: Any, steps: int) -> Callable[[int], tuple[Loss, bool] | None]:
    """ℓ_t, and whether it looks at the control, for each t; None where there is none."""

    def known(loss: Any, where: str) -> tuple[Loss, bool]:
        if not callable(loss):
            raise BadInput(f"ClosedLoop: losses{where}: expected a function of the state, got {loss!r:.80}")
        return loss, len(positional(loss, needed=True)) > 1

    if not isinstance(losses, Mapping):
        everywhere = known(losses, "")
        return lambda t: everywhere
    for t in losses:
        if isinstance(t, bool) or not isinstance(t, int | np.integer) or not 1 <= t <= steps:
            raise BadInput(f"ClosedLoop: losses: expected steps from 1 to {steps} as keys, got {t!r}")
    if not losses:
        raise BadInput("ClosedLoop: losses: expected at least one")
    table = {int(t): known(loss, f"[{t}]") for t, loss in losses.items()}
    return table.get


def observed(observe: Any, step: Any) -> Callable[[Tensor], Tensor]:
    """What the controller sees of a state, as a function of it."""
    if isinstance(observe, Observable):
        if not isinstance(step, OneStep) or not observe.is_linear:
            raise BadInput(
                "ClosedLoop: observe: expected a linear Observable of the state of a relax.train.one_step, a function "
                "or a matrix"
            )
        observe = step.seen_by(observe)
    if observe is None:
        return lambda s: s
    if callable(observe) and not isinstance(observe, torch.Tensor):
        return observe
    try:
        matrix = torch.as_tensor(observe)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise BadInput(f"ClosedLoop: observe: expected a function or a matrix, got {observe!r:.80}") from cause
    if matrix.ndim != 2:
        raise BadInput(f"ClosedLoop: observe: expected a matrix (p, n), got shape {tuple(matrix.shape)}")

    def seen(s: Tensor) -> Tensor:
        if s.ndim == 0 or s.shape[-1] != matrix.shape[1]:
            raise BadInput(
                f"ClosedLoop: observe: expected a matrix (p, n) for states {tuple(s.shape)}, got {tuple(matrix.shape)}"
            )
        return s @ matrix.to(s).T

    return seen
