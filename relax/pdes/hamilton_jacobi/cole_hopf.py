"""The substitution of Cole and Hopf, by which the equation becomes linear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.types import Array
from relax.errors import SolveFailed
from relax.problem.substitution import Substitution

# Solves are exact to rounding in the norm of phi: where phi is this much smaller than elsewhere, log phi would keep
# fewer than some five digits.
SMALLEST = np.finfo(np.float64).eps / 1e-5


@dataclass(frozen=True)
class ColeHopf(Substitution):
    """phi = exp(-beta (u - shift)) at every node, u = shift - log(phi) / beta.

    u_t = -½ |grad u|² - b · grad u + (1/(2 beta)) Lap u becomes phi_t = -b · grad phi + (1/(2 beta)) Lap phi.

    Args:
        beta: the inverse temperature.
        shift: a number of the size of the least u, so that phi neither overflows nor vanishes.
    """

    beta: float
    shift: float

    def state(self, w: Array) -> Array:
        """u. Not a number where phi is not above 0, which ``check`` refuses."""
        return self.shift - np.log(w) / self.beta

    def state_slope(self, w: Array) -> Array:
        """du/dphi."""
        return np.asarray(-1.0 / (self.beta * w), dtype=np.float64)

    def state_curvature(self, w: Array) -> Array:
        """d²u/dphi²."""
        return np.asarray(1.0 / (self.beta * w**2), dtype=np.float64)

    def unknown(self, u: Array) -> Array:
        """phi."""
        with np.errstate(over="ignore", under="ignore"):
            phi: Array = np.exp(-self.beta * (u - self.shift))
        return phi

    def unknown_slope(self, u: Array) -> Array:
        """dphi/du."""
        return -self.beta * self.unknown(u)

    def unknown_curvature(self, u: Array) -> Array:
        """d²phi/du²."""
        return self.beta**2 * self.unknown(u)

    def check(self, comm: MPI.Comm, w: Array, place: str) -> None:
        """phi is finite, above 0, and nowhere so small beside its largest value that its logarithm means nothing.

        Collective.

        Raises:
            SolveFailed: on every rank.
        """
        with np.errstate(invalid="ignore"):
            ends = np.array([np.min(w, initial=np.inf), np.min(-w, initial=np.inf)])
        least, largest = parallel.smallest(comm, np.where(np.isnan(ends), -np.inf, ends)) * (1.0, -1.0)
        if least > SMALLEST * largest and np.isfinite(largest):
            return
        if not np.isfinite(largest):
            what = "overflows: f has moved far from the values that the evolution was made with"
        elif least <= 0.0:
            what = f"is not positive ({least:.1e} at the least): h beta |grad u| is too large for this mesh"
        else:
            what = f"ranges over {largest / least:.0e}, and its logarithm would lose its digits"
        raise SolveFailed(
            f"{place}: phi = exp(-beta (u - {self.shift:.3g})) {what}. Use route='direct', or a finer mesh"
        )
