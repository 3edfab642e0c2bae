"""The lower envelope of parabolas along lines: min over j of f_j + (x_i - x_j)²/(2 t) for every i."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


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
    index = np.empty(f.shape, dtype=np.intp)
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
    return np.array(corner, dtype=np.intp)
