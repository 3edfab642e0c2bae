"""Is an operator symmetric, whatever the state and the coefficients are?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from dolfinx import fem

from relax.forms import values_of

if TYPE_CHECKING:
    from relax.residual import Residual

_SYMMETRY = 1e-10


def is_self_adjoint(residual: Residual) -> bool:
    """A = Aᵀ for every state, control and parameter, by trial on random ones.

    Collective. An operator that is symmetric for random values of everything in it is symmetric for all, up to a set of
    values of measure zero: looking at one point would mistake an advection that happens to be zero there.
    """
    rng = np.random.default_rng(20)
    registers = [residual.state, *residual.controls, *residual.parameters]
    kept = [values_of(r).copy() for r in registers]
    A = residual.create_matrix()
    x, y, Ax, Ay = (A.createVecRight() for _ in range(4))
    try:
        for register in registers:
            values_of(register)[...] = rng.uniform(0.5, 1.5, values_of(register).shape)
            if isinstance(register, fem.Function):
                register.x.scatter_forward()
        residual.assemble_matrix(A)
        x.array[:] = rng.uniform(-1.0, 1.0, x.local_size)
        y.array[:] = rng.uniform(-1.0, 1.0, y.local_size)
        A.mult(x, Ax)
        A.mult(y, Ay)
        gap, size = abs(x.dot(Ay) - y.dot(Ax)), Ax.norm() * y.norm()
    finally:
        for register, values in zip(registers, kept, strict=True):
            values_of(register)[...] = values
        for item in (A, x, y, Ax, Ay):
            item.destroy()
    return bool(np.isfinite(gap) and gap <= _SYMMETRY * size)
