"""The order of a vector at the boundary to NumPy and torch, and the way from there to the ranks' own parts.

A *space layout* numbers the degrees of freedom of one function space by coordinate, then original cell, then component:
an order that does not depend on how the mesh is partitioned; nor do values that depend on an orientation, see
``dof_order.py``. A *control layout* strings several controls together, in
one of two kinds:

- ``replicated``: every rank holds the whole vector, in that order. Rank 0's copy counts, where they differ by rounding.
- ``owned``: each rank holds the degrees of freedom it owns, in DOLFINx's own order; a constant lives on rank 0, and so
  do the numbers of an expansion and the weights of a point law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from dolfinx import fem
from mpi4py import MPI

from relax.base import parallel
from relax.base.fem.dof_order import DofOrder, dof_order
from relax.base.fem.expansion import Expansion, num_entries
from relax.base.fem.forms import Control, num_owned
from relax.base.types import Array
from relax.errors import BadInput

Kind = Literal["replicated", "owned"]

_OTHER_LAYOUT = "is of a map in the other layout; go on with the layout of the run that has kept it"

# Two coordinates closer than this fraction of the mesh's extent are one: partitions differ in midpoints' last bits.
_SAME_COORDINATE = 1e-9


def _same_for_close(values: Array, tolerance: float) -> npt.NDArray[np.int64]:
    """Integers in the order of ``values``, equal where neighbours in that order are closer than ``tolerance``."""
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order], prepend=values[order[:1]]) > tolerance
    labels = np.empty(len(values), dtype=np.int64)
    labels[order] = np.cumsum(steps)
    return labels


class SpaceLayout:
    """The degrees of freedom of one function space, numbered independently of the partition. Collective to make.

    Attributes:
        size: the number of degrees of freedom over all ranks.
        num_owned: those that this rank owns.
    """

    def __init__(self, V: fem.FunctionSpace) -> None:
        self.space = V
        self.comm = V.mesh.comm
        self.size: int = V.dofmap.index_map.size_global * V.dofmap.index_map_bs
        self.num_owned = num_owned(V)

    @cached_property
    def _dofs(self) -> DofOrder:
        return dof_order(self.space)

    @cached_property
    def _order(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(position of each local dof in the global order, order in which gathered owned parts are written)."""
        gathered = parallel.gather_rows(self.comm, self._dofs.keys[: self.num_owned])
        extent = float(np.ptp(gathered[:, 1:4], axis=0).max()) if len(gathered) else 0.0
        keys = list(gathered.T)
        for i in (*range(1, 4), *range(6, len(keys))):
            keys[i] = _same_for_close(gathered[:, i], _SAME_COORDINATE * extent)
        order = np.lexsort([keys[i] for i in (5, *range(len(keys) - 1, 5, -1), 4, 3, 2, 1, 0)])
        position_of_gathered = np.empty(self.size, dtype=np.int64)
        position_of_gathered[order] = np.arange(self.size)
        counts = self.comm.allgather(self.num_owned)
        start = sum(counts[: self.comm.rank])
        carrier = fem.Function(self.space)
        # Positions are below 2**53, so a float carries them exactly to the ghosts.
        carrier.x.array[: self.num_owned] = position_of_gathered[start : start + self.num_owned]
        carrier.x.scatter_forward()
        return np.rint(carrier.x.array).astype(np.int64), position_of_gathered

    @property
    def coordinates(self) -> Array:
        """Where each degree of freedom stands, or the midpoint of the entity that it is of: (size, 3). Collective."""
        return self._in_order(np.ascontiguousarray(self._dofs.keys[: self.num_owned, 1:4].T)).T

    def spread(self, vector: Array, *, dual: bool = False) -> Array:
        """From the whole vector (..., size) to this rank's owned and ghost values, (..., local). Local.

        ``dual``: of derivatives in values, such as ``gather`` with ``dual`` gives.
        """
        matrix = self._dofs.turned if dual else self._dofs.back
        return _times(matrix, vector[..., self._order[0]], transposed=dual)

    def gather(self, owned: Array, *, dual: bool = False) -> Array:
        """From each rank's owned values (..., num_owned) to the whole vector (..., size) on every rank. Collective.

        ``dual``: of derivatives in values. Where values are turned, those are turned by the inverse's transpose.
        """
        turned, back = self._turns_of_owned
        return self._in_order(_times(back if dual else turned, owned, transposed=dual))

    @cached_property
    def _turns_of_owned(self) -> tuple[Any, Any]:
        # Entities belong to a rank with all of their degrees of freedom.
        n = self.num_owned
        turned, back = self._dofs.turned, self._dofs.back
        return (None, None) if turned is None else (turned[:n, :n], back[:n, :n])

    def _in_order(self, owned: Array) -> Array:
        """Owned numbers of each rank, (..., num_owned), in the order of the whole vector on every rank. Collective."""
        position = self._order[1]
        lead = owned.shape[:-1]
        rows = int(np.prod(lead, dtype=np.int64))
        if self.comm.size == 1:
            gathered = owned.reshape(rows, self.size)
        else:
            counts = np.array(self.comm.allgather(self.num_owned)) * rows
            flat = np.empty(self.size * rows)
            # dof-major, so that the parts of the ranks lie one after the other
            self.comm.Allgatherv(np.ascontiguousarray(owned.reshape(rows, -1).T), (flat, counts))
            gathered = flat.reshape(self.size, rows).T
        whole = np.empty((rows, self.size))
        whole[:, position] = gathered
        return whole.reshape(*lead, self.size)


