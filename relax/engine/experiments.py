"""Several experiments on the same controls as one map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from relax.base.checks import several
from relax.base.fem.blocks import registers_of
from relax.base.fem.forms import is_same
from relax.base.fem.layout import ControlLayout, as_rows
from relax.base.types import Array
from relax.engine.linearization import BLOCK, Derivatives, Linearization
from relax.engine.protocols import Map, check_is_map, itself, not_pickled, shared
from relax.engine.reduced import ReducedMap
from relax.engine.shared_operator import groups, shared_by
from relax.errors import BadInput
from relax.problem.evolution import Evolution


class Experiments(Map):
    """G(m) = (G_1(m), G_2(m), ...): several maps on the same controls as one, a map like any other.

    Collective: to make, to call, and every method but ``dot`` under ``layout="replicated"``.

    Stationary problems that are linear in their states and have one operator share it: in electrical impedance
    tomography K currents go through one body. Where ∂F/∂u is the same UFL form in the same Functions and Constants, the
    same values of the state are held, and PETSc's options are the same, one operator is assembled and factored at a
    control, and one block of right-hand sides serves all of them: for states, tangents, adjoints, and the adjoints of
    second order. The numbers are those of the maps. Any other map (nonlinear, in time, of eigenvalues, of a state in
    blocks, whose space is its own) works for itself, which changes nothing but the cost.

    Each map may be called by itself, too. ``G.problem`` is that of the first.

    Args:
        maps: what was done: maps on the same control objects, in the same order and layout. Their problems may have a
            state in common, or each its own. Data are in the order of the maps.

    Attributes:
        maps: the maps.
        size_in: the length of the control vector that this rank hands over.
        size_out: the sum of the maps' own.
        places: for each map where in an observation its own is, a slice.
        num_operators: how many operators are assembled and factored at a control, at most: that of those which share
            one counts once.
        counts: how many states, tangents and adjoints have been solved for through this map, each right-hand side
            counted; equal ones of a block are one.

    Raises:
        BadInput: on every rank, for no maps, one that is given twice, one of other controls, ranks or layout, or one
            that looks at the state of another.
        SolveFailed: from any call that solves, when one of the experiments cannot be.
    """

    def __init__(self, maps: Sequence[Map]) -> None:
        self.maps: tuple[Map, ...] = several(maps, "maps", "Experiments")
        if not self.maps:
            raise BadInput("Experiments: expected at least one map, got none")
        for i, G in enumerate(self.maps):
            check_is_map(G, f"Experiments: maps[{i}]")
            _check_fits(self.maps, i)
        _check_apart(self.maps)
        self.problem = self.maps[0].problem
        self.comm = self.maps[0].comm
        self.layout: ControlLayout = self.maps[0].layout
        self.size_in = self.layout.size
        ends = np.cumsum([0, *(G.size_out for G in self.maps)])
        self.size_out = int(ends[-1])
        self.places = [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.counts = {"forward": 0, "tangent": 0, "adjoint": 0}
        numbers = groups(self.maps)
        several_here = [G.num_operators for G in self.maps if isinstance(G, Experiments)]
        self.num_operators: int = len(numbers) + sum(several_here) - len(several_here)
        self._parts: list[tuple[npt.NDArray[np.int64], _Part]] = []
        for group in numbers:
            columns = np.concatenate([np.arange(self.places[i].start, self.places[i].stop) for i in group])
            self._parts.append(
                (columns, _Alone(self.maps[group[0]]) if len(group) == 1 else shared_by(self.maps, group))
            )

    __copy__ = itself
    __deepcopy__ = shared
    __reduce_ex__ = not_pickled

    # -- values --------------------------------------------------------------------------------------------------------

    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m), shape (..., size_in) -> (..., size_out). Leading axes are samples."""
        controls = self.layout.checked(m, "control")
        rows = as_rows(controls)
        values = np.empty((len(rows), self.size_out))
        with self.counted():
            for columns, part in self._parts:
                values[:, columns] = part.values(rows)
        return values.reshape(*controls.shape[:-1], self.size_out)

    def linearize_rows(self, rows: Array) -> list[Linearization]:
        """``linearize_each`` of rows that ``layout.checked`` has seen: they are not looked at again."""
        values = np.empty((len(rows), self.size_out))
        each: list[list[tuple[npt.NDArray[np.int64], Derivatives]]] = [[] for _ in rows]
        with self.counted():
            for columns, part in self._parts:
                for i, (derivatives, value) in enumerate(part.linearize(rows)):
                    values[i, columns] = value
                    each[i].append((columns, derivatives))
        return [Linearization(self, _Joined(self, d), v) for d, v in zip(each, values, strict=True)]

    def present_control(self) -> Array:
        """The control vector of what the controls hold now, the same in each step. Collective."""
        return self.maps[0].present_control()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A block whose solves, made by the maps, count as this map's. Local."""
        before = [dict(G.counts) for G in self.maps]
        try:
            yield
        finally:
            for kind in self.counts:
                self.counts[kind] += sum(G.counts[kind] - old[kind] for G, old in zip(self.maps, before, strict=True))

    # -- life time -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the maps: free their factors and matrices. Collective. Linearisation points are of no use then."""
        for G in self.maps:
            G.close()


def single_maps(G: Map) -> list[Map]:
    """The maps that solve: those of ``Experiments``, or the one that is none. Local."""
    return [one for each in G.maps for one in single_maps(each)] if isinstance(G, Experiments) else [G]


class _Part(Protocol):
    """Some of the maps. Collective, as are all methods."""

    def values(self, rows: Array) -> Array:
        """Observations of these maps: (k, size_in) -> (k, size_out)."""

    def linearize(self, rows: Array) -> Sequence[tuple[Derivatives, Array]]:
        """Derivatives and observations at several controls."""


