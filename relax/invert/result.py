"""The outcome of an optimiser: the control, why it stopped, what it cost, how it went."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from relax.base.types import Array
from relax.errors import NotConverged


class Status(Enum):
    """Why an optimiser stopped, as a sentence."""

    converged = "converged: the gradient norm fell below atol"
    relative = "stopped: the gradient norm fell by rtol, and is above atol"
    small_step = "stopped: the step was too small to change the control, with the gradient above its tolerance"
    max_steps = "stopped after max_steps without reaching rtol"
    line_search_failed = "stopped: no step along the search direction lowered the cost"
    stopped_by_callback = "stopped because the callback asked for it"
    not_feasible = "stopped: a constraint does not hold"


_ADVICE = {
    Status.relative: "the start was far away: go on with a smaller rtol, or from result.value as m0",
    Status.small_step: "rtol may be below what the accuracy of the forward solves allows",
    Status.max_steps: "allow more steps, or start closer",
    Status.line_search_failed: (
        "check the derivatives with relax.check_map(G), and that the forward solves are more accurate than rtol asks"
    ),
    Status.stopped_by_callback: "continue from result.value as m0",
    Status.not_feasible: "see that some control within the bounds meets the constraints, or start nearer to one",
}


@dataclass(frozen=True)
class Stats:
    """The cost of a run, as the map itself counts (``G.counts``), so with what a callback made it solve.

    Attributes:
        forward: forward solves, those of rejected trial steps included unless they failed.
        tangent: linearised solves, one for each direction (right-hand side), however many share a factor.
        adjoint: adjoint solves, of second order too, counted likewise.
        cg: iterations of conjugate gradients.
        outer: steps taken.
        seconds: wall time of this rank.
    """

    forward: int
    tangent: int
    adjoint: int
    cg: int
    outer: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """The outcome of an optimiser.

    Not converging is an outcome, not an exception: look at ``status``, or call ``raise_if_failed``.

    Attributes:
        value: the control with the lowest cost reached, in the layout of the map.
        status: why the optimiser stopped; ``status.value`` is a sentence.
        stats: what it cost.
        history: one entry per step taken, and entry 0 for the start. Keys: ``step``, ``cost`` = ``misfit`` +
            ``prior_cost`` (with constraints plus what they add in their round), ``misfit`` (½ Σ ((y − d)/σ)²),
            ``misfit_in_noise_levels`` (√ of the mean of ((y − d)/σ)²,
            about 1 when the data are fitted as well as their noise allows), ``gradient_norm`` (√(gᵀ C g)),
            ``step_length``, ``cg_iterations`` (of this step), ``forward``, ``tangent``, ``adjoint`` (so far),
            ``seconds`` (so far).
    """

    value: Array
    status: Status
    stats: Stats
    history: list[dict[str, Any]]

    @property
    def converged(self) -> bool:
        """Whether the gradient fell below ``atol``: how far, about, the minimum is, in prior standard deviations."""
        return self.status is Status.converged

    def raise_if_failed(self) -> Result:
        """This result, when it converged.

        Raises:
            NotConverged: on every rank, when it did not.
        """
        if not self.converged:
            first, last = self.history[0]["gradient_norm"], self.history[-1]["gradient_norm"]
            levels = self.history[-1]["misfit_in_noise_levels"]
            misfit = "" if math.isnan(levels) else f", misfit {levels:.3g} noise levels"
            raise NotConverged(
                f"{self.status.value}: {self.stats.outer} steps, gradient norm {last:.3e} (at the start {first:.3e})"
                f"{misfit}. Try: {_ADVICE[self.status]}"
            )
        return self
