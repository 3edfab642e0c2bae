"""A field that is linear in numbers: what a form sees is a Function, what a map differentiates by are the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import array_like
from relax.base.fem.forms import Control, num_owned, present
from relax.base.fem.pointwise import PointLaw
from relax.base.types import Array
from relax.errors import BadInput

# The numbers are read off the field: they give it back but for rounding.
_SAME = 1e-10


class Expansion(fem.Function):
    """f = Σ_i s_i φ_i in V, with sparse φ_i; the control is s, ``size`` numbers, in either layout.

    To a form, and to all that is derived from it, f is a Function as any other, and one form serves any number of s_i.
    Control vectors hold s: a variation ds is that of Σ ds_i φ_i, and a gradient in f becomes φ_iᵀ of it, summed over
    the ranks. Local to make.

    Args:
        V: the space of f.
        basis: degrees of freedom of the φ_i, owned and ghost, as columns: (num_local, size), sparse.
        inverse: reads s off f, by sums over the ranks: (size, num_owned), sparse.
        name: of the Function.
        what: what s is, in words, for messages.

    Attributes:
        size: how many numbers.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Expansion:
        return object.__new__(cls)  # UFL's own looks at positional arguments

    def __init__(self, V: fem.FunctionSpace, basis: Any, inverse: Any, name: str, what: str) -> None:
        super().__init__(V, name=name)
        self._basis = basis.tocsr()
        self._transposed = self._basis[: num_owned(V)].T.tocsr()
        self._inverse = inverse.tocsr()
        self._comm = V.mesh.comm
        self.what = what
        self.size: int = basis.shape[1]

    @property
    def values(self) -> Array:
        """s as the Function holds it now: (size,), the same on every rank. Collective, as is writing to it.

        A number serves all entries. Raises ``BadInput``, on every rank, for anything but finite numbers, and where the
        Function holds what no numbers give.
        """
        owned = present(self)
        s = parallel.sum_over_ranks(self._comm, self._inverse @ owned)
        gap, size = np.abs(self.spread(s)[: len(owned)] - owned), np.abs(owned)
        if parallel.any_rank(self._comm, not gap.max(initial=0.0) <= _SAME * size.max(initial=0.0)):
            raise BadInput(
                f"{self}: its values are those of no {self.size} numbers, {self.what}; set them by its .values"
            )
        return s

    @values.setter
    def values(self, values: Any) -> None:
        self.x.array[:] = self.spread(self.checked(values, f"{self}: values"))

    def checked(self, values: Any, what: str) -> Array:
        """A number or (size,) as (size,), rank 0's on every rank. Collective."""
        with parallel.together(self._comm):
            words = f"{what}: expected a number, or {self.size} of them, {self.what}, got {values!r:.80}"
            try:
                array = np.asarray(array_like(values, what))
            except (TypeError, ValueError) as cause:
                raise BadInput(words) from cause
            if array.dtype == object or array.shape not in ((), (self.size,)):
                raise BadInput(words)
            values = np.broadcast_to(array, (self.size,))
        return parallel.checked_on_all(self._comm, values, self.size, what)

    def spread(self, s: Array) -> Array:
        """Σ s_i φ_i: owned and ghost values. Local."""
        return np.asarray(self._basis @ s)

    def collected(self, duals: Array) -> Array:
        """The transpose of ``spread``: (k, owned) dual vectors to (k, size). Collective."""
        return parallel.sum_over_ranks(self._comm, np.ascontiguousarray((self._transposed @ duals.T).T))


def held(control: Control) -> Array:
    """What a control holds as its part of a control vector: ``present``, or the numbers of an expansion. Collective."""
    return control.values if isinstance(control, Expansion) else present(control)


def num_entries(control: Control) -> int | None:
    """How many numbers a Constant, an expansion or a point law has; None for a field. Local."""
    if isinstance(control, Expansion | PointLaw):
        return control.size
    return control.value.size if isinstance(control, fem.Constant) else None