def _times(matrix: Any, rows: Array, *, transposed: bool) -> Array:
    """The matrix, or its transpose, times each row, (..., n); None for the identity. Local."""
    if matrix is None:
        return rows
    return np.asarray(((matrix.T if transposed else matrix) @ as_rows(rows).T).T.reshape(rows.shape))


def as_rows(array: Array) -> Array:
    """(..., n) as (k, n), also where n = 0: under the owned layout a rank can own nothing. Local."""
    return array.reshape(int(np.prod(array.shape[:-1], dtype=np.int64)), array.shape[-1])


class ControlLayout(Protocol):
    """How a control vector lies on the ranks.

    Attributes:
        size: the length of the array that this rank hands over.
        is_empty: whether there are no controls at all.
    """

    kind: Kind
    size: int
    is_empty: bool

    def checked(self, values: object, what: str, *, compared: bool = True) -> Array:
        """``values`` validated, float64, shape (..., size). Collective.

        ``compared``: refuse replicas that differ by more than rounding. Not for directions, which may be no more than
        that themselves, as the last ones of an iteration are.
        """

    def split(self, vector: Array) -> list[Array]:
        """One vector (size,) as a part per control: owned and ghost values, or a constant's entries. Collective."""

    def join(self, parts: Sequence[Array]) -> Array:
        """Derivatives in controls, (..., owned) of fields and (..., entries) of constants, as (..., size). Collective.

        Of an expansion the derivative in the field becomes that in its numbers; of no controls (0,).
        """

    def of_values(self, parts: Sequence[Array], *, dual: bool = False) -> Array:
        """The vector of what controls hold: as ``join``, of an expansion its numbers, (..., entries). Collective.

        ``dual``: of derivatives in these.
        """

    def values(self, vector: Array, *, dual: bool = False) -> list[Array]:
        """The inverse of ``of_values`` for one vector (size,): owned values of fields, entries of all others. Local.

        Under the owned layout ranks other than 0 have none of those entries.
        """

    def dot(self, a: Array, b: Array) -> float:
        """The inner product over all ranks of two vectors (size,). Collective."""

    def as_kept(self, vector: Array) -> Any:
        """One vector (size,) as a checkpoint keeps it, for any number of ranks. Collective."""

    def restored(self, kept: Any, what: str) -> Array:
        """The vector of what a checkpoint has kept. Collective.

        Raises:
            BadInput: on every rank, where that is one of other controls, or of another layout.
        """

    def sizes(self, vector: Array) -> Array:
        """For each entry of a vector (size,) how large what it belongs to is there: (size,), above 0. Collective.

        Of a field the root of its mean square, of any other entry its amount; 1 where that is zero.
        """


def _distinct_spaces(controls: Sequence[Control]) -> list[fem.FunctionSpace]:
    """The spaces of the fields among the controls, each once."""
    return list({id(c.function_space): c.function_space for c in controls if num_entries(c) is None}.values())


