"""Inverse problems in a few numbers whose maps are known in closed form, as equations of jobs, too."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from dolfinx.mesh import Mesh

import relax

SENSORS = np.linspace(0.125, 1.0, 8)


def chirp(mesh: Mesh, *, frequency: float = 20.0, num: int = 1) -> relax.Problem:
    """u = the sum over i of sin(frequency m_i x^(i + 1)) at every node, from ``num`` numbers m."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, x = fem.Function(V, name="u"), ufl.TestFunction(V), ufl.SpatialCoordinate(mesh)
    m = fem.Constant(mesh, np.full(num, 0.5))
    waves = sum(ufl.sin(frequency * m[i] * x[0] ** (i + 1)) for i in range(num))
    # By the rule of the vertices u is the interpolant.
    at_nodes = ufl.dx(metadata={"quadrature_rule": "vertex", "quadrature_degree": 1})
    return relax.Problem(residual=(u - waves) * v * at_nodes, state=u, controls=[m], name="chirp")


def exact(m: np.ndarray, *, frequency: float = 20.0) -> np.ndarray:
    """What the sensors see: m (..., num) -> (..., 8)."""
    m = np.asarray(m)
    return sum(np.sin(frequency * m[..., [i]] * SENSORS ** (i + 1)) for i in range(m.shape[-1]))


def root(mesh: Mesh) -> relax.Problem:
    """u² = m, the same all over: no solution for m below 0."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    u.x.array[:] = 1.0
    m = fem.Constant(mesh, 1.0)
    return relax.Problem(residual=(u**2 - m) * v * ufl.dx, state=u, controls=[m], name="root")
