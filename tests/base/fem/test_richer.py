"""Spaces of one order more, and what is clamped in them, against DOLFINx's own search on the same facets."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
from dolfinx import fem, mesh
from mpi4py import MPI

from relax import clamp_boundary, meshes
from relax.base import parallel
from relax.base.fem.forms import num_owned
from relax.base.fem.richer import clamped_in, interpolate, richer

pytestmark = pytest.mark.ranks(1, 2, 3)

SPACES = {
    "P1": lambda cell: basix.ufl.element("Lagrange", cell, 1),
    "P2": lambda cell: basix.ufl.element("Lagrange", cell, 2),
    "vector": lambda cell: basix.ufl.element("Lagrange", cell, 1, shape=(2,)),
    "symmetric": lambda cell: basix.ufl.element("Lagrange", cell, 1, shape=(2, 2), symmetry=True),
    "DG": lambda cell: basix.ufl.element("Lagrange", cell, 1, discontinuous=True),
    "RT": lambda cell: basix.ufl.element("RT" if cell == "triangle" else "RTCF", cell, 1),
}


def _all_on(space, dim, entities):
    space.mesh.topology.create_connectivity(dim, space.mesh.topology.dim)
    blocks = fem.locate_dofs_topological(space, dim, entities)
    return np.sort((blocks[:, None] * space.dofmap.bs + np.arange(space.dofmap.bs)).ravel())


# The diagonal of a corner cell joins two sides, so that both its ends are clamped.
@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize("name", SPACES)
def test_what_is_clamped(name, cell):
    domain = meshes.unit_square(3, cell=cell)
    V = fem.functionspace(domain, SPACES[name](cell))
    W = richer(V)
    assert W.ufl_element().embedded_superdegree > V.ufl_element().embedded_superdegree
    domain.topology.create_connectivity(1, 2)
    outer = mesh.exterior_facet_indices(domain.topology)
    found = clamped_in(W, V, _all_on(V, 1, outer))
    assert (found == _all_on(W, 1, outer)).all()


@pytest.mark.parametrize("cell", ["triangle", "quadrilateral"])
@pytest.mark.parametrize("name", SPACES)
def test_what_is_clamped_within(name, cell):
    """A line that ends within the mesh, and a cell: a pressure that jumps is held in one."""
    domain = meshes.unit_square(4, cell=cell)
    V = fem.functionspace(domain, SPACES[name](cell))
    W = richer(V)
    line = mesh.locate_entities(domain, 1, lambda x: (np.abs(x[0] - 0.5) < 0.1) & (np.abs(x[1] - 0.5) < 0.3))
    corner = mesh.locate_entities(domain, 2, lambda x: (x[0] < 0.6) & (x[0] > 0.2) & (x[1] < 0.3) & (x[1] > -0.1))
    for dim, entities in (1, line), (2, corner[:0] if name != "DG" else corner):
        low, high = (_all_on(space, dim, entities) for space in (V, W))
        assert (clamped_in(W, V, low) == high).all()
    assert name != "DG" or parallel.total(domain.comm, len(high)) > 0


@pytest.mark.parametrize("family", ["Lagrange", "N1curl"])
def test_what_is_clamped_of_a_cube(family):
    """An edge of an outer facet may belong to a rank that has no such facet."""
    domain = mesh.create_unit_cube(MPI.COMM_WORLD, 3, 3, 3)
    V = fem.functionspace(domain, (family, 1))
    W = richer(V)
    domain.topology.create_connectivity(2, 3)
    outer = mesh.exterior_facet_indices(domain.topology)
    assert (clamped_in(W, V, _all_on(V, 2, outer)) == _all_on(W, 2, outer)).all()


def test_parts_of_a_mixed_space():
    """The second component of the first field, on all of the boundary; fields go over one by one."""
    domain = meshes.unit_square(3)
    pair = [basix.ufl.element("Lagrange", "triangle", 2, shape=(2,)), basix.ufl.element("Lagrange", "triangle", 1)]
    V = fem.functionspace(domain, basix.ufl.mixed_element(pair))
    W = richer(V)
    low, high = (clamp_boundary(space.sub(0).sub(1)).dof_indices()[0] for space in (V, W))
    assert (clamped_in(W, V, low) == np.sort(high)).all()
    u, w, back = fem.Function(V), fem.Function(W), fem.Function(V)
    u.x.array[:] = np.cos(np.arange(len(u.x.array)))
    u.x.scatter_forward()
    interpolate(u, w)
    interpolate(w, back)
    assert np.abs((back.x.array - u.x.array)[: num_owned(V)]).max(initial=0.0) <= 1e-12