class _Alone:
    """A map that shares nothing. Collective, as are all methods."""

    def __init__(self, G: Map) -> None:
        self._G = G

    def values(self, rows: Array) -> Array:
        """(k, size_in) -> (k, size_out)."""
        return np.asarray(self._G(rows))

    def linearize(self, rows: Array) -> list[tuple[_OfOne, Array]]:
        """Derivatives and observations at several controls."""
        return [(_OfOne(point), point.value) for point in self._G.linearize_rows(rows)]


class _OfOne:
    """The derivatives of a map that shares nothing. Collective."""

    hessian_block = BLOCK

    def __init__(self, point: Linearization) -> None:
        self._point = point

    @property
    def is_everywhere_the_same(self) -> bool:
        """As ``Derivatives``."""
        return self._point.is_everywhere_the_same

    def tangents(self, directions: Array) -> Array:
        """As ``Derivatives``."""
        return self._point.jvp(directions)

    def gradients(self, seeds: Array) -> Array:
        """As ``Derivatives``; nothing is solved for where seeds are zero."""
        rows = np.flatnonzero(seeds.any(axis=1))
        result = np.zeros((len(seeds), self._point.map.size_in))
        if len(rows):
            result[rows] = self._point.vjp(seeds[rows])
        return result

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """As ``Derivatives``; nothing is solved for where seeds are zero."""
        result = np.zeros((len(seeds), self._point.map.size_in))
        asked = seeds.any(axis=1)
        for k in np.unique(which[asked]):
            rows = np.flatnonzero(asked & (which == k))
            result[rows] = self._point.hvp(seeds[rows], directions[k])
        return result


class _Joined:
    """The derivatives of all experiments at a control. Collective."""

    hessian_block = BLOCK

    def __init__(self, G: Experiments, each: Sequence[tuple[npt.NDArray[np.int64], Derivatives]]) -> None:
        self._G = G
        self._each = list(each)

    @property
    def is_everywhere_the_same(self) -> bool:
        """As ``Derivatives``."""
        return all(d.is_everywhere_the_same for _, d in self._each)

    def tangents(self, directions: Array) -> Array:
        """As ``Derivatives``."""
        result = np.empty((len(directions), self._G.size_out))
        with self._G.counted():
            for columns, d in self._each:
                result[:, columns] = d.tangents(directions)
        return result

    def gradients(self, seeds: Array) -> Array:
        """As ``Derivatives``."""
        with self._G.counted():
            return sum((d.gradients(seeds[:, columns]) for columns, d in self._each), start=self._nothing(seeds))

    def hessian_actions(self, seeds: Array, directions: Array, which: npt.NDArray[np.int64]) -> Array:
        """As ``Derivatives``."""
        with self._G.counted():
            actions = (d.hessian_actions(seeds[:, columns], directions, which) for columns, d in self._each)
            return sum(actions, start=self._nothing(seeds))

    def _nothing(self, seeds: Array) -> Array:
        return np.zeros((len(seeds), self._G.size_in))


def _check_fits(maps: Sequence[Map], i: int) -> None:
    """Refuse a map that does not have the controls of the first one, or is there already. Local.

    Raises:
        BadInput: then.
    """
    first, G = maps[0], maps[i]
    if any(G is earlier for earlier in maps[:i]):
        raise BadInput(f"Experiments: maps[{i}] is an earlier one again; data of the same kind are told by its noise")
    if MPI.Comm.Compare(G.comm, first.comm) not in (MPI.IDENT, MPI.CONGRUENT):
        raise BadInput(f"Experiments: expected maps on the same ranks, maps[{i}] is on others than maps[0]")
    if G.layout.kind != first.layout.kind:
        raise BadInput(
            f"Experiments: expected maps of one layout, got {first.layout.kind!r} and, of maps[{i}], {G.layout.kind!r}"
        )
    mine, its = first.problem.controls, G.problem.controls
    if len(mine) != len(its) or not all(is_same(a, b) for a, b in zip(mine, its, strict=True)):
        raise BadInput(
            f"Experiments: expected the controls of maps[0], the same Functions and Constants in the same order: "
            f"{_named(mine)}, got, of maps[{i}], {_named(its)}"
        )
    if _per_step(first) != _per_step(G):
        raise BadInput(
            f"Experiments: maps[{i}] has other controls with a value in each step, or another number of steps, than "
            "maps[0]"
        )


def _check_apart(maps: Sequence[Map]) -> None:
    """Refuse a map in whose residual or observable the state of another one stands. Local.

    Raises:
        BadInput: then.
    """
    single = [(i, one) for i, G in enumerate(maps) for one in single_maps(G)]
    for i, G in single:
        own = registers_of(G.problem.state)
        looked_at = G.residual.registers.parameters if isinstance(G, ReducedMap) else []
        for j, other in single:
            for u in registers_of(other.problem.state):
                if any(u is p for p in looked_at) and not any(u is mine for mine in own):
                    raise BadInput(
                        f"Experiments: maps[{i}] looks at the state of maps[{j}], {u}, as at a parameter, and no "
                        "derivative would follow it; expected one problem for both states, whose blocks they are"
                    )


def _named(controls: Sequence[object]) -> str:
    """Names and addresses: two Functions f differ in the latter. Local."""
    return "[" + ", ".join(f"{c} at {id(c):#x}" for c in controls) + "]"


def _per_step(G: Map) -> tuple[int, list[int]]:
    """The number of steps, and the controls with a value in each; none for a map without. Local."""
    problem = G.problem
    which = [i for i, c in enumerate(problem.controls) if isinstance(problem, Evolution) and problem.is_per_step(c)]
    return (problem.num_steps if isinstance(problem, Evolution) and which else 0), which
