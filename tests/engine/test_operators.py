"""A derivative as scipy's linear operator and PETSc's matrix: against the dense Jacobian, in solvers of theirs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg as scipy_linalg
from contract import COMM, LAYOUTS, close, raised_everywhere
from petsc4py import PETSc

from relax import PointValues, ReducedMap, control_values, meshes, pdes
from relax.base import parallel
from relax.errors import BadInput

POINTS = np.array([[0.2, 0.3], [0.7, 0.4], [0.5, 0.8], [0.6, 0.6]])


@pytest.fixture(params=LAYOUTS)
def lin(request):
    problem = pdes.poisson.diffusion(meshes.unit_square(4))
    G = ReducedMap(problem, PointValues(problem.state.function_space, POINTS), layout=request.param)
    with G, G.linearize(control_values(G, lambda x: np.sin(3.0 * x[0]) + x[1])) as lin:
        yield lin


def jacobian(lin):
    """The dense Jacobian by tangents of unit vectors, its columns those of PETSc's order: (4, all controls)."""
    G = lin.map
    if G.layout.kind == "replicated":
        return lin.jvp(np.eye(G.size_in)).T
    before = parallel.count_before(COMM, G.size_in)
    total = parallel.total(COMM, G.size_in)
    units = np.eye(total)[:, before : before + G.size_in]
    return lin.jvp(units).T


@pytest.mark.ranks(1, 2)
def test_scipy_operator(lin):
    if lin.map.layout.kind == "owned" and COMM.size > 1:
        refused = str(raised_everywhere(BadInput, lin.as_linear_operator))
        assert "layout='replicated', got 'owned' on 2 ranks" in refused and "as_petsc()" in refused
        return
    A, J, rng = lin.as_linear_operator(), jacobian(lin), np.random.default_rng(1)
    x, y, X, Y = (rng.standard_normal(shape) for shape in (25, 4, (25, 3), (4, 2)))
    for given, expected in ((A @ x, J @ x), (A @ x[:, None], (J @ x)[:, None]), (A.H @ y, J.T @ y), (A.T @ Y, J.T @ Y)):
        assert given.shape == expected.shape
        np.testing.assert_allclose(given, expected, rtol=1e-10, atol=1e-14)
    before = lin.map.counts["tangent"]
    np.testing.assert_allclose(A @ X, J @ X, rtol=1e-10, atol=1e-14)
    assert lin.map.counts["tangent"] == before + 3
    # Solvers of scipy, against dense algebra.
    found = scipy_linalg.lsqr(A, y, damp=0.01, atol=1e-14, btol=1e-14)[0]
    np.testing.assert_allclose(found, J.T @ np.linalg.solve(J @ J.T + 1e-4 * np.eye(4), y), rtol=1e-6)
    largest = scipy_linalg.svds(A, k=2, v0=rng.standard_normal(4), return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(largest), np.sort(np.linalg.svd(J)[1])[-2:], rtol=1e-10)


@pytest.mark.ranks(1, 2, 3)
def test_petsc_matrix(lin):
    A, J = lin.as_petsc(), jacobian(lin)
    (x, y), rng = A.createVecs(), np.random.default_rng(2)
    assert A.getSize() == J.shape
    assert lin.map.layout.kind == "replicated" or x.local_size == lin.map.size_in
    whole, seed = rng.standard_normal(25), rng.standard_normal(4)
    x.array = whole[slice(*x.owner_range)]
    A.mult(x, y)
    np.testing.assert_allclose(parallel.gather_rows(COMM, y.array), J @ whole, rtol=1e-10, atol=1e-14)
    y.array = seed[slice(*y.owner_range)]
    A.multTranspose(y, x)
    np.testing.assert_allclose(parallel.gather_rows(COMM, x.array), J.T @ seed, rtol=1e-10, atol=1e-14)

    # The least solution of J x = y by PETSc's LSQR.
    ksp = PETSc.KSP().create(COMM)
    ksp.setType("lsqr")
    ksp.setOperators(A)
    ksp.getPC().setType("none")
    ksp.setTolerances(rtol=1e-12, max_it=100)
    ksp.solve(y, x)
    close(parallel.gather_rows(COMM, x.array), np.linalg.lstsq(J, seed, rcond=None)[0], 1e-7)
    ksp.destroy()
    A.destroy()


@pytest.mark.ranks(1, 2)
def test_singular_values_by_slepc(lin):
    SLEPc = pytest.importorskip("slepc4py.SLEPc")
    A = lin.as_petsc()
    svd = SLEPc.SVD().create(COMM)
    svd.setOperator(A)
    svd.setType("lanczos")
    svd.setDimensions(3)
    svd.solve()
    found = [svd.getValue(i) for i in range(3)]
    np.testing.assert_allclose(found, np.linalg.svd(jacobian(lin))[1][:3], rtol=1e-8)
    svd.destroy()
    A.destroy()


@pytest.mark.ranks(1, 2)
def test_a_closed_point_says_so_through_petsc(lin):
    A = lin.as_petsc()
    x, y = A.createVecs()
    lin.close()
    cause = raised_everywhere(PETSc.Error, lambda: A.mult(x, y)).__cause__
    assert isinstance(cause, BadInput) and "has been closed" in str(cause)
    A.destroy()
