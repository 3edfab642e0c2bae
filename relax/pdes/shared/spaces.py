"""The spaces that equations live in."""

from __future__ import annotations

import numpy as np
from dolfinx import fem
from dolfinx.mesh import Mesh

from relax.base.checks import at_least, of_kind
from relax.errors import BadInput

# Beyond it a form takes minutes to compile, and equidistant or warped nodes lose digits.
_MOST = 12


def lagrange(equation: str, mesh: Mesh, degree: object, shape: tuple[int, ...] = ()) -> fem.FunctionSpace:
    """The continuous Lagrange space of this degree, of scalars or of values of this shape. Collective.

    Raises:
        BadInput: unless the degree is a whole number from 1 to 12 and the mesh one of double precision.
    """
    of_kind(mesh, Mesh, "a mesh, such as relax.meshes.unit_square(8)", f"{equation}: mesh")
    if mesh.geometry.x.dtype != np.float64:
        raise BadInput(
            f"{equation}: expected a mesh of float64, as PETSc has numbers, got {mesh.geometry.x.dtype}; make it with "
            "dtype=np.float64"
        )
    if at_least(degree, 1, f"{equation}: degree") > _MOST:
        raise BadInput(f"{equation}: degree: expected a whole number from 1 to {_MOST}, got {degree}")
    return fem.functionspace(mesh, ("Lagrange", degree, shape) if shape else ("Lagrange", degree))
