"""What only settles: a network of resistors, a device, a program."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import array_like
from relax.base.types import Array
from relax.errors import BadInput, SolveFailed

# Steering ends where the parameter is where it is wanted, relative to its size.
STEERED, MOST_STEERING = 1e-11, 500
# What is noise: a gap is that of two measurements, √2 of the noise in one, and by chance somewhat more.
_BY_CHANCE = 2.0
NOT_STEERED = f"Aeqprop: the parameters were not steered back in {MOST_STEERING} settlings; try a smaller rate"


@runtime_checkable
class Settles(Protocol):
    """Anything that can be settled: a network of resistors, a device, a program.

    One that several ranks settle together has their communicator as an attribute ``comm``; parameters must then be the
    same on all of them: what one rank has measured it tells the others. One without settles on each rank by itself.
    """

    def settle(self, u: Array, theta: Array, x: Any, y: Any, beta: float) -> tuple[Array, Array]:
        """Parameters and state at rest under knobs u and nudging beta, from parameters theta."""


class Device:
    """A black box, and the parameters that it has been given.

    Args:
        system: what settles.
        theta: where its parameters begin.
        noise: the standard deviation with which it returns each of them.
    """

    def __init__(self, system: Settles, theta: Any, noise: float) -> None:
        self._system, self._noise = system, noise
        self._comm: MPI.Comm = getattr(system, "comm", MPI.COMM_SELF)
        parallel.check_comm(self._comm)
        theta = np.atleast_1d(array_like(theta, "Aeqprop: theta"))
        self.theta = parallel.checked_on_all(self._comm, theta, theta.shape[-1], "Aeqprop: theta")

    def step(self, x: Any, y: Any, low: float, high: float) -> tuple[float, int]:
        """Learn from one sample; the change of the parameters, and how often it was settled to hold them.

        Raises:
            SolveFailed: when they cannot be held.
            BadInput: for parameters of another shape, that are not finite, or not the same on all ranks.
        """
        theta = self.theta
        knobs, size = theta.copy(), max(float(np.linalg.norm(theta)), 1.0)
        enough = max(STEERED * size, _BY_CHANCE * self._noise * np.sqrt(theta.size))
        short = np.inf
        for steps in range(1, MOST_STEERING + 1):
            gap = theta - self._settled(knobs, x, y, low)
            knobs = knobs + gap
            short = float(np.linalg.norm(gap))
            if short <= enough:
                self.theta = self._settled(knobs, x, y, high)
                return float(np.linalg.norm(self.theta - theta)), steps
        raise SolveFailed(
            f"{NOT_STEERED}; the last time they were short by {short:.1e}: where they are measured, say with what noise"
        )

    def _settled(self, knobs: Array, x: Any, y: Any, beta: float) -> Array:
        found: Any = None
        with parallel.together(self._comm):
            found = self._system.settle(knobs.copy(), self.theta.copy(), x, y, beta)
            if not isinstance(found, tuple | list) or len(found) != 2:
                raise BadInput(f"Aeqprop: settle: expected (theta, state), got {found!r:.80}")
            if np.shape(found[0]) != self.theta.shape:
                shape = self.theta.shape
                raise BadInput(f"Aeqprop: settle: expected parameters of shape {shape}, got {np.shape(found[0])}")
        theta, last = found[0], self.theta.shape[-1]
        return parallel.checked_on_all(self._comm, theta, last, "Aeqprop: parameters that settle gave")
