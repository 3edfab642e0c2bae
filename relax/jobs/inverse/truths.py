"""Named controls to make synthetic data from: functions of x, scaled to the box around the mesh.

Each is dimensionless, of size about one, and smooth enough for a mesh of some thousand cells: for an equation with
``exp(m)`` as its coefficient they are the logarithm of a contrast of about 1 : 3 either way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from relax.base.types import Array
from relax.errors import BadInput

Field = Callable[[Array], Array]


def inclusions(s: Array) -> Array:
    """A stiff and a soft ball, +1 and -1, with edges a twelfth of the box wide. s: (dim, n) in [0, 1]."""

    def ball(centre: tuple[float, ...], radius: float) -> Array:
        away = np.sqrt(sum((row - c) ** 2 for row, c in zip(s, centre, strict=False)))
        return 0.5 * (1.0 - np.tanh((away - radius) / (1.0 / 12.0)))

    return ball((0.28, 0.66, 0.5), 0.17) - ball((0.72, 0.36, 0.5), 0.19)


def smooth(s: Array) -> Array:
    """One wave along the first axis, fading along the others: sin(2 pi x) cos(pi y) cos(pi z / 2)."""
    fading = (np.cos(np.pi * k * row) for k, row in zip((1.0, 0.5), s[1:], strict=False))
    return np.sin(2.0 * np.pi * s[0]) * np.prod(list(fading), axis=0)


def layers(s: Array) -> Array:
    """Three layers, -1, +1, -1, across the last axis, with edges a twelfth of the box wide."""
    return np.tanh(6.0 * np.sin(2.0 * np.pi * (s[-1] - 0.25)))


def ramp(s: Array) -> Array:
    """From -1 to 1 along the first axis."""
    return 2.0 * s[0] - 1.0


TRUTHS: dict[str, Field] = {"inclusions": inclusions, "smooth": smooth, "layers": layers, "ramp": ramp}


def named(name: str) -> Field:
    """The truth of this name.

    Raises:
        BadInput: for an unknown name.
    """
    if name not in TRUTHS:
        raise BadInput(f"[data] truth: expected one of {', '.join(TRUTHS)}, or a CSV file as `file`; got {name!r}")
    return TRUTHS[name]


def scaled(name: str, low: Array, high: Array) -> Field:
    """The truth of this name as a function of x.

    Args:
        name: a key of ``TRUTHS``.
        low: (gdim,) the lowest coordinates of the mesh.
        high: (gdim,) the highest.

    Returns:
        A function of x (gdim or 3, n), giving (n,).

    Raises:
        BadInput: for an unknown name.
    """
    truth = named(name)
    extent = high - low
    return lambda x: truth((x[: len(low)] - low[:, None]) / extent[:, None])
