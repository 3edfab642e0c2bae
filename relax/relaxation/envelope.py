"""The Hopf–Lax formula: u(x, t) = min over y of f(y) + |x - y|²/(2 t), on grids and at points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from relax.base.checks import array_like, at_least, positive
from relax.base.types import Array, Indices
from relax.errors import BadInput
from relax.relaxation.box import checked_box
from relax.relaxation.functions import Landscape, as_points, gradient_of, grid, values_of

# Values of f in the search over a box, in each direction of 1, 2, 3 dimensions.
_NUM = (2001, 201, 41)
# The best local minima of the search that are refined.
_STARTS = 4
# Each round of the refinement halves its window: 60 are the digits of a double, and a few to spare.
_ROUNDS = 60
_NEWTON_STEPS = 8
_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class HopfLax:
    """u = min over y of f(y) + |x - y|²/(2 t), dimensionless, at points (n, d) or on a grid (n_1, ..., n_d).

    Attributes:
        value: u, (n,) or (n_1, ..., n_d).
        minimiser: y*, the value of value with an axis of length d after it.
        gradient: grad u = (x - y*)/t, of the shape of ``minimiser``. Where several y are minimal u has a kink, and this
            is one of its slopes.
    """

    value: Array
    minimiser: Array
    gradient: Array


def hopf_lax(
    f: Landscape | npt.ArrayLike,
    x: npt.ArrayLike | Sequence[npt.ArrayLike],
    t: float,
    *,
    box: npt.ArrayLike | None = None,
    num: int | None = None,
    gradient: Callable[[Array], Any] | None = None,
) -> HopfLax:
    """The inviscid limit (beta = infinity) of the viscous equation: u_t = -1/2 |grad u|², u(x, 0) = f(x).

    With ``f`` an array of values on a grid, ``x`` its axes: the exact minimum over the nodes of the grid, for every
    node, by one lower envelope of parabolas along each line of each axis: of the order of the number of nodes. Against
    the minimum over all y it is too large by at most d h²/8 (1/t + max f'') where f is smooth at y*, with h the
    distance of nodes, and y* is off by about h/2, the gradient by h/(2 t).

    With ``f`` a function of x, ``x`` points: f is sampled on a grid of ``num`` nodes in each direction of a box; for
    each point the best few local minima of the sum are refined. Values are then exact to rounding, and y* to about 1e-8
    of the grid's spacing (to rounding where ``gradient`` is given), provided that the spacing tells the valleys of
    f(y) + |x - y|²/(2 t) apart: a valley narrower than it can be missed.

    Args:
        f: values (n_1, ..., n_d), d = 1, 2, 3; or a function of x: (d, n) -> (n,).
        x: for values, the axes: d increasing arrays (or one array where d = 1); for a function, points (n, d), or (n,)
            on a line.
        t: time, above 0.
        box: (d, 2) lower and upper bounds of y, for a function. By default the bounds of the points, widened on each
            side by sqrt(2 t (max f - min f)) of the points' values, within which y* lies wherever f does not fall
            below its least value at the points.
        num: nodes of the search in each direction, for a function; by default 2001, 201, 41 in 1, 2, 3 dimensions.
        gradient: grad f: points (n, d) -> (n, d), for a function that is smooth at y*.

    Raises:
        BadInput: for shapes that do not fit, t not above 0, values that are not finite.
    """
    positive(t, "t")
    array_like(f, "hopf_lax: f")
    if callable(f):
        return _at_points(f, as_points(x), t, box, num, gradient)  # type: ignore[arg-type]
    if box is not None or num is not None or gradient is not None:
        raise BadInput("hopf_lax: box, num and gradient are for a function f at points; values on a grid take none")
    return _on_grid(f, array_like(x, "hopf_lax: x"), t)


# -- on a grid ---------------------------------------------------------------------------------------------------------


def _on_grid(f: npt.ArrayLike, x: Any, t: float) -> HopfLax:
    values = np.asarray(f, dtype=np.float64)
    single = isinstance(x, np.ndarray) and x.ndim == 1 or (values.ndim == 1 and np.ndim(x[0]) == 0)
    axes = [np.asarray(axis, dtype=np.float64) for axis in ([x] if single else x)]
    if not 1 <= values.ndim <= 3 or values.shape != tuple(axis.size for axis in axes):
        raise BadInput(
            f"hopf_lax: expected values of the shape of their axes, in 1 to 3 dimensions; got values {values.shape} "
            f"and axes {tuple(axis.shape for axis in axes)}"
        )
    if not np.isfinite(values).all():
        raise BadInput("hopf_lax: expected finite values of f, got NaN or infinity")
    for axis in axes:
        if axis.ndim != 1 or not np.isfinite(axis).all() or not (np.diff(axis) > 0.0).all():
            raise BadInput("hopf_lax: expected axes of increasing finite coordinates")
    # min over y of f(y) + sum_i (x_i - y_i)²/(2 t): one coordinate after the other.
    nodes: list[Indices] = []
    for i, axis in enumerate(axes):
        lines = np.moveaxis(values, i, -1)
        least, index = lower_envelope(np.ascontiguousarray(lines).reshape(-1, len(axis)), axis, t)
        values = np.moveaxis(least.reshape(lines.shape), -1, i)
        index = np.moveaxis(index.reshape(lines.shape), -1, i)
        nodes = [np.take_along_axis(earlier, index, axis=i) for earlier in nodes] + [index]
    minimiser = np.stack([axis[index] for axis, index in zip(axes, nodes, strict=True)], axis=-1)
    where = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return HopfLax(np.ascontiguousarray(values), minimiser, np.asarray((where - minimiser) / t))


# -- at points ---------------------------------------------------------------------------------------------------------


def _at_points(
    f: Landscape,
    points: Array,
    t: float,
    box: npt.ArrayLike | None,
    num: int | None,
    gradient: Callable[[Array], Any] | None,
) -> HopfLax:
    n, d = points.shape
    if d > 3:
        raise BadInput(f"hopf_lax: expected points of dimension 1 to 3, got {d}; a separable f is a sum of lines")
    if n == 0:
        return HopfLax(np.empty(0), np.empty((0, d)), np.empty((0, d)))
    bounds = _bounds(f, points, t, box)
    count = _NUM[d - 1] if num is None else at_least(num, 3, "hopf_lax: num")
    axes = [np.linspace(low, high, count) for low, high in bounds]
    sampled = values_of(f, grid(axes)).reshape([count] * d)
    spacing = np.array([axis[1] - axis[0] for axis in axes])
    starts = np.array([_valleys(sampled, axes, point, t) for point in points])  # (n, starts, d)
    y: Array = starts.reshape(-1, d)
    centres = np.repeat(points, _STARTS, axis=0)

    def total(at: Array, of: Array) -> Array:
        return values_of(f, at) + np.sum((at - of) ** 2, axis=1) / (2.0 * t)

    y = _zoomed(total, y, centres, spacing, bounds)
    best = np.argmin(total(y, centres).reshape(n, _STARTS), axis=1)
    y = y.reshape(n, _STARTS, d)[np.arange(n), best]
    if gradient is not None:
        y = _polished(gradient, total, y, points, t, bounds)
    return HopfLax(total(y, points), y, np.asarray((points - y) / t))


def _bounds(f: Landscape, points: Array, t: float, box: npt.ArrayLike | None) -> Array:
    d = points.shape[1]
    if box is None:
        values = values_of(f, points)
        reach = np.sqrt(2.0 * t * float(np.ptp(values))) + np.sqrt(t)
        return np.stack([points.min(axis=0) - reach, points.max(axis=0) + reach], axis=1)
    return checked_box(np.reshape(box, (d, 2)) if np.size(box) == 2 * d else box, d)


def _valleys(sampled: Array, axes: list[Array], point: Array, t: float) -> Array:
    """The best local minima of f(y) + |point - y|²/(2 t) on the grid, (_STARTS, d); the best one again if too few."""
    d = len(axes)
    total = sampled
    for i, axis in enumerate(axes):
        total = total + ((axis - point[i]) ** 2 / (2.0 * t)).reshape(*[-1 if j == i else 1 for j in range(d)])
    is_least = np.ones(total.shape, dtype=bool)
    for i in range(d):
        along = np.moveaxis(total, i, 0)
        least = np.moveaxis(is_least, i, 0)
        least[1:] &= along[1:] <= along[:-1]
        least[:-1] &= along[:-1] <= along[1:]
    where = np.flatnonzero(is_least.ravel())
    values = total.ravel()[where]
    chosen = where[np.argsort(values, kind="stable")[:_STARTS]]
    chosen = np.concatenate([chosen, np.repeat(chosen[:1], _STARTS - len(chosen))])
    return np.stack([axis[index] for axis, index in zip(axes, np.unravel_index(chosen, total.shape), strict=True)], 1)


def _zoomed(total: Callable[[Array, Array], Array], y: Array, centres: Array, spacing: Array, bounds: Array) -> Array:
    """The least of 3^d neighbours, again and again in a window half as wide: no derivative is asked of f."""
    d = y.shape[1]
    steps = grid([np.array([-1.0, 0.0, 1.0])] * d)
    width = spacing.copy()
    for _ in range(_ROUNDS):
        width = 0.5 * width
        # Two moves a round: a valley that lies askew to the axes is followed, not lost.
        for _ in range(2):
            trial = np.clip(y[:, None, :] + steps[None, :, :] * width, bounds[:, 0], bounds[:, 1])
            flat = trial.reshape(-1, d)
            values = total(flat, np.repeat(centres, len(steps), axis=0)).reshape(len(y), len(steps))
            y = trial[np.arange(len(y)), np.argmin(values, axis=1)]
    return y


def _polished(
    gradient: Callable[[Array], Any],
    total: Callable[[Array, Array], Array],
    y: Array,
    points: Array,
    t: float,
    bounds: Array,
) -> Array:
    """Newton's method for t grad f(y) + y - x = 0, with differences of the gradient; kept where it does no harm."""
    d = y.shape[1]
    step = _DIFFERENCE * np.maximum(1.0, np.abs(y).max())

    def slope(at: Array) -> Array:
        return t * gradient_of(gradient, at, "hopf_lax: gradient") + at - points

    def size(at: Array) -> Array:
        return np.linalg.norm(slope(at), axis=1)

    for _ in range(_NEWTON_STEPS):
        columns = [(slope(y + step * e) - slope(y - step * e)) / (2.0 * step) for e in np.eye(d)]
        jacobian = np.stack(columns, axis=2)
        regular = np.abs(np.linalg.det(jacobian)) > 1e-12
        jacobian[~regular] = np.eye(d)
        moved = y - np.linalg.solve(jacobian, slope(y)[:, :, None])[:, :, 0]
        moved = np.clip(moved, bounds[:, 0], bounds[:, 1])
        slack = 1e-12 * (1.0 + np.abs(total(y, points)))
        better = regular & (size(moved) < size(y)) & (total(moved, points) <= total(y, points) + slack)
        y = np.where(better[:, None], moved, y)
        if not better.any():
            break
    return y


