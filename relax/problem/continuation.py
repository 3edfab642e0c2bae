"""A path from an easy equation to the one that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dolfinx import fem

from relax.errors import BadProblem


@dataclass(frozen=True, eq=False)
class Continuation:
    """Values of a number in the residual to pass through where Newton's method fails from its first guess.

    The path is geometric, from ``easy`` to what the Constant holds when a solve begins; each solution is the first
    guess of the next, and a stage that fails is cut in two.

    Args:
        constant: a scalar Constant above 0 in the residual that is no control.
        easy: a value above 0 with which Newton's method converges from the first guess.

    Raises:
        BadProblem: when these are not.
    """

    constant: fem.Constant
    easy: float

    def __post_init__(self) -> None:
        if not isinstance(self.constant, fem.Constant) or self.constant.ufl_shape:
            raise BadProblem(f"continuation: expected a scalar Constant, got {self.constant!r}")
        if not (np.isfinite(self.easy) and self.easy > 0.0):
            raise BadProblem(f"continuation: expected an easy value above 0, got {self.easy!r}")
