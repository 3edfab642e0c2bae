"""Square roots of matrices, against dense algebra and on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from petsc4py import PETSc

from relax.base import parallel
from relax.base.la.linear import LinearSolver
from relax.base.la.options import DIRECT_SYMMETRIC
from relax.base.la.roots import InverseRoot, _contour
from relax.errors import SolveFailed

COMM = MPI.COMM_WORLD
N = 60


def dense(kind):
    """A mass matrix of varying weights, or a stiffness matrix with a small shift: of condition about 1e5."""
    h = np.linspace(1.0, 3.0, N + 1)
    if kind == "mass":
        main, beside = (h[:-1] + h[1:]) / 3.0, h[1:-1] / 6.0
    else:
        main, beside = 1.0 / h[:-1] + 1.0 / h[1:] + 1e-4, -1.0 / h[1:-1]
    return np.diag(main) + np.diag(beside, 1) + np.diag(beside, -1)


def matrix(A):
    result = PETSc.Mat().createAIJ((N, N), nnz=3, comm=COMM)
    first, last = result.getOwnershipRange()
    for i in range(first, last):
        columns = np.flatnonzero(A[i]).astype(np.int32)
        result.setValues([i], columns, A[i, columns])
    result.assemble()
    return result, slice(first, last)


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("kind", ["mass", "stiffness"])
def test_roots_are_those_of_dense_algebra(kind):
    A = dense(kind)
    R, mine = matrix(A)
    solver = None
    if kind == "stiffness":
        solver = LinearSolver(COMM, "relax_test_", DIRECT_SYMMETRIC, self_adjoint=True)
        solver.factor(R)
    K = InverseRoot(R, solver=solver, options=DIRECT_SYMMETRIC, prefix="relax_test_")
    assert (K.condition > 400.0) == (kind == "stiffness")
    w = np.sqrt(np.diag(A))
    values, vectors = np.linalg.eigh(A / np.outer(w, w))
    expected = (vectors / np.sqrt(values)) @ vectors.T / w[:, None]
    # Relative to the largest entries; solves with a condition of 1e5 leave 1e-11 of 1e-16.
    unit = np.eye(N)[:, mine]
    for method, exact in (
        (K.apply, expected), (K.adjoint, expected.T),
        (K.inverse, np.linalg.inv(expected)), (K.inverse_adjoint, np.linalg.inv(expected.T)),
    ):  # fmt: skip
        found = method(unit)
        gap = parallel.largest(COMM, float(np.abs(found - exact.T[:, mine]).max(initial=0.0)))
        assert gap < 1e-10 * np.abs(exact).max()
    K.destroy()
    R.destroy()
    if solver is not None:
        solver.destroy()


@pytest.mark.parametrize("condition", [1e3, 1e6, 1e9, 1e12])
def test_sum_of_shifted_inverses(condition):
    shifts, weights = _contour(2.0, 2.0 * condition)
    x = 2.0 * np.logspace(0.0, np.log10(condition), 500)
    assert np.abs((weights / (x[:, None] + shifts)).sum(axis=1) * np.sqrt(x) - 1.0).max() < 2e-12


@pytest.mark.ranks(1, 2)
def test_what_has_no_root():
    R, _ = matrix(dense("stiffness") - 0.1 * np.eye(N))
    with pytest.raises(SolveFailed, match="not positive definite"):
        InverseRoot(R)
    R.destroy()
