"""Control vectors of one field, as a prior works with them: each rank's own values, a vector a row."""

from __future__ import annotations

import numpy as np
from dolfinx import fem
from mpi4py import MPI

from relax.base.checks import of_kind
from relax.base.fem.coefficients import Coefficient, interpolated
from relax.base.fem.forms import num_owned
from relax.base.fem.layout import Kind, SpaceLayout, as_rows, control_layout
from relax.base.types import Array
from relax.invert.priors.identity import vector_of


class FieldVectors:
    """Vectors of one field in one layout, and white noise in it. Collective to make, and all methods but ``local``.

    Args:
        V: the space of the control.
        layout: "replicated" or "owned".

    Attributes:
        space, comm, kind: V, its ranks, the layout.
        size: the length of the vectors that this rank hands over.
        num_owned: degrees of freedom that this rank owns.

    Raises:
        BadInput: for what is no space, and an unknown layout.
    """

    def __init__(self, V: fem.FunctionSpace, layout: Kind) -> None:
        of_kind(V, fem.FunctionSpace, "the function space of a control", "V")
        self.space = V
        self.comm: MPI.Comm = V.mesh.comm
        self._layout = control_layout(layout, self.comm, [fem.Function(V)])
        self._numbering = SpaceLayout(V)
        self.kind: Kind = self._layout.kind
        self.size = self._layout.size
        self.num_owned = num_owned(V)

    def checked(self, vectors: Array, what: str) -> Array:
        """Control vectors (..., size): finite, of this length, the same on every rank where each holds all."""
        return self._layout.checked(vectors, what)

    def own(self, vectors: Array, *, dual: bool = False) -> Array:
        """Checked vectors (..., size) as this rank's values (k, owned); ``dual`` of derivatives in values."""
        rows = as_rows(vectors)
        if self.kind == "owned":
            return rows.copy()
        return np.ascontiguousarray(self._numbering.spread(rows, dual=dual)[:, : self.num_owned])

    def rows(self, vectors: Array, what: str, origin: Array | float = 0.0, *, dual: bool = False) -> Array:
        """Control vectors (..., size), less ``origin``, as this rank's values (k, owned)."""
        return self.own(self.checked(vectors, what) - origin, dual=dual)

    def join(self, owned: Array, like: Array, *, dual: bool = False) -> Array:
        """This rank's values (k, owned) as vectors of the shape of ``like``, (..., size)."""
        rows = owned if self.kind == "owned" else self._numbering.gather(owned, dual=dual)
        return np.asarray(rows.reshape(*np.shape(like)[:-1], self.size))

    def vector(self, value: Coefficient, what: str) -> Array:
        """A control vector: checked, or of a number, a function of x or an expression."""
        if isinstance(value, np.ndarray) and value.ndim == 1:
            return vector_of(self.comm, value, self.size, what)
        field = interpolated(value, self.space).x.array[: self.num_owned]
        return self.checked(self.join(field[None], np.empty(self.size)), what)

    def noise(self, seed: int | list[int]) -> Array:
        """Independent standard normal entries: the same field on any number of ranks, in either layout.

        So each rank draws the noise of all degrees of freedom (8 bytes each) and, with layout="owned", keeps its part;
        the first such draw also gathers the coordinates of all nodes, about 100 bytes each, once.
        """
        noise = np.random.default_rng(seed).standard_normal(self._numbering.size)
        return self._numbering.spread(noise)[: self.num_owned] if self.kind == "owned" else noise
