"""The terms of a library against test functions: a matrix for each trajectory of the unknown."""

from __future__ import annotations

import basix
import numpy as np
import scipy.sparse
import ufl
from dolfinx import fem

from relax.base import parallel
from relax.base.fem.layout import SpaceLayout
from relax.base.types import Array
from relax.discovery.compact import Bumps
from relax.discovery.library import Library


class WeakMatrix:
    """A (tests, terms): the integral over space and time of each term against each test function.

    Collective to make and to call. Derivatives in time have gone to the test functions; in space the terms say
    themselves what is taken of which. All terms are evaluated in the quadrature points of a cell at once.

    Args:
        library: the terms.
        tests: the test functions.
        times: (num_times,) of the states of a trajectory.
    """

    def __init__(self, library: Library, tests: Bumps, times: Array) -> None:
        self.library = library
        self.layout = SpaceLayout(library.space)
        domain, dim = library.mesh, library.mesh.geometry.dim
        self._mesh, self._comm = domain, domain.comm
        self._cells = np.arange(domain.topology.index_map(dim).size_local, dtype=np.int32)
        degree = 2 * library.space.ufl_element().embedded_superdegree + 4
        points, weights = basix.make_quadrature(library.space.ufl_element().cell_type, degree)
        low, high = parallel.extremes(self._comm, domain.geometry.x)
        origin = 0.5 * (low + high)[:dim]
        self._columns = library.columns(ufl.as_vector([fem.Constant(domain, x) for x in origin]))
        x = ufl.SpatialCoordinate(domain)
        geometry = fem.Expression(ufl.as_vector([*x, abs(ufl.JacobianDeterminant(domain))]), points)
        where = geometry.eval(domain, self._cells).reshape(-1, dim + 1)
        volumes = where[:, dim] * np.tile(weights, len(self._cells))
        bumps = tests.in_space(domain)
        #: (num_bumps, dim): where bumps are, and their radii.
        self.centres, self.radii = bumps.centres, bumps.radii
        self._jets = {
            (degree, beta): scipy.sparse.csr_array(g * volumes)
            for degree in {c.degree for c in self._columns}
            for beta, g in bumps.jets(where[:, :dim], origin, degree).items()
        }
        self._in_time = tests.in_time(times)
        terms = ufl.as_vector([c.expression for c in self._columns])
        self._expression = fem.Expression(terms, points, comm=self._comm)
        self._num_in_time = len(self._in_time[0])
        self.num_tests = len(bumps.centres) * library.num_components * self._num_in_time

    def __call__(self, trajectories: Array) -> Array:
        """A of each trajectory: (num, num_times, size) -> (num, num_tests, num_terms), the same on every rank."""
        num = len(trajectories)
        A = np.zeros((num, len(self.library.names), self.library.num_components, len(self.centres), self._num_in_time))
        for i in range(num):
            values = self._values(trajectories[i])
            for column, at in zip(self._columns, values, strict=True):
                in_space = self._jets[column.degree, column.power] @ at
                A[i, column.term, column.component] += in_space @ self._in_time[column.order].T
        whole = parallel.sum_over_ranks(self._comm, A.reshape(num, len(self.library.names), self.num_tests))
        return whole.transpose(0, 2, 1)

    def _values(self, trajectory: Array) -> Array:
        """Each column in all quadrature points of this rank, at all times: (num_columns, num_points, num_times)."""
        u = self.library.u
        values = []
        for state in trajectory:
            u.x.array[:] = self.layout.spread(state)
            values.append(self._expression.eval(self._mesh, self._cells).reshape(-1, len(self._columns)))
        return np.ascontiguousarray(np.array(values).transpose(2, 1, 0))
