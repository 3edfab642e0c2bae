"""The terms of a library against test functions: a matrix for each trajectory of the unknown."""

from __future__ import annotations

from collections.abc import Sequence

import basix
import numpy as np
import scipy.sparse
import ufl
from dolfinx import fem
from ufl.core.expr import Expr

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

    Attributes:
        columns: what the terms are made of.
        centres: of the bumps in space, (num_bumps, dim).
        jets: by degree and power, for each bump its weight in each quadrature point of this rank, sparse.
        in_time: by order, for each bump in time its weight at each time.
        where: the quadrature points of this rank, (num_points, dim).
        origin: of monomials.
    """

    def __init__(self, library: Library, tests: Bumps, times: Array) -> None:
        self.library = library
        self.layout = SpaceLayout(library.space)
        domain, dim = library.mesh, library.mesh.geometry.dim
        self._mesh, self._comm = domain, domain.comm
        self._cells = np.arange(domain.topology.index_map(dim).size_local, dtype=np.int32)
        degree = 2 * library.space.ufl_element().embedded_superdegree + 4
        self._points, weights = basix.make_quadrature(library.space.ufl_element().cell_type, degree)
        low, high = parallel.extremes(self._comm, domain.geometry.x)
        self.origin_values: Array = 0.5 * (low + high)[:dim]
        self.origin = ufl.as_vector([fem.Constant(domain, x) for x in self.origin_values])
        self.columns = library.columns(self.origin)
        x = ufl.SpatialCoordinate(domain)
        geometry = self.compiled([*x, abs(ufl.JacobianDeterminant(domain))])
        where = geometry.eval(domain, self._cells).reshape(-1, dim + 1)
        self.where: Array = where[:, :dim]
        volumes = where[:, dim] * np.tile(weights, len(self._cells))
        bumps = tests.in_space(domain)
        self.centres = bumps.centres
        self.jets = {
            (degree, beta): scipy.sparse.csr_array(g * volumes)
            for degree in {c.degree for c in self.columns}
            for beta, g in bumps.jets(self.where, self.origin_values, degree).items()
        }
        self.in_time = tests.in_time(times)
        self._expression = self.compiled([c.expression for c in self.columns])
        self._num_in_time = len(self.in_time[0])
        self.num_tests = len(bumps.centres) * library.num_components * self._num_in_time

    def __call__(self, trajectories: Array) -> Array:
        """A of each trajectory: (num, num_times, size) -> (num, num_tests, num_terms), the same on every rank."""
        num = len(trajectories)
        A = np.zeros((num, len(self.library.names), self.library.num_components, len(self.centres), self._num_in_time))
        for i in range(num):
            values = self.values_of(self._expression, trajectories[i])
            for column, at in zip(self.columns, values, strict=True):
                in_space = self.jets[column.degree, column.power] @ at
                A[i, column.term, column.component] += in_space @ self.in_time[column.order].T
        whole = parallel.sum_over_ranks(self._comm, A.reshape(num, len(self.library.names), self.num_tests))
        return whole.transpose(0, 2, 1)

    def compiled(self, expressions: Sequence[Expr]) -> fem.Expression:
        """Scalars in x and the unknown, to be evaluated in the quadrature points. Collective."""
        return fem.Expression(ufl.as_vector(list(expressions)), self._points, comm=self._comm)

    def values_of(self, compiled: fem.Expression, trajectory: Array) -> Array:
        """Scalars in the points of this rank, for each state: (num, num_points, num_states). Local."""
        u, values = self.library.u, []
        for state in trajectory:
            u.x.array[:] = self.layout.spread(state)
            at = compiled.eval(self._mesh, self._cells)
            values.append(at.reshape(len(self.where), *compiled.ufl_expression.ufl_shape))
        return np.ascontiguousarray(np.array(values).transpose(2, 1, 0))
