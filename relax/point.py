"""Where a problem was solved."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from relax.factors import Key

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Point:
    """Where a problem was solved: local arrays with ghosts, so that going back there needs no communication.

    Attributes:
        key: names its operator, which other points can share.
        here: names the point itself.
        lasting: for each control a name for as long as its ∂F/∂m stays what it is, where that outlasts the point or
            costs next to nothing to renew: then it is kept as a matrix. None otherwise; empty for none at all.
    """

    state: Array
    controls: list[Array]
    parameters: list[Array]
    key: Key
    lasting: tuple[Key | None, ...] = ()
    here: Key = field(default_factory=Key)
