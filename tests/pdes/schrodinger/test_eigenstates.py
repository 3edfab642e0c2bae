"""Stationary states of Schrödinger's equation: closed forms, orders, a dense witness, signs and bases on any ranks."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, close, everyone_has, raised_everywhere
from dolfinx import fem, mesh
from dolfinx.fem import petsc as fem_petsc
from mpi4py import MPI
from petsc4py import PETSc

from relax import FieldValues, meshes
from relax.base.la.eigen import EigenPairs
from relax.base.la.options import insert_command_line
from relax.errors import BadInput, SolveFailed
from relax.pdes.schrodinger import eigenstates
from relax.pdes.schrodinger.hamiltonian import hamiltonian

ALONE = MPI.COMM_SELF
# Energies and states of two partitions differ by rounding: 1e-16 times the condition of the pencil, 1e5 here, and for
# states over the gap, which is a clear part of the energy or one cluster.
RANKS = 1e-9


def oscillator(x):
    return 0.5 * (x[0] ** 2 + x[1] ** 2)


def interval(comm, n=40, ends=(0.0, 1.0)):
    return meshes.interval(n, ends, comm=comm)


def square(comm, n, half=5.5, cell=mesh.CellType.triangle):
    return mesh.create_rectangle(comm, ((-half, -half), (half, half)), (n, n), cell)


def quads(comm):
    return square(comm, 10, cell=mesh.CellType.quadrilateral)


def values(found):
    """The states as vectors that do not depend on the partition, (k, size)."""
    B = FieldValues(found.space)
    return np.array([B.value(psi) for psi in found.states])


def integral(domain, expression):
    return COMM.allreduce(fem.assemble_scalar(fem.form(expression * ufl.dx(domain, degree=12))))


def order(errors):
    return np.log2(np.abs(errors[0]) / np.abs(errors[1]))


# -- closed forms ------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2)
def test_particle_in_a_box():
    """E_n = n² pi² / 2 and sqrt(2) sin(n pi x); energies from above, with order 2 p = 4."""
    exact = np.arange(1, 5) ** 2 * np.pi**2 / 2
    coarse, fine = (eigenstates(interval(COMM, n), 0.0, 4) for n in (16, 32))
    assert (coarse.energies > exact).all()
    np.testing.assert_allclose(order([coarse.energies - exact, fine.energies - exact]), 4.0, atol=0.15)
    # The mesh's bounding-box weight grows with x: its moment with sin(n pi x) has the sign of (-1)^(n + 1).
    x = ufl.SpatialCoordinate(fine.space.mesh)[0]
    for n, psi in enumerate(fine.states, start=1):
        closed = (-1) ** (n + 1) * np.sqrt(2) * ufl.sin(n * np.pi * x)
        # P2 interpolation: h³ |psi'''| times a constant below one.
        assert np.sqrt(integral(fine.space.mesh, (psi - closed) ** 2)) < (n * np.pi / 32) ** 3
    everyone_has(fine.energies)
    assert fine.clusters == () and fine.residuals.max() < 1e-10


def test_degree_one():
    exact = np.arange(1, 4) ** 2 * np.pi**2 / 2
    errors = [eigenstates(interval(COMM, n), 0.0, 3, degree=1).energies - exact for n in (32, 64)]
    np.testing.assert_allclose(order(errors), 2.0, atol=0.05)


@pytest.mark.slow
def test_oscillator_in_the_plane():
    """n_x + n_y + 1. At |x| = 5.5 the density is below e^-30: the box changes no digit that is looked at."""
    exact = np.array([1.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    errors = [eigenstates(square(COMM, n), oscillator, 6).energies / exact - 1.0 for n in (32, 64)]
    assert np.abs(errors[1]).max() < 1e-4
    np.testing.assert_allclose(order(errors), 4.0, atol=0.15)


def test_box_in_space():
    found = eigenstates(mesh.create_unit_cube(COMM, 4, 4, 4, mesh.CellType.hexahedron), 0.0, 4)
    np.testing.assert_allclose(found.energies / (np.pi**2 / 2), [3, 6, 6, 6], rtol=1e-2)
    assert found.clusters == (range(1, 4),)


# -- a dense witness ---------------------------------------------------------------------------------------------------


def dense(make, potential, degree):
    """All energies, from matrices that are assembled here and diagonalised by LAPACK."""
    domain = make(ALONE)
    V = fem.functionspace(domain, ("Lagrange", degree))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    W = fem.Function(V)
    W.interpolate(potential)
    facets = mesh.exterior_facet_indices(_connected(domain))
    clamped = fem.locate_dofs_topological(V, domain.topology.dim - 1, facets)
    free = np.setdiff1d(np.arange(V.dofmap.index_map.size_local), clamped)
    matrices = []
    for form in (hamiltonian(u, v, W), ufl.inner(u, v) * ufl.dx):
        A = fem_petsc.assemble_matrix(fem.form(form))
        A.assemble()
        matrices.append(A[:, :][np.ix_(free, free)])
        A.destroy()
    inverse = np.linalg.inv(np.linalg.cholesky(matrices[1]))
    return np.linalg.eigvalsh(inverse @ matrices[0] @ inverse.T)


def _connected(domain):
    domain.topology.create_connectivity(domain.topology.dim - 1, domain.topology.dim)
    return domain.topology


CASES = {
    "interval": (interval, lambda x: 50 * np.cos(5 * x[0]), 2, 5),
    "oscillator, triangles": (lambda c: square(c, 10), oscillator, 2, 6),
    "oscillator, squares: clusters": (quads, oscillator, 2, 6),
    "oscillator, a cluster cut": (quads, oscillator, 2, 5),
    "cube of hexahedra: threefold": (
        lambda c: mesh.create_unit_cube(c, 3, 3, 3, mesh.CellType.hexahedron),
        lambda x: 0 * x[0],
        2,
        7,
    ),
    "two cells: ranks without degrees of freedom, all states": (lambda c: interval(c, 2), lambda x: 7.0 + x[0], 2, 3),
    "two wells: pairs next to equal": (
        lambda c: interval(c, 80, (-4.0, 4.0)),
        lambda x: 10 * (x[0] ** 2 - 4) ** 2,
        2,
        4,
    ),
    "walls of 1e8": (
        lambda c: interval(c, 80, (-8.0, 8.0)),
        lambda x: 1e8 * (np.abs(x[0]) > 5) + 0.5 * x[0] ** 2,
        2,
        4,
    ),
    "a spike that hardly binds": (lambda c: interval(c, 100), lambda x: -800 * (np.abs(x[0] - 0.4) < 1e-3), 1, 2),
    "a spike that binds": (lambda c: interval(c, 100), lambda x: -4e4 * (np.abs(x[0] - 0.4) < 1e-3), 1, 3),
}


@pytest.mark.slow
@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_same_as_dense_and_as_on_one_rank(case):
    """Every energy with its multiplicity, none of a clamped value; states with their signs and bases."""
    make, potential, degree, k = case
    found = eigenstates(make(COMM), potential, k, degree=degree)
    exact = dense(make, potential, degree)
    # LAPACK on the whole matrix is exact to 1e-16 of the largest eigenvalue.
    np.testing.assert_allclose(found.energies, exact[:k], rtol=1e-9, atol=1e-14 * exact[-1])
    everyone_has(found.energies)
    alone = eigenstates(make(ALONE), potential, k, degree=degree)
    np.testing.assert_allclose(found.energies, alone.energies, rtol=RANKS)
    assert found.clusters == alone.clusters
    close(values(found), values(alone), RANKS)


def test_states_are_orthonormal_and_clusters_have_their_basis():
    found = eigenstates(quads(COMM), oscillator, 6)
    assert found.clusters == (range(1, 3), range(4, 6))
    domain = found.space.mesh
    gram = [[integral(domain, a * b) for a in found.states] for b in found.states]
    np.testing.assert_allclose(gram, np.eye(6), atol=1e-12)
    x = ufl.SpatialCoordinate(domain)
    weights = [ufl.exp((a * x[0] + b * x[1]) / 11) for a, b in ((1.3, 0.9), (-2.1, 1.1), (3.7, -2.3), (0.8, 2.9))]
    for cluster in found.clusters:
        one, other = (found.states[i] for i in cluster)
        # The rule of the weights is of degree 5 and this of 12: they differ by some 1e-5, no basis but this is so near.
        assert min(abs(integral(domain, w * one * other)) for w in weights) < 1e-4
    for psi in found.states:
        assert integral(domain, weights[0] * psi) > 0


def test_a_constant_moves_the_energies_alone():
    """Also a large one: 1e6 + E holds E to 1e-10."""
    low, high = (eigenstates(quads(COMM), lambda x, c=c: c + oscillator(x), 4) for c in (0.0, 1e6))
    np.testing.assert_allclose(high.energies - 1e6, low.energies, atol=3e-9)
    assert high.clusters == low.clusters
    close(values(high), values(low), 1e-7)


def test_potentials_of_every_kind():
    domain = interval(COMM)
    x = ufl.SpatialCoordinate(domain)[0]
    field = fem.Function(fem.functionspace(domain, ("Lagrange", 2)))
    field.interpolate(lambda x: 30 * x[0] ** 2)
    of_function = eigenstates(domain, lambda x: 30 * x[0] ** 2, 2)
    for potential in (field, 30 * x**2):
        close(eigenstates(domain, potential, 2).energies, of_function.energies, 1e-12)
    box = eigenstates(domain, 0.0, 2)
    for potential in (3, fem.Constant(domain, 3.0), np.float64(3.0)):
        close(eigenstates(domain, potential, 2).energies, box.energies + 3.0, 1e-12)


def test_the_shift_moves_up_to_the_spectrum(monkeypatch):
    """Seen from the bottom of a narrow spike all energies look alike; the second search starts next to them."""
    shifts = []
    krylov = EigenPairs._krylov

    def noting(self, count, known):
        shifts.append(self._shift)
        return krylov(self, count, known)

    monkeypatch.setattr(EigenPairs, "_krylov", noting)
    make, potential, degree, k = CASES["a spike that hardly binds"]
    first = eigenstates(make(COMM), potential, k, degree=degree).energies[0]
    assert len(shifts) == 2 and shifts[0] == 0.0 and 0.5 * 800 < shifts[1] < 800 + first


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_state_that_was_passed_over_is_found(monkeypatch, dropped):
    """A Krylov method may skip a copy, or a state: the inertia tells, and the search goes on in the complement."""
    krylov = EigenPairs._krylov
    calls = []

    def skipping(self, count, known):
        calls.append(count)
        if len(calls) > 1:
            return krylov(self, count, known)
        return np.delete(krylov(self, count + 1, known), dropped, axis=0)

    expected = eigenstates(quads(COMM), oscillator, 3)
    monkeypatch.setattr(EigenPairs, "_krylov", skipping)
    found = eigenstates(quads(COMM), oscillator, 3)
    assert calls[1:] == [1]
    close(found.energies, expected.energies, 1e-11)
    close(values(found), values(expected), RANKS)


@pytest.mark.ranks(1, 2)
def test_wrong_input_is_refused_on_every_rank():
    domain = interval(COMM, 4)
    bad = fem.Function(fem.functionspace(domain, ("Lagrange", 1)))
    if COMM.rank == COMM.size - 1:
        bad.x.array[:] = np.nan
    x = ufl.SpatialCoordinate(domain)
    for action, words in (
        (lambda: eigenstates(domain, 0.0, 0), "at least 1, got 0"),
        (lambda: eigenstates(domain, 0.0, 1.5), "at least 1, got 1.5"),
        (lambda: eigenstates(domain, 0.0, 8), "at most 7"),
        (lambda: eigenstates(domain, 0.0, 0 if COMM.rank == 0 else 1), "at least 1"),
        (lambda: eigenstates(domain, bad, 1), "NaN or infinity"),
        (lambda: eigenstates(domain, 1 / (x[0] - x[0]), 1), "NaN or infinity"),
        (lambda: eigenstates(domain, np.inf, 1), "finite"),
        (lambda: eigenstates(domain, lambda x: 1 / (x[0] - x[0]), 1), "NaN or infinity"),
        (lambda: eigenstates(domain, ufl.as_vector([x[0], x[0]]), 1), "a scalar"),
        (lambda: eigenstates(domain, 0.0, 1, options={"ksp_type": "cg"}), "st_ksp_type"),
        (lambda: eigenstates(domain, 0.0, 1, options={"st_pc_type": "nonesuch"}), "nonesuch"),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            assert words in str(raised_everywhere(BadInput, action))


@pytest.mark.ranks(1, 2)
def test_too_few_iterations_are_told():
    options = {"eps_ncv": 12, "eps_max_it": 1}
    domain = square(COMM, 12)
    message = str(raised_everywhere(SolveFailed, lambda: eigenstates(domain, oscillator, 10, options=options)))
    assert "of 11 eigenpairs" in message and "-relax_eigen_eps_max_it" in message


@pytest.mark.ranks(1, 2)
def test_the_command_line_stands_above_the_options():
    domain = square(COMM, 12)
    insert_command_line(["-relax_eigen_eps_max_it", "1", "-relax_eigen_eps_ncv", "12"])
    try:
        raised_everywhere(SolveFailed, lambda: eigenstates(domain, oscillator, 10, options={"eps_max_it": 500}))
    finally:
        for name in ("eps_max_it", "eps_ncv"):
            PETSc.Options().delValue(f"relax_eigen_{name}")
    assert eigenstates(domain, oscillator, 10).energies.shape == (10,)


def test_another_solver_of_the_shifted_operator():
    """An iterative one: no factor is made, nothing counted."""
    options = {"st_ksp_type": "cg", "st_ksp_rtol": 1e-13, "st_pc_type": "jacobi", "eps_tol": 1e-10}
    found = eigenstates(interval(COMM), 0.0, 2, options=options)
    close(found.energies, eigenstates(interval(COMM), 0.0, 2).energies, 1e-9)