# -- parabolas ---------------------------------------------------------------------------------------------------------


def lower_envelope(f: Array, x: Array, t: float) -> tuple[Array, Indices]:
    """The exact minimum over the nodes of a line, at each node. Local.

    The parabolas that are the lowest somewhere are the corners of the lower convex hull of (x_j, f_j + x_j²/(2 t)),
    and which of them is the lowest at x_i the slopes of the hull tell: of the order of n operations for n nodes.

    Args:
        f: (lines, n) values.
        x: (n,) increasing coordinates.
        t: time, above 0.

    Returns:
        (lines, n) minima and the (lines, n) indices of the nodes that give them.
    """
    # Coordinates around 0: x²/(2 t) would cost digits of f.
    place = x - 0.5 * (x[0] + x[-1])
    lifted = f + place**2 / (2.0 * t)
    index: Indices = np.empty(f.shape, dtype=np.int64)
    abscissae = place.tolist()
    for i, line in enumerate(lifted):
        corner = _lower_hull(abscissae, line.tolist())
        slopes = np.diff(line[corner]) / np.diff(place[corner])
        index[i] = corner[np.searchsorted(slopes * t, place)]
    value = np.take_along_axis(f, index, axis=1) + (place[None, :] - place[index]) ** 2 / (2.0 * t)
    return value, index


def _lower_hull(x: list[float], g: list[float]) -> Indices:
    """The corners of the lower convex hull of the points (x_j, g_j), from left to right."""
    corner = [0]
    for j in range(1, len(x)):
        # A corner on or above the chord from the one before it to the new point is none.
        while len(corner) > 1:
            a, b = corner[-2], corner[-1]
            if (g[b] - g[a]) * (x[j] - x[a]) < (g[j] - g[a]) * (x[b] - x[a]):
                break
            corner.pop()
        corner.append(j)
    return np.array(corner, dtype=np.int64)
