"""Meshes that do not know the order of a file: parts of others."""

from __future__ import annotations

import pytest
import ufl
from contract import close
from dolfinx import fem, mesh

import relax
from relax import FieldValues, PointValues, ReducedMap, Stack, meshes

pytestmark = pytest.mark.ranks(1, 2, 3)


def test_a_mesh_that_is_a_part_of_another():
    """A submesh does not know the order of its file: values, points and control vectors are there all the same."""
    square = meshes.unit_square(4)
    L = mesh.create_submesh(square, 2, mesh.locate_entities(square, 2, lambda x: (x[0] <= 0.5) | (x[1] <= 0.5)))[0]
    V = fem.functionspace(L, ("Lagrange", 1))
    u, m, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    residual = (ufl.inner(ufl.grad(u), ufl.grad(v)) - m * v) * ufl.dx
    problem = relax.Problem(residual=residual, state=u, controls=[m], bcs=[relax.clamp_boundary(V)])
    B = Stack([PointValues(V, [(0.25, 0.7), (0.5, 0.5)]), FieldValues(V)])
    with ReducedMap(problem, B) as G:
        relax.check_map(G)
        values = FieldValues(V).coordinates[:, 0] - 0.5
        G(values)
        close(FieldValues(V).value(m), values)
        close(PointValues(V, [(0.2, 0.7), (0.5, 0.5)]).value(m), [-0.3, 0.0], 1e-12)
