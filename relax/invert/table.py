"""The optimisers that there are. One more is a file in ``methods`` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from relax.invert.methods.gauss_newton import gauss_newton
from relax.invert.methods.lbfgs import lbfgs
from relax.invert.result import Result


@dataclass(frozen=True)
class Optimiser:
    """An optimiser, as jobs name it and figures label it.

    Attributes:
        run: called as ``run(G, data, m0, noise=, prior=, rtol=, atol=, max_steps=, callback=)``.
        label: its name in words.
    """

    run: Callable[..., Result]
    label: str


METHODS: dict[str, Optimiser] = {
    "gauss_newton": Optimiser(gauss_newton, "Gauss-Newton"),
    "lbfgs": Optimiser(lbfgs, "L-BFGS"),
}
