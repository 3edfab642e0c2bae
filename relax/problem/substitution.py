"""A change of unknown, node by node: steps that are solved in one unknown and seen in another."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mpi4py import MPI

from relax.base.types import Array


class Substitution(ABC):
    """u = T(w) at every node of a Lagrange space, where the steps of an evolution are equations for w.

    What a user gives and sees (the initial state, observables, trajectories, derivatives) is u. The methods work on
    local arrays of nodal values and do not communicate, but ``check``.
    """

    @abstractmethod
    def state(self, w: Array) -> Array:
        """u = T(w)."""

    @abstractmethod
    def state_slope(self, w: Array) -> Array:
        """T'(w)."""

    @abstractmethod
    def state_curvature(self, w: Array) -> Array:
        """T''(w)."""

    @abstractmethod
    def unknown(self, u: Array) -> Array:
        """w with T(w) = u."""

    @abstractmethod
    def unknown_slope(self, u: Array) -> Array:
        """dw/du."""

    @abstractmethod
    def unknown_curvature(self, u: Array) -> Array:
        """d²w/du²."""

    @abstractmethod
    def check(self, comm: MPI.Comm, w: Array, place: str) -> None:
        """Refuse an unknown from which u cannot be had.

        Collective.

        Args:
            comm: the ranks of the mesh.
            w: local values.
            place: where they are, in words.

        Raises:
            SolveFailed: on every rank, saying what to do instead.
        """
