"""EigenMap of two forms beside closed forms: strings, cavities, plates, beams, bodies that nothing holds."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, close
from dolfinx import fem, mesh
from dolfinx.fem import petsc as fem_petsc
from ufl import avg, curl, div, dS, dx, grad, inner, jump, sym

from relax import EigenMap, check_map, clamp, clamp_boundary, control_values, meshes
from relax.base.la.eigen import EigenPairs


def dense(forms, bcs):
    """All eigenvalues, from matrices that are assembled here and diagonalised by LAPACK; on one rank."""
    V = forms[0].arguments()[0].ufl_function_space()
    size = V.dofmap.index_map.size_local * V.dofmap.index_map_bs
    free = np.setdiff1d(np.arange(size), np.concatenate([bc.dof_indices()[0] for bc in bcs] or [[]]))
    matrices = []
    for form in forms:
        A = fem_petsc.assemble_matrix(fem.form(form))
        A.assemble()
        matrices.append(A[:, :][np.ix_(free, free)])
        A.destroy()
    inverse = np.linalg.inv(np.linalg.cholesky(matrices[1]))
    return np.linalg.eigvalsh(inverse @ matrices[0] @ inverse.T)


def test_a_string_of_two_densities():
    """1 and 4, held at both ends: ω = 2 atan √2, 2 (π - atan √2), 2 π."""
    domain = meshes.interval(16)
    V, Q = fem.functionspace(domain, ("Lagrange", 3)), fem.functionspace(domain, ("DG", 0))
    u, v, density = ufl.TrialFunction(V), ufl.TestFunction(V), fem.Function(Q)
    forms = inner(grad(u), grad(v)) * dx, density * u * v * dx
    with EigenMap(forms, 3, controls=[density], bcs=[clamp_boundary(V)]) as G:
        found = np.sqrt(G(control_values(G, lambda x: np.where(x[0] < 0.5, 1.0, 4.0))))
        np.testing.assert_allclose(found, [2 * np.arctan(2**0.5), 2 * (np.pi - np.arctan(2**0.5)), 2 * np.pi], 1e-6)


@pytest.mark.parametrize("shift", [0.0, 100.0, 1e6, -1e4])
def test_operators_that_are_not_definite(shift, monkeypatch):
    """-u'' - s u with free ends: (n π)² - s, the constant among them, wherever 0 lies in the spectrum.

    However many lie below 0, not more are computed than asked for.
    """
    krylov, counts = EigenPairs._krylov, []
    monkeypatch.setattr(
        EigenPairs, "_krylov", lambda self, count, known: counts.append(count) or krylov(self, count, known)
    )
    domain = meshes.interval(20)
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    forms = (inner(grad(u), grad(v)) - shift * u * v) * dx, u * v * dx
    for k in (1, 4):
        with EigenMap(forms, k) as G:
            for _ in range(2):
                # Of degree 2 on 20 cells; rounding is 1e-16 of the largest eigenvalue, and of the shift.
                np.testing.assert_allclose(G([]) + shift, (np.arange(k) * np.pi) ** 2, rtol=1e-4, atol=1e-8)
            assert max(counts) == k + 1


def cavity(domain, k, **options):
    """curl curl u = λ ε u, no tangential part at the wall."""
    V = fem.functionspace(domain, ("N1curl", 2))
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    permittivity = fem.Function(fem.functionspace(domain, ("DG", 0)))
    forms = inner(curl(u), curl(v)) * dx, permittivity * inner(u, v) * dx
    return EigenMap(forms, k, controls=[permittivity], bcs=[clamp_boundary(V)], **options)


@pytest.mark.ranks(1, 2)
def test_a_cavity():
    """m² + n² in (0, π)², without the gradients, which all have λ = 0 (Boffi, Acta Numerica 19, 2010).

    On an oblong no two are equal, and the permittivity has derivatives.
    """
    with cavity(mesh.create_rectangle(COMM, ((0.0, 0.0), (np.pi, np.pi)), (6, 6)), 7, bounds=(0.5, 5.5)) as G:
        np.testing.assert_allclose(G(np.ones(G.size_in)), [1, 1, 2, 4, 4, 5, 5], rtol=2e-3)
    oblong = mesh.create_rectangle(COMM, ((0.0, 0.0), (np.pi, 2.0)), (4, 3))
    with cavity(oblong, 3, bounds=(0.5, 3.8)) as G:
        np.testing.assert_allclose(G(np.ones(G.size_in)), [1.0, np.pi**2 / 4, 1 + np.pi**2 / 4], rtol=1e-2)
        report = check_map(G, control_values(G, lambda x: 1.0 + 0.1 * np.sin(2 * x[0] + x[1])))
        assert report.failures == [] and report.adjoint_gap < 1e-12
    with cavity(oblong, 2, bounds=(0.5, 2.8), states=True) as G:
        report = check_map(G, control_values(G, lambda x: 1.0 + 0.1 * np.sin(2 * x[0] + x[1])))
        assert report.failures == [] and report.adjoint_gap < 1e-12


def test_a_plate():
    """t³ Δ² u = λ t u, simply supported: 4 π⁴ and 25 π⁴ in a square, by interior penalty; λ goes with t²."""
    lowest = []
    for cells in (8, 16):
        domain = meshes.unit_square(cells)
        V = fem.functionspace(domain, ("Lagrange", 2))
        u, v, t = ufl.TrialFunction(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
        n, h = ufl.FacetNormal(domain), avg(ufl.CellDiameter(domain))

        def consistent(u, v, n=n):
            return avg(div(grad(u))) * jump(grad(v), n) * dS

        bending = div(grad(u)) * div(grad(v)) * dx - consistent(u, v) - consistent(v, u)
        a = t**3 * (bending + 8 / h * jump(grad(u), n) * jump(grad(v), n) * dS)
        with EigenMap((a, t * u * v * dx), 3, controls=[t], bcs=[clamp_boundary(V)]) as G:
            with G.linearize([1.3]) as lin:
                lowest.append(lin.value[0] / 1.69)
                close(lin.matrix()[:, 0], 2 * lin.value / 1.3, 1e-9)
                close([lin.hvp(w, [1.0])[0] for w in np.eye(3)], 2 * lin.value / 1.69, 1e-8)
    errors = np.array(lowest) / (4 * np.pi**4) - 1
    assert errors[1] < 0.02 and np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


def elastic(domain, young, density):
    """Plane stress with ν = 0.3: forms, and their space."""
    V = fem.functionspace(domain, ("Lagrange", 2, (2,)))
    u, v, nu = ufl.TrialFunction(V), ufl.TestFunction(V), 0.3
    e, f = sym(grad(u)), sym(grad(v))
    stress = young / (1 - nu**2) * ((1 - nu) * e + nu * ufl.tr(e) * ufl.Identity(2))
    return (inner(stress, f) * dx, density * inner(u, v) * dx), V


@pytest.mark.ranks(1, 2)
def test_a_beam():
    """A slender cantilever: λ_i = k_i⁴ E I / (ρ A L⁴), k_i = 1.8751, 4.6941 (Euler and Bernoulli); E, ρ are fields."""
    domain = mesh.create_rectangle(COMM, ((0.0, 0.0), (10.0, 0.3)), (20, 1), mesh.CellType.quadrilateral)
    Q = fem.functionspace(domain, ("DG", 0))
    young, density = fem.Function(Q), fem.Function(Q)
    forms, V = elastic(domain, young, density)
    clamped = [clamp(V, lambda x: np.isclose(x[0], 0.0))]
    with EigenMap(forms, 2, controls=[young, density], bcs=clamped, states=True) as G:
        m = control_values(G, 210.0, 7.8)
        thin = np.array([1.875104, 4.694091]) ** 4 * 210.0 * 0.3**2 / 12 / (7.8 * 1e4)
        # Shear and rotary inertia, about (k h / L)² of it, lower them.
        np.testing.assert_allclose(G(m)[:2], thin, rtol=1.5e-2)
        report = check_map(G, m)
        assert report.failures == [] and report.adjoint_gap < 1e-12


@pytest.mark.ranks(1, 2)
def test_a_free_body():
    """Three rigid motions with λ = 0 are one cluster, however many are asked for; and a part of a space is clamped."""
    domain = mesh.create_rectangle(COMM, ((0.0, 0.0), (2.0, 1.0)), (4, 2))
    forms, V = elastic(domain, 210e9, 7800.0)
    for k in (2, 4):
        with EigenMap(forms, k) as G:
            found = G([])
            np.testing.assert_allclose(found[:3], 0.0, atol=1e-3)
    assert found[3] == pytest.approx(EigenMap(forms, 1, bounds=(1e6, 1.1 * found[3]))([])[0], rel=1e-9)
    sliding = [clamp(V.sub(0), lambda x: np.isclose(x[0], 0.0)), clamp(V.sub(1), lambda x: np.isclose(x[1], 0.0))]
    with EigenMap(forms, 3, bcs=sliding) as G:
        value = G([])
        if COMM.size == 1:
            close(value, dense(forms, sliding)[:3], 1e-9)
        assert value[0] > 1e6
