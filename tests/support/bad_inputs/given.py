"""What mistakes are made with: small problems, maps, and what belongs to them, each made when it is first asked for."""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
import ufl
from dolfinx import fem, mesh
from mpi4py import MPI

from relax import (
    EigenMap,
    FieldValues,
    IdentityPrior,
    PointValues,
    Problem,
    ReducedMap,
    RelaxedLandscape,
    clamp_boundary,
    meshes,
    pdes,
)

COMM = MPI.COMM_WORLD


class Given:
    """A small problem and what belongs to it."""

    @cached_property
    def mesh(self):
        return meshes.unit_square(3)

    @cached_property
    def problem(self):
        return pdes.poisson.diffusion(self.mesh, source=10.0)

    @cached_property
    def V(self):
        return self.problem.state.function_space

    @cached_property
    def other(self):
        """A function of another space."""
        return fem.Function(fem.functionspace(self.mesh, ("Lagrange", 2)))

    @cached_property
    def elsewhere(self):
        """A function on another mesh."""
        return fem.Function(fem.functionspace(meshes.unit_square(2), ("Lagrange", 1)))

    @cached_property
    def u(self):
        return fem.Function(self.V)

    @cached_property
    def v(self):
        return ufl.TestFunction(self.V)

    @cached_property
    def c(self):
        return fem.Constant(self.mesh, 1.0)

    @cached_property
    def G(self):
        return ReducedMap(self.problem, FieldValues(self.V))

    @cached_property
    def m(self):
        return self.G.present_control()

    @cached_property
    def lin(self):
        return self.G.linearize(self.m)

    @cached_property
    def closed(self):
        G = ReducedMap(self.problem, FieldValues(self.V))
        G.close()
        return G

    @cached_property
    def prior(self):
        return IdentityPrior(self.G, std=1.0)

    @cached_property
    def y(self):
        return np.zeros(self.G.size_out)

    @cached_property
    def march(self):
        return heat(self)

    @cached_property
    def H(self):
        """A map in time."""
        return ReducedMap(self.march, FieldValues(self.march.state.function_space))

    @cached_property
    def numbers(self):
        """A map of one number."""
        u, c = fem.Function(self.V), fem.Constant(self.mesh, 1.0)
        F = (ufl.inner(ufl.grad(u), ufl.grad(self.v)) - c * self.v) * ufl.dx
        return ReducedMap(Problem(residual=F, state=u, controls=[c], bcs=[clamp_boundary(self.V)]), FieldValues(self.V))

    @cached_property
    def odd(self):
        """A map to one number."""
        return ReducedMap(self.problem, PointValues(self.V, [[0.4, 0.6]]))

    @cached_property
    def eigen(self):
        return EigenMap(meshes.interval(6), 2)

    @cached_property
    def line(self):
        return meshes.interval(20, (-2.0, 2.0))

    @cached_property
    def landscape(self):
        return RelaxedLandscape(self.line, lambda x: x[0] ** 2, 2.0, [0.1, 0.5], num_steps=2)

    @cached_property
    def folder(self):
        """A folder, the same on every rank."""
        return Path(COMM.bcast(tempfile.mkdtemp(prefix="relax-bad-") if COMM.rank == 0 else None))

    def file(self, name, content):
        """The path of a file of this content, text or bytes. Collective."""
        path = self.folder / name
        if COMM.rank == 0:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        COMM.Barrier()
        return path

    def close(self):
        """Free what has been made. Collective."""
        for name in ("G", "H", "numbers", "odd", "eigen", "landscape"):
            if name in vars(self):
                getattr(self, name).close()
        if "folder" in vars(self) and COMM.rank == 0:
            shutil.rmtree(self.folder)

    def poisson(self, more=lambda u: 0.0 * u, **other):
        """-Δu = m + more."""
        u, v, m = fem.Function(self.V), ufl.TestFunction(self.V), fem.Function(self.V)
        F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - m * v - more(u) * v) * ufl.dx(self.mesh)
        return Problem(**{"residual": F, "state": u, "controls": [m], "bcs": [clamp_boundary(self.V)], **other})


def single():
    return mesh.create_unit_square(COMM, 3, 3, dtype=np.float32)


def heat(g, **more):
    return pdes.heat.evolution(g.mesh, **{"num_steps": 2, "dt": 0.1, **more})


def viscous(g, **more):
    return pdes.hamilton_jacobi.viscous_evolution(
        g.mesh, **{"f": lambda x: x[0], "beta": 2.0, "t": 0.1, "num_steps": 2, **more}
    )
