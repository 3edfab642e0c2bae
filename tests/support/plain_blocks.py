"""Newton's method on blocks that DOLFINx assembles, by SciPy: on one rank."""

from __future__ import annotations

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from dolfinx import fem


def newton(rows, slopes, states, bcs):
    """The local values of the states, from zero, to rounding.

    Args:
        rows: a compiled form for each state.
        slopes: its derivatives in the states, compiled; None for zero.
        states: the Functions.
        bcs: conditions on their spaces.
    """
    ends = np.cumsum([len(u.x.array) for u in states])
    free = np.ones(ends[-1], dtype=bool)
    for u, end in zip(states, ends, strict=True):
        u.x.array[:] = 0.0
        for bc in bcs:
            if bc.function_space == u.function_space._cpp_object:
                bc.set(u.x.array)
                free[end - len(u.x.array) + bc.dof_indices()[0]] = False
    change = np.inf
    for _ in range(12):
        b = np.concatenate([fem.assemble_vector(f).array for f in rows])[free]
        A = scipy.sparse.bmat([[None if a is None else _assembled(a) for a in row] for row in slopes], format="csr")
        step = np.zeros(ends[-1])
        step[free] = scipy.sparse.linalg.spsolve(A[free][:, free].tocsc(), b)
        for u, du in zip(states, np.split(step, ends[:-1]), strict=True):
            u.x.array[:] -= du
        before, change = change, np.abs(step).max()
        if change >= before:
            break
    assert change < 1e-12 * max(1.0, *(np.abs(u.x.array).max() for u in states))
    return [u.x.array.copy() for u in states]


def _assembled(form):
    A = fem_petsc.assemble_matrix(form)
    A.assemble()
    sizes, (starts, columns, values) = A.getSize(), A.getValuesCSR()
    A.destroy()
    return scipy.sparse.csr_matrix((values, columns, starts), sizes)
