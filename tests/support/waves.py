"""Wave functions for tests: a step that has them as its state, and states to look at them with."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem

from relax import Problem, clamp_boundary

DT = 0.1


def step(domain, degree=2):
    """A Crank-Nicolson step of i psi_t = -1/2 Lap psi + x psi, psi = 0 on the boundary; psi before is the control."""
    V = fem.functionspace(domain, ("Lagrange", degree, (2,)))
    psi, before, v = fem.Function(V, name="psi"), fem.Function(V, name="before"), ufl.TestFunction(V)
    before.interpolate(lambda x: np.stack([1.0 + x[0], x[0] ** 2]))
    x, mean = ufl.SpatialCoordinate(domain), 0.5 * (psi + before)
    # i psi_t = H psi is (-u_1, u_0)_t = H (u_0, u_1).
    turned = ufl.as_vector([before[1] - psi[1], psi[0] - before[0]]) / DT
    F = (ufl.inner(turned - x[0] * mean, v) - 0.5 * ufl.inner(ufl.grad(mean), ufl.grad(v))) * ufl.dx
    return Problem(residual=F, state=psi, controls=[before], bcs=[clamp_boundary(V)], name="schrodinger_step")


def function(V, f):
    """f interpolated: complex values of points as pairs where V has two components."""
    u = fem.Function(V)
    pairs = V.value_shape == (2,)

    def values(x):
        z = np.broadcast_to(f(x), x.shape[1:])
        return np.stack([z.real, z.imag]) if pairs else z.real

    u.interpolate(values)
    u.x.scatter_forward()
    return u


def scalar_space(V):
    return fem.functionspace(V.mesh, ("Lagrange", V.ufl_element().degree))


def waves(V, degree=2):
    """Two real states."""
    Q = fem.functionspace(V.mesh, ("Lagrange", degree))
    return [function(Q, lambda x, n=n: np.sin(n * np.pi * x[0]) + x[1] * x[2] + x[1]) for n in (1, 2)]


def plane_wave(V):
    return function(V, lambda x: np.exp(1j * (2.0 * x[0] - x[1])))
