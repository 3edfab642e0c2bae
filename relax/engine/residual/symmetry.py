"""Is an operator symmetric, whatever the state and the coefficients are?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from dolfinx import fem
from petsc4py import PETSc

from relax.base import parallel
from relax.base.fem.forms import given_back, values_of
from relax.base.fem.pointwise import PointLaw
from relax.base.la.matrices import SYMMETRY, asymmetry
from relax.engine.residual.registers import Registers


def is_self_adjoint(
    registers: Registers,
    create: Callable[[], PETSc.Mat],
    assemble: Callable[[PETSc.Mat], None],
    at_points: Sequence[fem.Function],
) -> bool:
    """A = Aᵀ for every state, control and parameter, by trial on random ones.

    Collective. An operator that is symmetric for random values of everything in it is symmetric for all, up to a set of
    values of measure zero: looking at one point would mistake an advection that happens to be zero there.

    Args:
        registers: what may stand in A; they hold afterwards what they held before.
        create: makes the matrix.
        assemble: writes A at what the registers, and ``at_points``, hold into it.
        at_points: values and slopes of point laws in A. They are tried as any Functions are: what is symmetric for all
            numbers at points is so for every function that gives them, and a function at random weights may be flat.
    """
    held = (registers.state, *registers.controls, *registers.parameters)
    terminals = [*(t for t in held if not isinstance(t, PointLaw)), *at_points]
    largest = [float(np.max(np.abs(values_of(t)), initial=0.0)) for t in terminals]
    sizes = [parallel.largest(registers.comm, size) or 1.0 for size in largest]
    rng = np.random.default_rng(20)
    A = create()
    try:
        # Of the size that coefficients have now, and of size one: a small term beside large ones hides in neither.
        for scales in (sizes, [1.0] * len(sizes)):
            with given_back(terminals):
                for terminal, scale in zip(terminals, scales, strict=True):
                    values_of(terminal)[...] = scale * rng.uniform(0.5, 1.5, values_of(terminal).shape)
                    if isinstance(terminal, fem.Function):
                        terminal.x.scatter_forward()
                assemble(A)
            if not asymmetry(A) <= SYMMETRY:
                return False
    finally:
        A.destroy()
    return True
