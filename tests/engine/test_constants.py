"""Vectors of numbers as controls: one form for all entries, and the derivatives of as many numbers."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import close, everyone_has
from dolfinx import fem
from ufl import dot, dS, ds, dx, grad

from relax import PointValues, Problem, ReducedMap, check_map, clamp, meshes, theta_evolution
from relax.base.fem import compiling

POINTS = [(0.31, 0.42), (0.5, 0.5), (0.77, 0.18)]


def network(V, weights):
    """-Lap u + u + jumps = Σ a_i tanh(b_i x + c_i u), on cells, facets inside and out; weights (3 n)."""
    u, v = fem.Function(V), ufl.TestFunction(V)
    x = ufl.SpatialCoordinate(V.mesh)
    a, b, c = weights[::3], weights[1::3], weights[2::3]
    n = ufl.FacetNormal(V.mesh)
    out = sum(a[i] * ufl.tanh(b[i] * x[0] + c[i] * u) for i in range(len(a)))
    F = (dot(grad(u), grad(v)) + u * v - out * v - v) * dx + out * v * ds
    F += ufl.avg(out * u) * ufl.jump(grad(u), n) * ufl.jump(grad(v), n) * dS + a[0] * ufl.avg(u * v) * dS
    return F, u


def entries(c):
    return [c[i] for i in range(len(c.value))]


def make(n, together=True):
    mesh = meshes.unit_square(4)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    values = np.random.default_rng(4).uniform(0.1, 0.6, 3 * n)
    controls = [fem.Constant(mesh, values)] if together else [fem.Constant(mesh, value) for value in values]
    F, u = network(V, entries(controls[0]) if together else controls)
    problem = Problem(residual=F, state=u, controls=controls, bcs=[clamp(V, "left")], name="network")
    return ReducedMap(problem, PointValues(V, POINTS)), values


@pytest.mark.slow
@pytest.mark.ranks(1, 2, 3)
def test_a_vector_is_as_many_numbers():
    """On cells and on facets, at first and at second order."""
    (G, m), (one_by_one, _) = make(2), make(2, together=False)
    assert check_map(G, m).failures == []
    rng = np.random.default_rng(5)
    w, d = rng.standard_normal((5, 3)), rng.standard_normal(6)
    with G.linearize(m) as lin, one_by_one.linearize(m) as expected:
        close(lin.vjp(w[0]), expected.vjp(w[0]))
        close(lin.vjp(w), [expected.vjp(row) for row in w])
        close(lin.hvp(w[0], d), expected.hvp(w[0], d))
        everyone_has(lin.vjp(w[0]))


def compiled_forms(monkeypatch, action):
    """How many forms an action compiles in relax's own modules."""
    counts, original = [], compiling.compiled_together
    with monkeypatch.context() as patch:
        patch.setattr(compiling, "compiled_together", lambda f, mesh: (counts.append(len(f)), original(f, mesh))[1])
        action()
    return sum(counts)


@pytest.mark.slow
def test_one_form_however_many_entries(monkeypatch):
    def everything(n):
        G, m = make(n)
        with G.linearize(m) as lin:
            lin.vjp(np.ones(3))
            lin.hvp(np.ones(3), np.ones(3 * n))
            lin.matrix()

    few, many = (compiled_forms(monkeypatch, lambda n=n: everything(n)) for n in (1, 4))
    assert few == many


@pytest.mark.slow
def test_one_form_in_time(monkeypatch):
    """Steps that are affine in all entries, whose matrices are combined of one for each."""

    def everything(n):
        mesh = meshes.unit_square(3)
        V = fem.functionspace(mesh, ("Lagrange", 1))
        u, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, np.full(n, 0.3))
        x = ufl.SpatialCoordinate(mesh)
        diffusion = 1.0 + sum(k[i] * x[0] ** i for i in range(n))
        step = theta_evolution(
            diffusion * dot(grad(u), grad(v)) * dx - v * dx, u, initial=0.0, dt=0.1, num_steps=2, controls=[k],
            per_step=[k], bcs=[clamp(V, "left")], name="affine",
        )  # fmt: skip
        G = ReducedMap(step, PointValues(V, POINTS))
        assert check_map(G).failures == []

    few, many = (compiled_forms(monkeypatch, lambda n=n: everything(n)) for n in (1, 4))
    assert few == many
