"""Problems of optimal control that several files of tests minimise something of."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from ufl import dx, grad, inner

import relax
from relax import Cost, Misfit
from relax.base.fem.layout import SpaceLayout

ALPHA = 1e-5


def bump(x):
    return 0.1 * np.exp(-20.0 * ((x[0] - 0.3) ** 2 + (x[1] - 0.6) ** 2))


def cut(whole, V, layout):
    """This rank's part of a vector in the order that does not depend on the ranks."""
    here = SpaceLayout(V)
    return whole if layout == "replicated" else here.spread(whole)[: here.num_owned]


class Plate:
    """-div(exp(c) grad u) + u³ = f, u = 0 around a square: a source f and a number c are controls."""

    def __init__(self, n=5):
        self.mesh = relax.meshes.unit_square(n)
        self.V = fem.functionspace(self.mesh, ("Lagrange", 1))
        self.u, v = fem.Function(self.V, name="u"), ufl.TestFunction(self.V)
        self.f, self.c = fem.Function(self.V, name="f"), fem.Constant(self.mesh, 0.0)
        F = (ufl.exp(self.c) * inner(grad(self.u), grad(v)) + (self.u**3 - self.f) * v) * dx
        bcs = [relax.clamp_boundary(self.V)]
        self.problem = relax.Problem(residual=F, state=self.u, controls=[self.f, self.c], bcs=bcs, name="plate")
        # Of terms: what a sensor sees, what a field does, and an integral of state and controls.
        self.sees = relax.PointValues(self.V, [(0.3, 0.4), (0.6, 0.7), (0.8, 0.2)])
        self.tracks = 0.5 * (1.0 + self.c**2) * (self.u - 0.1) ** 2 * dx
        self.costs = 0.5 * (0.1 + ufl.exp(self.c)) * inner(grad(self.f), grad(self.f)) * dx + self.f**4 * dx

    def term(self, name, layout):
        if name == "sensors":
            covariance = np.array([[0.02, 0.01, 0.0], [0.01, 0.03, 0.0], [0.0, 0.0, 0.01]])
            return Misfit(relax.ReducedMap(self.problem, self.sees, layout=layout), [0.1, 0.2, 0.3], covariance)
        if name == "field":
            G = relax.ReducedMap(self.problem, relax.FieldValues(self.V), layout=layout)
            return Misfit(G, np.full(G.size_out, 0.2), noise=0.1, precision="L2")
        if name == "functional":
            return Cost(relax.ReducedMap(self.problem, relax.Functional(self.tracks), layout=layout))
        G = relax.ReducedMap(self.problem, self.sees, layout=layout)
        return 0.0 * Misfit(G) + self.costs


class Linear:
    """-Δu = f: the source f that brings u near d."""

    def __init__(self, n, space=("Lagrange", 1), layout="replicated", d=None):
        self.mesh = relax.meshes.unit_square(n)
        V, W = fem.functionspace(self.mesh, ("Lagrange", 1)), fem.functionspace(self.mesh, space)
        u, v, self.f = fem.Function(V), ufl.TestFunction(V), fem.Function(W)
        F = (inner(grad(u), grad(v)) - self.f * v) * dx
        problem = relax.Problem(residual=F, state=u, controls=[self.f], bcs=[relax.clamp_boundary(V)], name="source")
        self.G = relax.ReducedMap(problem, relax.FieldValues(V), layout=layout)
        x = ufl.SpatialCoordinate(self.mesh)
        eigenfunction = ufl.sin(ufl.pi * x[0]) * ufl.sin(ufl.pi * x[1])
        d = relax.interpolated(eigenfunction / (2.0 * ufl.pi**2) if d is None else d, V)
        self.misfit = Misfit(self.G, relax.FieldValues(V).value(d), precision="L2")
        self.J = self.misfit + 0.5 * ALPHA * self.f**2 * dx

    def start(self, value=0.0):
        return relax.control_values(self.G, value)

    def quadratic(self):
        """The matrix and the slope at zero of J, by dense algebra."""
        A = self.G.linearize(self.start()).matrix()
        M, N = (relax.FieldValues(W) for W in (self.misfit.observable._part.space, self.f.function_space))
        mass, data = M.mass(np.eye(M.size)), self.misfit.data
        return A.T @ mass @ A + ALPHA * N.mass(np.eye(N.size)), -A.T @ mass @ data
