"""Coefficients of another mesh: their values at the points of a space, once."""

from __future__ import annotations

import numpy as np
import pytest
from contract import COMM, close, raised_everywhere
from dolfinx import fem
from mpi4py import MPI

import relax
from relax.errors import BadInput

pytestmark = pytest.mark.ranks(1, 2, 3)


def quadratic(x):
    return x[0] ** 2 - 2.0 * x[0] * x[1] + 3.0


def given(mesh, degree=2, shape=()):
    f = fem.Function(fem.functionspace(mesh, ("Lagrange", degree, shape)), name="f")
    f.interpolate(quadratic if not shape else lambda x: np.stack([quadratic(x), x[1]]))
    return f


@pytest.mark.parametrize("element", [("Lagrange", 2), ("DG", 1), ("Lagrange", 2, (2,))])
def test_values_of_another_mesh(element):
    """Exact where both spaces hold the function, on any partition of either mesh, its boundary included."""
    f = given(relax.meshes.unit_square(5, cell="quadrilateral"), shape=element[2:] and element[2])
    V = fem.functionspace(relax.meshes.unit_square(4), element)
    exact = fem.Function(V)
    exact.interpolate(quadratic if not element[2:] else lambda x: np.stack([quadratic(x), x[1]]))
    found = relax.interpolated(f, V)
    close(found.x.array, exact.x.array, 1e-10)
    f.x.array[:] = 0.0
    close(found.x.array, exact.x.array, 1e-10)


def test_an_equation_takes_it():
    """-div(exp(m) grad u) = f: the source of another mesh, and the same function."""
    f, states = given(relax.meshes.unit_square(6)), []
    for source in (f, quadratic):
        problem = relax.pdes.poisson.diffusion(relax.meshes.unit_square(4), source=source, degree=2)
        with relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space)) as G:
            states.append(G(relax.control_values(G, lambda x: x[0])))
    close(states[0], states[1], 1e-9)


def test_refused():
    mesh = relax.meshes.unit_square(4)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    small = given(relax.meshes.rectangle((0.0, 0.0), (0.5, 1.0), (3, 3)))
    error = str(raised_everywhere(BadInput, lambda: relax.interpolated(small, V)))
    per_cell = COMM.allreduce(mesh.topology.index_map(2).size_local + mesh.topology.index_map(2).num_ghosts) * 3
    assert f"of {per_cell} points" in error and "outside its mesh" in error
    vector = given(relax.meshes.unit_square(3), shape=(2,))
    assert "shape ()" in str(raised_everywhere(BadInput, lambda: relax.interpolated(vector, V)))
    if COMM.size > 1:
        alone = given(relax.meshes.unit_square(3, comm=MPI.COMM_SELF))
        assert "other ranks" in str(raised_everywhere(BadInput, lambda: relax.interpolated(alone, V)))
    other = given(relax.meshes.unit_square(3))
    assert "same mesh" in str(raised_everywhere(BadInput, lambda: relax.interpolated(2.0 * other, V)))
