"""Landscapes by name: functions of x with several minima, dimensionless."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from dolfinx import mesh
from mpi4py import MPI

from relax.base import parallel
from relax.base.checks import nearest
from relax.base.types import Array
from relax.errors import BadInput
from relax.jobs.landscape.job import LandscapeJob
from relax.jobs.setting.equation import find_function, places_of
from relax.jobs.toml import JobFile
from relax.relaxation.gallery import rugged_parabola

Landscape = Callable[[Array], Any]


def rugged(x: Array) -> Array:
    """The sum over i of 0.05 x_i² + ½ (1 - cos 4 x_i): a valley with many wells, the lowest at 0. x: (dim, n)."""
    return np.sum(0.05 * x**2 + 0.5 * (1.0 - np.cos(4.0 * x)), axis=0)


def two_wells(x: Array) -> Array:
    """A narrow well at (0.8, 0, 0), which is the lower one, and a wide well at (-0.6, 0, 0), on a shallow parabola."""

    def well(place: float, width: float) -> Array:
        away = (x[0] - place) ** 2 + np.sum(x[1:] ** 2, axis=0)
        return np.asarray(np.exp(-0.5 * away / width**2))

    return 0.05 * np.sum(x**2, axis=0) + 1.0 - well(0.8, 0.12) - 0.8 * well(-0.6, 0.5)


def deep_relaxation(x: Array) -> Array:
    """x² + 1.5 sin(2 pi x) and smoothed noise, on the line from -3 to 3: the figure of the paper of that name."""
    return np.interp(x[0], *rugged_parabola())


LANDSCAPES: dict[str, Callable[[Array], Array]] = {
    "rugged": rugged, "two_wells": two_wells, "deep_relaxation": deep_relaxation
}  # fmt: skip
_ON_A_LINE = ("deep_relaxation",)


def named(file: JobFile[LandscapeJob], comm: MPI.Comm) -> Landscape:
    """The function that [landscape] names, whatever mesh it is for. Collective.

    Raises:
        BadInput: for an unknown name.
    """
    name = file.job.landscape.function
    if ":" in name:
        try:
            return find_function(name, places_of(file), comm)
        except BadInput as error:
            raise BadInput(f"[landscape] function: {error}") from error
    if name not in LANDSCAPES:
        raise BadInput(
            f"[landscape] function: unknown landscape {name!r}{nearest(name, LANDSCAPES)}; one of your own is "
            "module:function"
        )
    return LANDSCAPES[name]


def landscape_of(file: JobFile[LandscapeJob], domain: mesh.Mesh) -> Landscape:
    """The function of [landscape]: x, (3, n) -> (n,). Collective.

    Raises:
        BadInput: for an unknown name, or one that is not for this mesh.
    """
    name, dim = file.job.landscape.function, domain.geometry.dim
    known = named(file, domain.comm)
    if ":" in name:
        _check(known, name, domain)
        return known
    if name in _ON_A_LINE and dim != 1:
        raise BadInput(f"[landscape] function: {name!r} is a function on a line, and [mesh] has {dim} dimensions")
    return lambda x: known(x[:dim])


def _check(own: Landscape, name: str, domain: mesh.Mesh) -> None:
    """See that a user's function gives a finite number for each point of the mesh. Collective."""
    x = domain.geometry.x.T.copy()
    with parallel.together(domain.comm):
        try:
            values = np.asarray(own(x), dtype=np.float64)
        except Exception as error:  # It is the user's code: whatever it raises is to be told with its place.
            raise BadInput(f"[landscape] function: {name}: {type(error).__name__}: {error}") from error
        n = x.shape[1]
        if values.shape not in ((n,), (1, n), ()) or not np.isfinite(values).all():
            raise BadInput(
                f"[landscape] function: {name}: expected finite values of shape ({n},) for x of shape {x.shape}, got "
                f"shape {values.shape}" + ("" if np.isfinite(values).all() else " with NaN or infinity")
            )
