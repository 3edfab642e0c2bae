"""Is an operator symmetric, whatever the state and the coefficients are?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from dolfinx import fem
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.forms import values_of

if TYPE_CHECKING:
    from relax.engine.residual.residual import Residual

# Rounding of an assembled symmetric operator stays below this.
_SYMMETRY = 1e-13


def is_self_adjoint(residual: Residual) -> bool:
    """A = Aᵀ for every state, control and parameter, by trial on random ones.

    Collective. An operator that is symmetric for random values of everything in it is symmetric for all, up to a set of
    values of measure zero: looking at one point would mistake an advection that happens to be zero there.
    """
    registers = [residual.state, *residual.controls, *residual.parameters]
    kept = [values_of(r).copy() for r in registers]
    comm = residual.comm
    sizes = [parallel.largest(comm, float(np.max(np.abs(v), initial=0.0))) or 1.0 for v in kept]
    rng = np.random.default_rng(20)
    A = residual.create_matrix()
    try:
        # Of the size that coefficients have now, and of size one: a small term beside large ones hides in neither.
        for scales in (sizes, [1.0] * len(sizes)):
            for register, scale in zip(registers, scales, strict=True):
                values_of(register)[...] = scale * rng.uniform(0.5, 1.5, values_of(register).shape)
                if isinstance(register, fem.Function):
                    register.x.scatter_forward()
            residual.assemble_matrix(A)
            if not _is_symmetric(A, rng):
                return False
    finally:
        for register, values in zip(registers, kept, strict=True):
            values_of(register)[...] = values
        A.destroy()
    return True


def _is_symmetric(A: PETSc.Mat, rng: np.random.Generator) -> bool:
    """xᵀ A y = yᵀ A x for random x and y, up to rounding. Collective."""
    x, y, Ax, Ay = vectors = [A.createVecRight() for _ in range(4)]
    try:
        x.array[:] = rng.uniform(-1.0, 1.0, x.local_size)
        y.array[:] = rng.uniform(-1.0, 1.0, y.local_size)
        A.mult(x, Ax)
        A.mult(y, Ay)
        gap, size = abs(x.dot(Ay) - y.dot(Ax)), Ax.norm() * y.norm()
    finally:
        for vector in vectors:
            vector.destroy()
    return bool(np.isfinite(gap) and gap <= _SYMMETRY * size)
