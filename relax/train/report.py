"""What a step of an optimiser reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


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
