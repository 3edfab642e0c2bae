"""What is seen of a wave function: refusals, on every rank."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, raised_everywhere
from dolfinx import fem
from waves import step, waves

from relax import PointValues, ReducedMap, meshes
from relax.errors import BadInput, BadProblem, PointsOutsideMesh
from relax.pdes.schrodinger import Density, Overlaps, Populations, energy, norm, position

WRONG_SPACES = [("Lagrange", 2), ("Lagrange", 2, (3,)), ("DG", 1, (2,)), ("N1curl", 1)]


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("element", WRONG_SPACES, ids=str)
def test_spaces_that_hold_no_wave_function(element):
    V = fem.functionspace(meshes.unit_square(2), element)
    u, phi = fem.Function(V), fem.Function(fem.functionspace(V.mesh, ("Lagrange", 2)))
    for name, action in (
        ("Overlaps", lambda: Overlaps(V, [phi])),
        ("Populations", lambda: Populations(V, [phi])),
        ("Density", lambda: Density(V)),
        ("norm", lambda: norm(u)),
        ("position", lambda: position(u)),
        ("energy", lambda: energy(u, 0.0)),
    ):
        text = str(raised_everywhere(BadProblem, action))
        assert text.startswith(f"{name}: expected") and '("Lagrange", degree, (2,))' in text


@pytest.mark.ranks(1, 2)
def test_things_that_are_no_space_and_no_state():
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2, 2)))
    W = fem.functionspace(V.mesh, ("Lagrange", 2, (2,)))
    for action in (lambda: Density(V), lambda: Density(W.sub(0)), lambda: Density(fem.Function(W)), lambda: norm(W)):
        assert "expected" in str(raised_everywhere(BadProblem, action))


@pytest.mark.ranks(1, 2)
def test_potentials_that_are_no_numbers():
    psi = fem.Function(fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,))))
    x = ufl.SpatialCoordinate(psi.function_space.mesh)
    for potential, words in ((x, "scalar"), (np.nan, "finite"), (lambda x: 1j * x[0], "real"), ([1.0, 2.0], "finite")):
        assert words in str(raised_everywhere(BadInput, lambda potential=potential: energy(psi, potential)))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("make", [Overlaps, Populations])
def test_states_that_do_not_fit(make):
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    elsewhere = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2))
    phi = waves(V)[0]
    for states, kind, words in (
        ([], BadInput, "at least one"),
        (phi, BadInput, "[phi]"),
        ([phi, 1.0], BadInput, "float at place 1"),
        (3, BadInput, "int"),
        ([phi, fem.Function(elsewhere)], BadProblem, "state 1 on another mesh"),
        ([fem.Function(fem.functionspace(V.mesh, ("Lagrange", 1)))], BadProblem, "state 0 in"),
        ([fem.Function(fem.functionspace(V.mesh, ("Lagrange", 2, (3,))))], BadProblem, "state 0 in"),
    ):
        assert words in str(raised_everywhere(kind, lambda states=states: make(V, states)))


@pytest.mark.ranks(1, 2)
def test_states_that_are_wrong_on_one_rank_only():
    """Every rank is told, none waits."""
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    last = COMM.rank == COMM.size - 1
    states = waves(V)
    none = [] if last else states
    assert "at least one" in str(raised_everywhere(BadInput, lambda: Overlaps(V, none)))
    if COMM.size > 1:
        fewer = states[:1] if last else states
        assert "got 1 to 2" in str(raised_everywhere(BadInput, lambda: Overlaps(V, fewer)))


@pytest.mark.ranks(1, 2)
def test_observations_of_another_state():
    problem = step(meshes.unit_square(2))
    V = fem.functionspace(problem.mesh, ("Lagrange", 2, (2,)))
    psi = fem.Function(V)
    for B in (Overlaps(V, waves(V)), Populations(V, waves(V)), Density(V), Density(V, [(0.5, 0.5)])):
        error = raised_everywhere(BadProblem, lambda B=B: ReducedMap(problem, B))
        assert "the space of the state" in str(error) and str(error).startswith(type(B).__name__)
    for B in (norm(psi), position(psi), energy(psi, 0.0)):
        error = raised_everywhere(BadProblem, lambda B=B: ReducedMap(problem, B))
        assert "does not stand in the form" in str(error)


@pytest.mark.ranks(1, 2)
def test_points_outside():
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 2, (2,)))
    raised_everywhere(PointsOutsideMesh, lambda: Density(V, [(2.0, 0.5)]))
    assert PointValues(V, [(0.5, 0.5)]).size == 2 and Density(V, [(0.5, 0.5)]).size == 1
