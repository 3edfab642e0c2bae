"""How far what is seen is from data."""

from __future__ import annotations

from typing import Any

import numpy as np

from relax.base import parallel
from relax.base.checks import array_like, positive
from relax.base.types import Array
from relax.engine.protocols import Map, check_has_controls
from relax.errors import BadInput
from relax.invert.terms import Term, Weighted
from relax.invert.weighing import weighing
from relax.observe.base import Observable


class Misfit(Term):
    """½ |(G(m) − data) / noise|², a term of what :func:`relax.minimize` minimises.

    Collective to make from a map. Terms add up: ``Misfit(G, data, noise=0.1) + prior + 0.5 * alpha * m**2 * ufl.dx``.
    In general ½ rᵀ P r with r = G(m) − data and P the precision of the noise:

    - noise a number or a vector of standard deviations: P = diag(1 / noise²);
    - noise a matrix, dense or of scipy.sparse: the covariance, P its inverse;
    - ``precision`` a matrix: P;
    - ``precision="L2"`` of a map with :class:`relax.FieldValues`: ½ ∫ r² / noise² dx, exact, with the mass matrix of
      the field (any degree, discontinuous, vector-valued). Unlike a sum over nodes it does not depend on the mesh.

    Args:
        G: a map; or an observable, as cost of an energy that :class:`relax.train.Aeqprop` trains: each of its numbers
            costs a solve in each of Newton's steps, which take it for linear about where they are.
        data: (size_out,); rank 0's copy counts. None: zeros; of an observable: each step brings its own.
        noise: see above; in the units of the data. Of an observable a number.
        precision: see above.

    Raises:
        BadInput: on every rank, for data or noise of a wrong shape, that are not finite, noise that is not positive,
            matrices that are not symmetric and positive.
    """

    def __init__(self, G: Map | Observable, data: Any = None, noise: Any = 1.0, *, precision: Any = None) -> None:
        self.data: Any = None
        self.G: Any = None
        self.observable: Any = None
        self.noise: Any = None
        self.weighing: Any = None
        if isinstance(G, Observable):
            self._see(G, data, noise, precision)
        elif not isinstance(G, type) and hasattr(G, "linearize"):
            self._map(G, data, noise, precision)
        else:
            raise BadInput(
                f"Misfit: G: expected a map, such as relax.ReducedMap, or for an Energy an observable, got {G!r:.80}"
            )

    def _see(self, observable: Observable, data: Any, noise: Any, precision: Any) -> None:
        if precision is not None:
            raise BadInput("Misfit: precision: is for maps; the cost of an energy has one number as noise")
        self.observable = observable
        self.noise = positive(noise, "Misfit: noise")
        self.data = None if data is None else data_of(data, observable.size, "Misfit: data")
        if self.data is not None and self.data.ndim != 1:
            raise BadInput(f"Misfit: data: expected {observable.size} finite numbers, got shape {self.data.shape}")

    def _map(self, G: Map, data: Any, noise: Any, precision: Any) -> None:
        check_has_controls(G, "G", "look for")
        self.G = G
        self.observable = getattr(G, "observable", None)
        self.data = observation(G, np.zeros(G.size_out) if data is None else data, "data")
        self.weighing = weighing(G.comm, self.observable, G.size_out, noise, precision)

    @property
    def weighted(self) -> list[Weighted]:
        return [(1.0, self)]


def observation(G: Map, values: object, what: str) -> Array:
    """A vector of what the map sees, rank 0's. Collective.

    Raises:
        BadInput: on every rank, for anything else.
    """
    array = parallel.checked_on_all(G.comm, values, G.size_out, what)
    if array.ndim != 1:
        raise BadInput(f"{what}: expected shape ({G.size_out},), got {array.shape}")
    return array


def data_of(data: Any, size: int, what: str) -> Array:
    """Data as an array, (size,), or (k, size) of several samples. Local.

    Raises:
        BadInput: for another length, for what is not real, and for what is not finite.
    """
    try:
        y = np.asarray(array_like(data, what))
        y = y if np.iscomplexobj(y) else np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise BadInput(f"{what}: expected {size} finite numbers for each sample, got {data!r:.80}") from cause
    if y.shape[-1:] != (size,) or np.iscomplexobj(y) or not np.isfinite(y).all():
        raise BadInput(f"{what}: expected {size} finite numbers for each sample, got {y.dtype} of shape {y.shape}")
    return y
