"""The methods that [method] names: what their steps are called in a figure, how many they may take."""

from __future__ import annotations

from typing import NamedTuple


class Method(NamedTuple):
    """Of a function in ``relax.invert``: how its name is written, the steps it takes where [method] says nothing."""

    label: str
    max_steps: int


METHODS = {"gauss_newton": Method("Gauss-Newton", 50), "lbfgs": Method("L-BFGS", 500)}
