"""The methods that [method] names: what their steps are called in a figure, how many they may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A method of optimisation, the function of its name in ``relax.invert``.

    Attributes:
        label: as it is written.
        max_steps: that it takes at most, where [method] does not say.
    """

    label: str
    max_steps: int


METHODS = {"gauss_newton": Method("Gauss-Newton", 50), "lbfgs": Method("L-BFGS", 500)}
