"""Data of a field in space and time: states at nodes, or samples at points scattered over space and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import array_like, of_kind
from relax.base.fem.layout import SpaceLayout
from relax.base.fem.points import as_points, points_inside
from relax.base.types import Array
from relax.engine.reduced import ReducedMap
from relax.errors import BadInput, PointsOutsideMesh

# A cubic spline is made through so many times.
_LEAST_TIMES = 4

#: States at nodes, ``[(t, values), ...]``, or samples ``(points, times, values)``.
Data: TypeAlias = Sequence[tuple[float, npt.ArrayLike]] | tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


@dataclass(frozen=True)
class States:
    """Nodal values at times: (num_times,) and (num_times, size)."""

    times: Array
    values: Array


@dataclass(frozen=True)
class Scattered:
    """Values at points and times: (num, gdim), (num,) and (num, components)."""

    points: Array
    times: Array
    values: Array


def samples(G: ReducedMap, m: npt.ArrayLike) -> list[tuple[float, Array]]:
    """The trajectory of an evolution as data: [(t, nodal values), ...], the same on every rank.

    Collective.

    Args:
        G: the map of a ``relax.Evolution`` that knows the length of its steps.
        m: a control, (size_in,).
    """
    of_kind(G, ReducedMap, "a relax.ReducedMap of an evolution", "samples: G")
    state = G.problem.state
    layout = SpaceLayout(state.function_space)
    states = []
    for _, t in G.trajectory(m):
        if t is None:
            raise BadInput("samples: expected an evolution that knows the length of its steps: give it dt")
        states.append((t, layout.gather(state.x.array[: layout.num_owned])))
    return states


def read(data: Any, V: fem.FunctionSpace, what: str = "data") -> States | Scattered:
    """Data as arrays, rank 0's on every rank. Collective.

    Raises:
        BadInput, PointsOutsideMesh: on every rank, for what is no data of a field in V.
    """
    comm = V.mesh.comm
    is_scattered = isinstance(data, tuple) and len(data) == 3
    if parallel.any_rank(comm, is_scattered != parallel.of_rank_0(comm, is_scattered)):
        raise BadInput(f"{what}: expected the same kind of data on each rank, got samples on some and others elsewhere")
    if is_scattered:
        return _scattered(data, V, what)
    size = V.dofmap.index_map.size_global * V.dofmap.index_map_bs
    times: Array = np.empty(0)
    states: list[Array] = []
    with parallel.together(comm):
        try:
            pairs = [(float(t), array_like(state, what)) for t, state in data]
            times = np.array([t for t, _ in pairs])
            states = [np.asarray(state, dtype=float) for _, state in pairs]
        except (TypeError, ValueError) as cause:
            raise BadInput(
                f"{what}: expected states [(t, nodal values), ...], such as relax.discovery.samples(G, m), or "
                f"scattered samples, a tuple (points, times, values): {cause}"
            ) from cause
        if wrong := [state.shape for state in states if state.shape != (size,)]:
            raise BadInput(
                f"{what}: expected nodal values of shape ({size},) at each time, in the order of relax.FieldValues, "
                f"got {wrong[0]}"
            )
        if len(times) < _LEAST_TIMES or not (np.diff(times) > 0.0).all():
            raise BadInput(f"{what}: expected at least {_LEAST_TIMES} times that increase, got {times.tolist()}")
    return States(_finite(comm, times, f"{what}: times"), _finite(comm, np.array(states), f"{what}: values"))


def _scattered(data: tuple[Any, Any, Any], V: fem.FunctionSpace, what: str) -> Scattered:
    domain, components = V.mesh, V.dofmap.index_map_bs
    points = as_points(domain, data[0])
    num = len(points)
    times: Array = np.empty(num)
    values: Array = np.empty((num, components))
    with parallel.together(domain.comm):
        try:
            times = np.asarray(array_like(data[1], what), dtype=float)
            values = np.asarray(array_like(data[2], what), dtype=float)
        except (TypeError, ValueError) as cause:
            raise BadInput(f"{what}: expected numbers: {cause}") from cause
        if values.shape == (num,) and components == 1:
            values = values[:, None]
        if times.shape != (num,) or values.shape != (num, components):
            raise BadInput(
                f"{what}: expected a time and {components} values for each of {num} points, got shapes {times.shape} "
                f"and {values.shape}"
            )
        if not np.ptp(times) > 0.0:
            raise BadInput(f"{what}: expected samples at different times")
    if not (found := points_inside(domain, points)).all():
        raise PointsOutsideMesh(f"{what}: {np.count_nonzero(~found)} of {num} points lie outside the mesh")
    return Scattered(
        points[:, : domain.geometry.dim],
        _finite(domain.comm, times, f"{what}: times"),
        _finite(domain.comm, values, f"{what}: values"),
    )


def _finite(comm: Any, values: Array, what: str) -> Array:
    """Rank 0's array, once it is known to be finite."""
    whole = parallel.of_rank_0(comm, values)
    if not np.isfinite(whole).all():
        raise BadInput(f"{what}: expected finite numbers, got {np.count_nonzero(~np.isfinite(whole))} that are not")
    return whole
