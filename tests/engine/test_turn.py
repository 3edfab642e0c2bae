"""A map is one caller's at a time, and an observable is what it says: anything else is an error, not other numbers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere
from dolfinx import fem
from mpi4py import MPI

from relax import BadInput, BadProblem, FieldValues, Observable, ReducedMap, meshes, pdes

COMM = MPI.COMM_WORLD


class Own(Observable):
    """What a test says it is."""

    def __init__(self, value, size=1):
        self.size, self._value = size, value

    def value(self, u):
        return self._value(u)

    def tangent(self, u, du):
        return self._value(du)

    def adjoint(self, u, dy):
        return np.zeros(u.function_space.dofmap.index_map.size_local)


def heat():
    return pdes.heat.evolution(meshes.unit_square(2), num_steps=3, dt=0.1)


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("make", [lambda: pdes.poisson.diffusion(meshes.unit_square(2)), heat], ids=["Poisson", "heat"])
def test_a_map_within_its_own_observable_is_refused(make):
    """Also another map of the same problem: both write its state."""
    problem = make()
    inner = ReducedMap(problem, FieldValues(problem.state.function_space))
    m = np.ones(inner.size_in)
    outer = ReducedMap(problem, Own(lambda u: inner(m)[:1]))
    words = str(raised_everywhere(BadInput, lambda: outer(m)))
    assert "another call of this problem's maps is under way, which has called this" in words
    # An error ends the turn.
    assert np.isfinite(inner(m)).all()
    other = make()
    free = ReducedMap(other, FieldValues(other.state.function_space))
    close(ReducedMap(problem, Own(lambda u: free(m)[:1]))(m), inner(m)[:1], 1e-12)


def test_threads_take_turns():
    """The second one is told; what it would have got was a mixture of both."""
    problem = pdes.poisson.diffusion(meshes.unit_square(2))
    inside, go_on = threading.Event(), threading.Event()

    def slow(u):
        inside.set()
        assert go_on.wait(30.0)
        return np.zeros(1)

    G = ReducedMap(problem, Own(slow))
    first = threading.Thread(target=lambda: G(np.zeros(G.size_in)))
    first.start()
    assert inside.wait(30.0)
    with pytest.raises(BadInput, match="in another thread"):
        G(np.zeros(G.size_in))
    go_on.set()
    first.join()
    assert G(np.zeros(G.size_in)) == 0.0


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("make", [lambda: pdes.poisson.diffusion(meshes.unit_square(2)), heat], ids=["Poisson", "heat"])
@pytest.mark.parametrize("value", [np.zeros(3), 0.0, np.zeros((1, 2))], ids=["3", "none", "two axes"])
def test_an_observation_of_another_length_is_named(make, value):
    G = ReducedMap(make(), Own(lambda u: value, size=2))
    words = str(raised_everywhere(BadProblem, lambda: G(np.zeros(G.size_in))))
    assert words.startswith("Own.value: expected a vector of length 2")


@pytest.mark.ranks(2, 3)
def test_an_observation_that_differs_between_ranks_is_named():
    """The likeliest mistake in an observable of one's own: the part of an integral that this rank has."""
    problem = pdes.poisson.diffusion(meshes.unit_square(4), source=10.0)
    # Weighed by x, since the halves of a square are alike.
    form = fem.form(ufl.SpatialCoordinate(problem.mesh)[0] * problem.state * ufl.dx)
    for call in (lambda G: G(np.zeros(G.size_in)), lambda G: G.linearize(np.zeros(G.size_in))):
        G = ReducedMap(problem, Own(lambda u: np.array([fem.assemble_scalar(form)])))
        assert "comm.allreduce" in str(raised_everywhere(BadProblem, lambda G=G, call=call: call(G)))
    whole = ReducedMap(problem, Own(lambda u: np.array([COMM.allreduce(fem.assemble_scalar(form))])))
    assert whole(np.zeros(whole.size_in)) > 0.0
