"""Navier and Stokes' equations between walls, where the pressure is known up to a constant."""

from __future__ import annotations

from types import SimpleNamespace

import basix.ufl
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI
from ufl import div, dx, grad, inner

import relax


def stokes(advection=5.0, n=6, rows=None):
    """The state, its space and the problem, whose control is the viscosity; it varies 1000-fold without inertia."""
    domain = mesh.create_unit_square(MPI.COMM_WORLD, n, rows or n)
    P2, P1 = (basix.ufl.element("Lagrange", "triangle", d, shape=s) for d, s in ((2, (2,)), (1, ())))
    W = fem.functionspace(domain, basix.ufl.mixed_element([P2, P1]))
    w, nu = fem.Function(W), fem.Constant(domain, 0.7)
    (u, p), (v, q) = ufl.split(w), ufl.TestFunctions(W)
    x, y = ufl.SpatialCoordinate(domain)
    f = ufl.as_vector((ufl.sin(3 * y), x * y))
    rough = 1.0 if advection else 10.0 ** (1.5 * ufl.sin(6 * x) * ufl.cos(5 * y))
    F = nu * rough * inner(grad(u), grad(v)) * dx - p * div(v) * dx - q * div(u) * dx - inner(f, v) * dx
    if advection:
        F += advection * inner(grad(u) * u, v) * dx
    bcs = [relax.clamp_boundary(W.sub(0), 0.0)]
    return SimpleNamespace(
        W=W, w=w, problem=relax.Problem(residual=F, state=w, controls=[nu], bcs=bcs, nullspace="constants", name="ns")
    )