def _spread(control: Control, entries: Array) -> Array:
    """The entries of a constant as they are, those of an expansion as values of its field. Local."""
    return control.spread(entries) if isinstance(control, Expansion) else entries


def _collected(controls: Sequence[Control], parts: Sequence[Array]) -> list[Array]:
    """Derivatives in expansions as those in their numbers; others as they are. Collective."""
    return [
        c.collected(as_rows(p)).reshape(*p.shape[:-1], c.size) if isinstance(c, Expansion) else p
        for c, p in zip(controls, parts, strict=True)
    ]


class Replicated:
    """Every rank holds the whole control, in an order that does not depend on the partition."""

    kind: Kind = "replicated"

    def __init__(self, comm: MPI.Comm, controls: Sequence[Control]) -> None:
        self._comm = comm
        self.is_empty = not controls
        # A control with a value in each step stands here once a step: its order is worked out once.
        known = {id(V): SpaceLayout(V) for V in _distinct_spaces(controls)}
        self._controls = tuple(controls)
        entries = [num_entries(c) for c in controls]
        self._spaces = [
            known[id(c.function_space)] if n is None else None for c, n in zip(controls, entries, strict=True)
        ]
        lengths = [s.size if s is not None else n for s, n in zip(self._spaces, entries, strict=True)]
        self._ends = np.cumsum([0, *lengths])
        self.size = int(self._ends[-1])

    def checked(self, values: object, what: str, *, compared: bool = True) -> Array:
        if compared:
            return parallel.checked_on_all(self._comm, values, self.size, what)
        return parallel.from_rank_0(self._comm, parallel.checked(self._comm, values, self.size, what))

    def split(self, vector: Array) -> list[Array]:
        pieces = [vector[a:b] for a, b in zip(self._ends[:-1], self._ends[1:], strict=True)]
        return [
            _spread(c, p) if s is None else s.spread(p)
            for c, s, p in zip(self._controls, self._spaces, pieces, strict=True)
        ]

    def join(self, parts: Sequence[Array]) -> Array:
        return self._whole(_collected(self._controls, parts), dual=True)

    def of_values(self, parts: Sequence[Array], *, dual: bool = False) -> Array:
        return self._whole(parts, dual=dual)

    def values(self, vector: Array, *, dual: bool = False) -> list[Array]:
        pieces = zip(self._spaces, self._ends[:-1], self._ends[1:], strict=True)
        return [vector[a:b] if s is None else s.spread(vector[a:b], dual=dual)[: s.num_owned] for s, a, b in pieces]

    def _whole(self, parts: Sequence[Array], *, dual: bool) -> Array:
        return _strung([p if s is None else s.gather(p, dual=dual) for s, p in zip(self._spaces, parts, strict=True)])

    def dot(self, a: Array, b: Array) -> float:
        return float(np.dot(a, b))

    def as_kept(self, vector: Array) -> Any:
        return parallel.from_rank_0(self._comm, vector)

    def restored(self, kept: Any, what: str) -> Array:
        if not isinstance(kept, np.ndarray):
            raise BadInput(f"{what}: {_OTHER_LAYOUT}")
        if kept.ndim != 1:
            raise BadInput(f"{what}: expected one vector, got an array of shape {kept.shape}")
        return parallel.checked(self._comm, kept, self.size, what)

    def sizes(self, vector: Array) -> Array:
        return _sizes(vector, self._ends, [space is not None for space in self._spaces], lambda squares: squares)


