"""Vectors that live as long as a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from petsc4py import PETSc


@contextmanager
def work_vectors(A: PETSc.Mat) -> Iterator[tuple[PETSc.Vec, PETSc.Vec]]:
    """Vectors x and y for y = A x, which live as long as the block. Collective."""
    x, y = A.createVecRight(), A.createVecLeft()
    try:
        yield x, y
    finally:
        x.destroy()
        y.destroy()
