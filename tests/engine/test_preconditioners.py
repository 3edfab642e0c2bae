"""Multigrid that knows the motions of a body; velocity and pressure by themselves, in few steps: beside LU."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from dolfinx import fem, mesh
from enclosed_flow import stokes
from mpi4py import MPI
from ufl import div, dx, grad, inner, sym

import relax
from relax.base.la.options import AMG, STOKES, preset

pytestmark = pytest.mark.ranks(1, 2, 3)


def test_rigid_motions_help_multigrid():
    """A beam that is held at one end: GAMG knows the motions that it is soft to, and takes less than half the steps."""
    domain = mesh.create_box(MPI.COMM_WORLD, [[0, 0, 0], [4, 1, 1]], [24, 6, 6])
    V = fem.functionspace(domain, ("Lagrange", 1, (3,)))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, (0.0, 0.0, -1.0))
    F = 2 * inner(sym(grad(u)), sym(grad(v))) * dx + 3 * div(u) * div(v) * dx - inner(f, v) * dx
    held = fem.dirichletbc(np.zeros(3), fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0.0)), V)
    problem = relax.Problem(residual=F, state=u, controls=[f], bcs=[held], name="beam")
    # 31 steps on one rank, 28 on two and three; more than 70 without.
    options = {**relax.AMG_CG, "pc_type": "gamg", "ksp_max_it": 40}
    with relax.ReducedMap(problem, relax.FieldValues(V), options=options) as G:
        assert G([0.0, 0.0, -1.0]).min() < -1.0


@pytest.mark.parametrize("advection", [0.0, 5.0])
def test_velocity_and_pressure_by_themselves(advection):
    """The preset for Stokes' equations, between walls, beside a direct solver: all derivatives, in few steps."""
    case = stokes(advection=advection, n=12)
    nonlinear = relax.Functional(inner(case.w[0], case.w[0]) * dx + case.w[2] ** 2 * dx)
    with relax.ReducedMap(case.problem, nonlinear) as G:
        m = G.present_control()
        expected = G(m)
    # Some 30 steps with BoomerAMG, though the viscosity varies a thousandfold.
    assert preset("stokes") is STOKES
    options = {**STOKES, "ksp_rtol": 1e-12, "ksp_max_it": 45 if AMG == "hypre" else 300}
    with relax.ReducedMap(case.problem, nonlinear, options=options) as G:
        np.testing.assert_allclose(G(m), expected, rtol=1e-7)
        assert relax.check_map(G, m).adjoint_gap < 1e-7


def test_derivatives_split_otherwise():
    """Parts without Schur's complement for the state, with it for derivatives, which need the mass matrix."""
    case = stokes(advection=0.0)
    plain = {
        "ksp_type": "gmres", "ksp_max_it": 2000, "ksp_gmres_restart": 300, "pc_type": "fieldsplit",
        "pc_fieldsplit_type": "additive", "fieldsplit_1_ksp_type": "preonly", "fieldsplit_1_pc_type": "none",
    }  # fmt: skip
    options = {**plain, **{f"lin_{key}": value for key, value in STOKES.items()}}
    kinetic = relax.Functional(inner(case.w[0], case.w[0]) * dx)
    with relax.ReducedMap(case.problem, kinetic) as G, relax.ReducedMap(case.problem, kinetic, options=options) as H:
        m = G.present_control()
        np.testing.assert_allclose(H.linearize(m).vjp(np.ones(1)), G.linearize(m).vjp(np.ones(1)), rtol=1e-6)
