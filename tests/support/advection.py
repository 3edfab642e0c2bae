"""Diffusion with a wind: the smallest operator that is not symmetric, for what its linear solvers do."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem

import relax
from relax import FieldValues, ReducedMap, meshes

SUPERLU_DIST = {"pc_factor_mat_solver_type": "superlu_dist"}


def advection(name="advection", velocity=(20.0, 5.0), n=8):
    """-Lap u + b . grad u + exp(m) u = 1 + m, u = 0 on the boundary; b a parameter."""
    domain = meshes.unit_square(n)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    b = fem.Constant(domain, velocity)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + ufl.dot(b, ufl.grad(u)) * v + (ufl.exp(m) * u - 1.0 - m) * v) * ufl.dx
    return relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name=name)


def map_of(problem, options=None, **more):
    return ReducedMap(problem, FieldValues(problem.state.function_space), options=options, **more)


def directions(G, k, seed=1):
    return np.random.default_rng(seed).standard_normal((k, G.size_out))


def solver_of(G):
    """The linear solver of the map's first factor."""
    return G.solution.operators.factors._factors[0].solver


def control(G):
    return 0.1 * np.sin(np.arange(G.size_in))
