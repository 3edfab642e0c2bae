"""Where a problem was solved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relax.factors import Key

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Point:
    """Where a problem was solved: local arrays with ghosts, so that going back there needs no communication."""

    state: Array
    controls: list[Array]
    parameters: list[Array]
    key: Key
