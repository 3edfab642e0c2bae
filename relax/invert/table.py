"""The optimisers that there are. One more is a file in ``methods`` and a line here; jobs and figures know it then.

Nothing is loaded for a name: a job file is read without a solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relax.base import lazy


@dataclass(frozen=True)
class Optimiser:
    """An optimiser, as jobs name it and figures label it.

    Attributes:
        home: ``module:function``, called as
            ``run(G, data, m0, noise=, prior=, rtol=, atol=, max_steps=, callback=, checkpoint=)``
            -> ``Result``.
        label: its name in words.
        max_steps: at most so many steps, unless one says otherwise.
    """

    home: str
    label: str
    max_steps: int

    @property
    def run(self) -> Any:
        """The function, loaded when it is asked for."""
        return lazy.part(self.home)


#: Prior standard deviations: a run has converged this near the minimum, and goes no nearer than the second.
NEAR, NEAREST = 1e-3, 1e-8


def goal(start_size: float, rtol: float, atol: float | None, unit: float = 1.0) -> float:
    """The size of the gradient at which a run ends, from that at its start; ``unit``: of one prior deviation. Local."""
    return max(rtol * start_size, NEAREST * unit if atol is None else atol)


METHODS: dict[str, Optimiser] = {
    "gauss_newton": Optimiser("relax.invert.methods.gauss_newton:gauss_newton", "Gauss-Newton", 50),
    "lbfgs": Optimiser("relax.invert.methods.lbfgs:lbfgs", "L-BFGS", 500),
}
