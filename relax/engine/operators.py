"""A derivative G'(m) as a linear operator of scipy's, and as a matrix of PETSc's that is known by its products."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from petsc4py import PETSc

from relax.base import parallel
from relax.base.types import Array
from relax.errors import BadInput


class Differentiated(Protocol):
    """A linearisation point, as an operator needs it."""

    map: Any

    def jvp(self, dm: Array) -> Array:
        """(..., size_in) -> (..., size_out)."""

    def vjp(self, dy: Array) -> Array:
        """(..., size_out) -> (..., size_in)."""


def check_whole(G: Any, what: str, instead: str) -> None:
    """Refuse control vectors that are spread over ranks, where other software takes them for whole. Local.

    Raises:
        BadInput: then, on every rank.
    """
    if G.layout.kind == "owned" and G.comm.size > 1:
        raise BadInput(
            f"{what}: expected a map with layout='replicated', got 'owned' on {G.comm.size} ranks, where each has a "
            f"part of the vector and inner products are taken of that part alone; {instead}"
        )


def scipy_operator(lin: Differentiated) -> Any:
    """As ``Linearization.as_linear_operator``."""
    from scipy.sparse.linalg import LinearOperator

    check_whole(lin.map, "as_linear_operator", "as_petsc() has a matrix for vectors over the ranks")
    # What is handed over is a column, (n,) or (n, 1), or columns beside each other, (n, k); solves take rows.
    return LinearOperator(
        (lin.map.size_out, lin.map.size_in),
        matvec=lambda x: lin.jvp(x.reshape(-1)),
        rmatvec=lambda y: lin.vjp(y.reshape(-1)),
        matmat=lambda X: lin.jvp(X.T).T,
        rmatmat=lambda Y: lin.vjp(Y.T).T,
        dtype=np.float64,
    )


def petsc_operator(lin: Differentiated) -> PETSc.Mat:
    """As ``Linearization.as_petsc``."""
    G = lin.map
    columns = (G.size_in, None) if G.layout.kind == "owned" else (None, G.size_in)
    matrix = PETSc.Mat().createPython(((None, G.size_out), columns), _ShellContext(lin), comm=G.comm)
    matrix.setUp()
    return matrix


class _ShellContext:
    """What PETSc calls: vectors over the ranks, of which observations and replicated controls are made whole."""

    def __init__(self, lin: Differentiated) -> None:
        self._lin = lin

    def mult(self, matrix: PETSc.Mat, x: PETSc.Vec, y: PETSc.Vec) -> None:
        y.array = self._lin.jvp(self._whole(x, self._lin.map.layout.kind))[slice(*y.owner_range)]

    def multTranspose(self, matrix: PETSc.Mat, y: PETSc.Vec, x: PETSc.Vec) -> None:
        gradient, kind = self._lin.vjp(self._whole(y, "replicated")), self._lin.map.layout.kind
        x.array = gradient if kind == "owned" else gradient[slice(*x.owner_range)]

    def _whole(self, x: PETSc.Vec, kind: str) -> Array:
        return x.array_r if kind == "owned" else parallel.gather_rows(self._lin.map.comm, x.array_r)
