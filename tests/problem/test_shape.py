"""What the words say that refuse a mesh as a control: a shape as a displacement of a mesh that stays."""

import numpy as np
import pytest
from dolfinx import fem
from ufl import Identity, SpatialCoordinate, TestFunction, det, dot, dx, grad, inner, inv

import relax

pytestmark = pytest.mark.ranks(1, 2)


def moved(x):
    return np.stack([0.2 * x[0] * x[1], -0.3 * x[1] ** 2])


def seen(F, u, controls):
    problem = relax.Problem(residual=F, state=u, controls=controls, name="shape")
    return relax.ReducedMap(problem, relax.Functional(u**2 * dx))


def test_a_displacement():
    """-Lap u + u = x y on a mesh that has moved, and on one that stays with a displacement: the same states."""
    mesh, elsewhere = relax.meshes.unit_square(3), relax.meshes.unit_square(3)
    points = elsewhere.geometry.x
    points[:, :2] += moved(points.T).T
    V, W = (fem.functionspace(domain, ("Lagrange", 1)) for domain in (mesh, elsewhere))
    u, v, d = fem.Function(V), TestFunction(V), fem.Function(fem.functionspace(mesh, ("Lagrange", 1, (2,))))
    d.interpolate(moved)
    K, (x, y) = Identity(2) + grad(d), SpatialCoordinate(mesh) + d
    gradient = lambda f: dot(grad(f), inv(K))  # noqa: E731
    F = (inner(gradient(u), gradient(v)) + (u - x * y) * v) * det(K) * dx(degree=6)
    w, z, (x, y) = fem.Function(W), TestFunction(W), SpatialCoordinate(elsewhere)
    with (
        seen(F, u, [d]) as G,
        seen((inner(grad(w), grad(z)) + (w - x * y) * z) * dx(degree=6), w, []) as H,
    ):
        G(G.present_control())
        H([])
        np.testing.assert_allclose(u.x.array, w.x.array, rtol=1e-10)
        relax.check_map(G)
