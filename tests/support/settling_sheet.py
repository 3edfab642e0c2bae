"""A sheet of resistors, and springs, that settle."""

from __future__ import annotations

import numpy as np
import ufl
from dolfinx import fem
from mpi4py import MPI

from relax import Energy, Misfit, PointValues, clamp, meshes
from relax.base.fem.layout import SpaceLayout
from relax.train import Aeqprop

# One in a cell with clamped values.
POINTS = [(0.05, 0.4), (0.5, 0.8), (0.6, 0.2)]
Y = np.array([0.1, 0.6, 0.5])


class Sheet:
    """A sheet with the conductivity e^θ (1 + 0.2 |grad s|²), held at 0 and at 1 on two sides, seen at three points.

    ``is_log``: else it is θ (...). ``degree``: of θ, in the very space of the state, or by cells. ``bend``: 0.2 above.
    """

    def __init__(self, n=6, is_log=True, degree=1, bend=0.2, comm=MPI.COMM_WORLD):
        self.mesh = meshes.unit_square(n, comm=comm)
        V = fem.functionspace(self.mesh, ("Lagrange", 1))
        Q = V if degree == 1 else fem.functionspace(self.mesh, ("DG", 0))
        self.s, self.theta, self.x = fem.Function(V), fem.Function(Q), fem.Constant(self.mesh, 1.0)
        self.theta.interpolate(lambda x: 0.3 * x[0] + (0.0 if is_log else 0.5))
        g, factor = ufl.inner(ufl.grad(self.s), ufl.grad(self.s)), ufl.exp(self.theta) if is_log else self.theta
        source = 0.3 * self.x * self.s
        self.E = (factor * (g / 2 + bend * g**2 / 4) - source) * ufl.dx
        self.bcs = [clamp(V, "left", 0.0), clamp(V, "right", 1.0)]
        self.energy = Energy(E=self.E, state=self.s, parameters=[self.theta], bcs=self.bcs, name="sheet")
        self.misfit = Misfit(PointValues(V, POINTS), Y, noise=0.5)
        self.layout = SpaceLayout(Q)

    def values(self):
        """Of θ, in an order that no partition touches."""
        return self.layout.gather(self.theta.x.array[: self.layout.num_owned])

    def learner(self, **more):
        return Aeqprop(self.energy, self.misfit, **{"rate": 1e-4, "nudging": 0.1, "metric": "euclidean", **more})


class Springs:
    """A black box: E = ½ θ (s - x)² + ¼ s⁴, settled by bisection and by hand."""

    def settle(self, u, theta, x, y, beta):
        t, s = theta.copy(), np.zeros(1)
        for _ in range(200):
            for _ in range(50):
                slope = t * (s - x) + s**3 + beta * (s - y)
                s = s - slope / (t + 3 * s**2 + beta)
            moved = u - 0.05 * 0.5 * (s - x) ** 2
            if np.abs(moved - t).max() < 1e-15:
                break
            t = moved
        return t, s
