"""A reduced map whose batches march together."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base import parallel
from relax.base.fem.layout import as_rows
from relax.base.la.factors import Key
from relax.base.types import Array
from relax.engine.batch import Product
from relax.engine.dense.assembly import Assembly
from relax.engine.dense.observation import DenseObservation
from relax.engine.dense.points import DensePoints
from relax.engine.dense.steps import StepMatrices
from relax.engine.dense.terms import Terms
from relax.engine.march.plan import looks_of
from relax.engine.protocols import itself, not_pickled, shared
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput
from relax.problem.evolution import Evolution


class DenseMap:
    """G of many small linear systems at once: all samples of a batch in each product, from dense matrices.

    On one rank. For evolutions, and stationary problems, that are linear in the state, with an operator that is affine
    in numbers (Constants, shared or per step) and a right side that is affine in numbers and fields: sources, boundary
    values, initial states; with at most 1000 values of the state that are not clamped. DOLFINx assembles each term
    once. Operators are inverted in batches or, where they differ between samples and are narrow, factored as bands.
    Values, derivatives and second derivatives agree with those of the map to rounding. The mesh is on one rank, since
    systems so small do not gain from more; samples are shared by :class:`relax.Teams`.

    Parameters are live: when one has changed, the terms are assembled again at the next batch. The registers of the
    problem are left alone, but for those that an observable reads which is not linear. Solver options, tolerances and
    ``storage`` of the map have no meaning here.

    Args:
        G: the map, with the replicated layout.
        memory: bytes that a batch may keep for the operators of its steps; where they need more, they are made again,
            some steps at a time, by each sweep.

    Attributes:
        size_in, size_out: of G.

    Raises:
        BadInput: for a map of another kind, saying of which.
    """

    def __init__(self, G: ReducedMap, *, memory: float = 1e9) -> None:
        if not memory > 0.0:
            raise BadInput(f"DenseMap: memory: expected bytes above 0, got {memory!r}")
        self._assembly = Assembly(G)
        self.G = G
        self.size_in = G.size_in
        self.size_out = G.size_out
        self._memory = memory
        self._stamp: weakref.ref[Key] | None = None
        self._initial: Array = np.empty(0)
        # The state of a stationary problem is what its one step leads to.
        evolution = G.problem if isinstance(G.problem, Evolution) else None
        self._looks = G.observable.looks(1) if evolution is None else looks_of(G.observable, evolution)
        self._current: tuple[Terms, StepMatrices, DenseObservation] | None = None

    __copy__ = itself
    __deepcopy__ = shared
    __reduce_ex__ = not_pickled

    def __call__(self, m: npt.ArrayLike) -> Array:
        """G(m): (..., size_in) -> (..., size_out)."""
        rows = self._checked(m)
        return self.linearize_rows(as_rows(rows)).values.reshape(*rows.shape[:-1], self.size_out)

    def linearize(self, m: npt.ArrayLike) -> DensePoints:
        """All of a batch (S, size_in) as one point."""
        rows = self._checked(m)
        if rows.ndim != 2:
            raise BadInput(f"DenseMap.linearize: expected controls of shape (S, {self.size_in}), got {rows.shape}")
        return self.linearize_rows(rows)

    def linearize_rows(self, rows: Array) -> DensePoints:
        """``linearize`` of rows that ``layout.checked`` has seen: they are not looked at again."""
        terms, matrices, seen = self._now()
        return DensePoints(terms, matrices, seen, rows, self._memory)

    def _checked(self, m: Any) -> Array:
        return np.array(parallel.checked(self.G.comm, m, self.size_in, "control"))

    def _now(self) -> tuple[Terms, StepMatrices, DenseObservation]:
        """The terms at the present parameters; those of the last time while none has changed."""
        assembly = self._assembly
        assembly.parameters.snapshot()
        key, initial = assembly.parameters.everything_key, assembly.initial()
        known = self._stamp is not None and self._stamp() is key and np.array_equal(initial, self._initial)
        if self._current is None or not known:
            terms = assembly.terms()
            self._current = (
                terms,
                StepMatrices(terms.A, terms.B),
                DenseObservation(self.G, self._looks, assembly.beside),
            )
            self._stamp, self._initial = weakref.ref(key), initial
        return self._current


class KnownBatches:
    """The batches of one forward pass, found again by their controls: the dense counterpart of ``KnownPoints``.

    Args:
        G: the map.
    """

    def __init__(self, G: DenseMap) -> None:
        self._G = G
        self._known: list[tuple[Array, DensePoints]] = []

    def solve(self, rows: Array) -> Array:
        """(samples, size_in) -> (samples, size_out)."""
        return self._new(rows).values

    def product(self, which: Product, rows: Array, *directions: Array) -> Array:
        """A product at all samples: (samples, k, size_in) of adjoints and Hessian actions, size_out of tangents."""
        known = (points for controls, points in self._known if np.array_equal(controls, rows))
        points = next(known, None) or self._new(rows)
        result: Array = getattr(points, which)(
            *(parallel.checked(self._G.G.comm, d, d.shape[-1], "direction") for d in directions)
        )
        return result

    def _new(self, rows: Array) -> DensePoints:
        points = self._G.linearize_rows(rows)
        self._known.append((rows.copy(), points))
        return points
