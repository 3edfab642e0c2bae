"""Motions of a body that no strain sees."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from dolfinx import fem

from relax.base import parallel
from relax.base.checks import of_kind
from relax.base.types import Array
from relax.errors import BadInput


def rigid_body_modes(V: fem.FunctionSpace) -> list[fem.Function]:
    """Translations along each axis, then rotations about the middle of the mesh: 1, 3 or 6 Functions in 1-3 dimensions.

    Collective. The strain sym(grad u) of each is zero: they are the null space of elasticity without clamped values,
    ``Problem(..., nullspace=rigid_body_modes(V))``; where some values are clamped, those modes are that are zero there.
    A rotation in the plane of axes i < j takes x to (x_i - c_i) e_j - (x_j - c_j) e_i, in the unit of length of the
    mesh.

    Args:
        V: a space of vector fields with a component per axis.

    Raises:
        BadInput: for another space.
    """
    of_kind(V, fem.FunctionSpace, "a function space", "rigid_body_modes: V")
    gdim = V.mesh.geometry.dim
    if tuple(V.value_shape) not in [(gdim,), *([()] if gdim == 1 else [])]:
        raise BadInput(
            f"rigid_body_modes: V: expected fields of {gdim} components, such as those of fem.functionspace(mesh, "
            f'("Lagrange", 1, ({gdim},))), got shape {tuple(V.value_shape)}'
        )
    x = V.mesh.geometry.x[: V.mesh.geometry.index_map().size_local, :gdim]
    ends = np.array([x.min(axis=0, initial=np.inf), -x.max(axis=0, initial=-np.inf)])
    low, high = parallel.smallest(V.mesh.comm, ends)
    middle = 0.5 * (low - high)

    modes = []
    for axis in range(gdim):
        mode = fem.Function(V, name=f"translation_{axis}")
        mode.interpolate(lambda x, e=np.eye(gdim)[axis]: np.tile(e[:, None], x.shape[1]))
        modes.append(mode)
    for i, j in combinations(range(gdim), 2):
        mode = fem.Function(V, name=f"rotation_{i}{j}")

        def turned(x: Array, i: int = i, j: int = j) -> Array:
            values = np.zeros((gdim, x.shape[1]))
            values[j], values[i] = x[i] - middle[i], middle[j] - x[j]
            return values

        mode.interpolate(turned)
        modes.append(mode)
    return modes
