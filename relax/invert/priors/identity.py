"""The prior of independent entries: for constants."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import array_like, at_least, one_of, positive
from relax.base.fem.layout import Kind
from relax.base.types import Array
from relax.engine.protocols import Map
from relax.errors import BadInput


class IdentityPrior:
    """N(mean, std² I): the entries of the control vector are independent.

    Meant for constants. Of a field it is white noise in the degrees of freedom: no smoothness, and a meaning that
    changes with the mesh; use ``SmoothnessPrior`` there. Collective, as are all methods.

    Args:
        controls: a map, for all of its controls in its layout; or how many entries the constants have.
        std: standard deviation of each entry, a positive number.
        mean: a number, or a control vector.
        layout: with a number of entries: "replicated", or "owned", where they are rank 0's.
        comm: with a number of entries and layout="owned".

    Raises:
        BadInput: for a std that is not positive, a mean that does not fit, or an unknown layout.
    """

    def __init__(
        self,
        controls: Map | int,
        *,
        std: float,
        mean: float | Array = 0.0,
        layout: Kind = "replicated",
        comm: MPI.Comm = MPI.COMM_SELF,
    ) -> None:
        if isinstance(controls, int | np.integer):
            one_of(layout, ("replicated", "owned"), "layout")
            self.comm = comm
            self.kind: Kind = layout
            at_least(controls, 0, "controls")
            parallel.check_comm(comm)
            self.size = int(controls) if layout == "replicated" or comm.rank == 0 else 0
        else:
            if not hasattr(controls, "layout"):
                raise BadInput(f"controls: expected a map, such as relax.ReducedMap, or a number, got {controls!r:.80}")
            self.comm = controls.comm
            self.kind = controls.layout.kind
            self.size = controls.layout.size
        self.std = positive(std, "std")
        self.mean: Array = vector_of(self.comm, mean, self.size, "mean")

    def _dot(self, a: Array, b: Array) -> float:
        return float(np.dot(a, b)) if self.kind == "replicated" else parallel.dot(self.comm, a, b)

    def cost(self, m: Array) -> float:
        """½ |m − mean|² / std²."""
        d = m - self.mean
        return 0.5 * self._dot(d, d) / self.std**2

    def gradient(self, m: Array) -> Array:
        """(m − mean) / std²."""
        return np.asarray((m - self.mean) / self.std**2)

    def precision(self, v: Array) -> Array:
        """v / std²."""
        return np.asarray(v / self.std**2)

    def covariance(self, v: Array) -> Array:
        """std² v."""
        return v * self.std**2

    def restricted(self, v: Array, free: npt.NDArray[np.bool_]) -> Array:
        """std² v on the free entries, zero elsewhere."""
        return np.where(free, v * self.std**2, 0.0)

    def whiten(self, m: Array) -> Array:
        """(m − mean) / std."""
        return np.asarray((m - self.mean) / self.std)

    def color(self, xi: Array) -> Array:
        """mean + std xi."""
        return self.mean + self.std * xi

    def color_adjoint(self, v: Array) -> Array:
        """std v."""
        return self.std * v

    def sample(self, seed: int) -> Array:
        """A draw from the prior. With layout="owned" and fields it depends on how many ranks there are."""
        key = [seed] if self.kind == "replicated" else [seed, self.comm.rank]
        return self.color(np.random.default_rng(key).standard_normal(self.size))

    def variance(self, *, samples: int | None = None, seed: int = 0) -> Array:
        """std² in each entry, whatever the arguments."""
        return np.full(self.size, self.std**2)

    def close(self) -> None:
        """Nothing to free."""


def vector_of(comm: MPI.Comm, value: float | Array, size: int, what: str) -> Array:
    """A number as a constant vector, a vector checked. Collective."""
    if np.ndim(array_like(value, what)) == 0:
        value = np.full(size, value)
    vector = parallel.checked(comm, value, size, what)
    with parallel.together(comm):
        if vector.ndim != 1:
            raise BadInput(f"{what}: expected one control vector of shape ({size},), got {vector.shape}")
    return vector