class Owned:
    """Each rank holds the control values that it owns; the entries of what is no field are rank 0's."""

    kind: Kind = "owned"

    def __init__(self, comm: MPI.Comm, controls: Sequence[Control]) -> None:
        self._comm = comm
        self.is_empty = not controls
        known = {id(V): fem.Function(V) for V in _distinct_spaces(controls)}
        self._controls = tuple(controls)
        self._entries = [num_entries(c) for c in controls]
        self._carriers = [
            known[id(c.function_space)] if n is None else None for c, n in zip(controls, self._entries, strict=True)
        ]
        lengths = [
            num_owned(c.function_space) if n is None else n * (comm.rank == 0)
            for c, n in zip(controls, self._entries, strict=True)
        ]
        self._ends = np.cumsum([0, *lengths])
        self.size = int(self._ends[-1])

    def checked(self, values: object, what: str, *, compared: bool = True) -> Array:
        return parallel.checked(self._comm, values, self.size, what)

    def split(self, vector: Array) -> list[Array]:
        parts = zip(self._controls, self._parts(vector), self._entries, strict=True)
        return [part if entries is None else _spread(control, part) for control, part, entries in parts]

    def _parts(self, vector: Array) -> list[Array]:
        """Owned and ghost values of fields, entries of all others. Collective."""
        parts = []
        pieces = zip(self._carriers, self._entries, self._ends[:-1], self._ends[1:], strict=True)
        for carrier, entries, a, b in pieces:
            if carrier is None or entries is not None:
                mine = vector[a:b] if b > a else np.zeros(entries or 0)
                parts.append(parallel.from_rank_0(self._comm, mine))
            else:
                carrier.x.array[: b - a] = vector[a:b]
                carrier.x.scatter_forward()
                parts.append(carrier.x.array.copy())
        return parts

    def join(self, parts: Sequence[Array]) -> Array:
        return self.of_values(_collected(self._controls, parts))

    def of_values(self, parts: Sequence[Array], *, dual: bool = False) -> Array:
        lengths = np.diff(self._ends)
        return _strung([p[..., :n] for p, n in zip(parts, lengths, strict=True)])

    def values(self, vector: Array, *, dual: bool = False) -> list[Array]:
        return [vector[a:b] for a, b in zip(self._ends[:-1], self._ends[1:], strict=True)]

    def dot(self, a: Array, b: Array) -> float:
        return parallel.dot(self._comm, a, b)

    def as_kept(self, vector: Array) -> Any:
        kept: list[Any] = []
        for part, carrier in zip(self._parts(vector), self._carriers, strict=True):
            if carrier is not None:
                field = fem.Function(carrier.function_space)
                field.x.array[:] = part
                part = field
            kept.append(part)
        return kept

    def restored(self, kept: Any, what: str) -> Array:
        if not isinstance(kept, list):
            raise BadInput(f"{what}: {_OTHER_LAYOUT}")
        if len(kept) != len(self._carriers):
            raise BadInput(f"{what}: expected {len(self._carriers)} controls, got {len(kept)}")
        parts = []
        for part, carrier, entries in zip(kept, self._carriers, self._entries, strict=True):
            if isinstance(part, np.ndarray) == (carrier is not None) or carrier is None and part.shape != (entries,):
                raise BadInput(f"{what}: expected the controls of this map, fields and numbers in their order")
            if carrier is None:
                parts.append(part if self._comm.rank == 0 else part[:0])
            else:
                parts.append(part.owned(carrier.function_space))
        return parallel.checked(self._comm, _strung(parts), self.size, what)

    def sizes(self, vector: Array) -> Array:
        is_field = [carrier is not None for carrier in self._carriers]
        return _sizes(vector, self._ends, is_field, lambda squares: parallel.sum_over_ranks(self._comm, squares))


def _strung(parts: Sequence[Array]) -> Array:
    """Parts (..., n) one after the other along their last axis; of none an empty vector. Local."""
    return np.concatenate(parts, axis=-1) if parts else np.empty(0)


def _sizes(
    vector: Array, ends: npt.NDArray[np.int64], is_field: Sequence[bool], total: Callable[[Array], Array]
) -> Array:
    """``ControlLayout.sizes`` of a vector of controls that end at ``ends``; ``total`` sums over the ranks."""
    pieces = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    squares = total(np.array([[np.dot(vector[p], vector[p]), p.stop - p.start] for p in pieces]).reshape(-1, 2))
    sizes = np.abs(vector)
    for piece, of_field, mean in zip(pieces, is_field, squares[:, 0] / squares[:, 1], strict=True):
        if of_field:
            sizes[piece] = np.sqrt(mean)
    sizes[sizes == 0.0] = 1.0
    return sizes


def control_layout(kind: str, comm: MPI.Comm, controls: Sequence[Control]) -> ControlLayout:
    """The layout of this kind for these controls. Collective.

    Raises:
        BadInput: for a kind other than "replicated" and "owned".
    """
    if kind == "replicated":
        return Replicated(comm, controls)
    if kind == "owned":
        return Owned(comm, controls)
    raise BadInput(f"layout: expected 'replicated' or 'owned', got {kind!r}")
