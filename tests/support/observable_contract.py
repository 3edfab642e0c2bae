"""What every observable must do."""

from __future__ import annotations

import numpy as np
import pytest
from contract import CLOSE, COMM, close, everyone_has, largest
from dolfinx import fem
from mpi4py import MPI

from relax import Observable, meshes
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout


class ObservableContract:
    """An observable: its tangent, adjoint and second derivative, and the same numbers on any number of ranks.

    Attributes:
        problem: a function of a mesh that returns a problem; only its state is used.
        domain: a function of a communicator that returns the mesh.
        make: a function of the problem that returns the observable.
    """

    problem = None
    domain = staticmethod(lambda comm: meshes.unit_square(3, comm=comm))
    make = None

    def setting(self, comm=COMM):
        """The observable, and three random fields that do not depend on the number of ranks, the first in the state."""
        problem = type(self).problem(type(self).domain(comm))
        V, u = problem.state.function_space, problem.state
        numbering, rng = SpaceLayout(V), np.random.default_rng(4)
        fields = [u, fem.Function(V), fem.Function(V)]
        for field in fields:
            field.x.array[:] = numbering.spread(rng.uniform(-1.0, 1.0, numbering.size))
        B = type(self).make(problem)
        B.check_state(u)
        return B, numbering, fields, rng.standard_normal(B.size)

    @pytest.mark.ranks(1, 2)
    def test_derivatives(self):
        """The tangent is the derivative, the adjoint its transpose, second the derivative of the adjoint."""
        B, numbering, (u, d, e), w = self.setting()
        here = u.x.array.copy()
        y, tangent, adjoint, second = B.value(u), B.tangent(u, d), B.adjoint(u, w).copy(), B.second(u, w, d).copy()
        np.testing.assert_array_equal(u.x.array, here)
        n = numbering.num_owned
        assert y.shape == tangent.shape == (B.size,) and adjoint.shape == second.shape == (n,)
        everyone_has(y)
        everyone_has(tangent)
        assert w @ tangent == pytest.approx(parallel.dot(COMM, adjoint, d.x.array[:n]), rel=1e-12, abs=1e-13)
        # Hessians are symmetric; 1e-6 because a second without formula is a central difference.
        other = B.second(u, w, e)
        pair = parallel.dot(COMM, second, e.x.array[:n]), parallel.dot(COMM, other, d.x.array[:n])
        assert pair[0] == pytest.approx(pair[1], rel=1e-6, abs=1e-12)
        errors = []
        for step in (2e-2, 1e-2):
            above, below = (self.moved(B, u, here + s * step * d.x.array, w) for s in (1.0, -1.0))
            slopes = (above[0] - below[0]) / (2 * step), (above[1] - below[1]) / (2 * step)
            errors.append([np.abs(slopes[0] - tangent).max(), parallel.largest(COMM, largest(slopes[1] - second))])
        u.x.array[:] = here
        # Central differences: errors fall by four, or are rounding where B is quadratic.
        assert (np.array(errors[1]) <= np.maximum(0.3 * np.array(errors[0]), 1e-7)).all(), errors
        if B.is_linear:
            close(tangent, B.value(d))
            assert largest(second) == 0.0

    @staticmethod
    def moved(B, u, values, w):
        u.x.array[:] = values
        return B.value(u), B.adjoint(u, w).copy()

    @pytest.mark.ranks(2, 3)
    def test_same_numbers_as_on_one_rank(self):
        (B, numbering, (u, d, _), w), (alone, whole, (v, e, _), _) = self.setting(), self.setting(MPI.COMM_SELF)
        close(B.value(u), alone.value(v))
        close(B.tangent(u, d), alone.tangent(v, e))
        for ours, theirs in ((B.adjoint(u, w), alone.adjoint(v, w)), (B.second(u, w, d), alone.second(v, w, e))):
            # A second derivative without formula divides rounding of 1e-16 by a step of 1e-4.
            close(numbering.gather(ours), whole.gather(theirs), 1e-8 if type(B).second is Observable.second else CLOSE)
