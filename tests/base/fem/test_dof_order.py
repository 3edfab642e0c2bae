"""Moments of facets, edges and cells: their order and their sign do not know the partition."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from basix.ufl import element
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI
from ufl import curl, div, dx, inner

from relax import FieldValues, Functional, Problem, ReducedMap, check_map, control_values, fill, meshes
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput

COMM = MPI.COMM_WORLD

SPACES = {
    "RT": ("triangle", lambda c: element("RT", c, 1)),
    "a rank without cells": ("two triangles", lambda c: element("RT", c, 2)),
    "N1curl of degree 2": ("triangle", lambda c: element("N1curl", c, 2)),
    "BDM": ("triangle", lambda c: element("BDM", c, 1)),
    "Crouzeix-Raviart": ("triangle", lambda c: element("CR", c, 1)),
    "three rows of RT": ("tetrahedron", lambda c: element("RT", c, 1, shape=(3,))),
    "three moments of a facet": ("tetrahedron", lambda c: element("RT", c, 2)),
    "tangents of a facet": ("tetrahedron", lambda c: element("N1curl", c, 2)),
    "quadrilaterals": ("quadrilateral", lambda c: element("RT", c, 2)),
    "tangents of hexahedra": ("hexahedron", lambda c: element("N1curl", c, 2)),
    "moments in cells": ("triangle", lambda c: element("DG", c, 2, lagrange_variant=basix.LagrangeVariant.legendre)),
    "mixed": (
        "tetrahedron",
        lambda c: basix.ufl.mixed_element([element("DG", c, 0), element("N1curl", c, 2), element("P", c, 1)]),
    ),
}


def skew_mesh(cell, comm=COMM):
    if cell == "two triangles":  # fewer than three ranks
        domain = meshes.unit_square(1, comm=comm)
    elif cell in ("tetrahedron", "hexahedron"):
        domain = meshes.unit_cube(2, cell=cell, comm=comm)
    else:
        domain = meshes.unit_square(3, cell=cell, comm=comm)
    x = domain.geometry.x
    x += 0.05 * np.sin(3.0 * x[:, [1, 2, 0]] + 1.0)
    return domain


def field(V):
    """A function of x in any space."""
    u = fem.Function(V)
    is_mixed = V.num_sub_spaces > 0 and V.dofmap.bs == 1
    for part in [u.sub(i) for i in range(V.num_sub_spaces)] if is_mixed else [u]:
        n = int(np.prod(part.function_space.value_shape, dtype=np.int64))
        part.interpolate(lambda x, n=n: np.array([np.sin((j + 1) * x[0] + 2 * x[1] - j * x[2]) + j for j in range(n)]))
    u.x.scatter_forward()
    return u


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("name", SPACES)
def test_a_field_has_one_vector(name):
    """A function of x gives the numbers of one rank; back it is the same field; derivatives go the transposed way."""
    cell, make = SPACES[name]
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        domain = skew_mesh(cell, comm)
        V = fem.functionspace(domain, make(domain.basix_cell()))
        u, values, layout = field(V), FieldValues(V), SpaceLayout(V)
        y = values.value(u)
        back = fem.Function(V)
        fill(back, y)
        close(back.x.array, u.x.array, 1e-12)
        dy, rng = np.cos(np.arange(values.size)), np.random.default_rng(COMM.rank)
        du = rng.standard_normal(layout.num_owned)
        dual = values.adjoint(u, dy)
        sides = layout.gather(du) @ dy, comm.allreduce(du @ dual)
        assert sides[0] == pytest.approx(sides[1], abs=1e-12 * len(y))
        close(layout.gather(dual, dual=True), dy, 1e-12)
        found.append((y, values.coordinates))
    everyone_has(found[0][0])
    close(found[0][0], found[1][0], 1e-12)
    close(found[0][1], found[1][1], 1e-12)


def mixed_poisson(comm):
    """sigma (1 + |f|²/2) + grad u = f, div sigma = 1, u = 0 at the boundary (weakly), on triangles; f in RT."""
    domain = skew_mesh("triangle", comm)
    cell = domain.basix_cell()
    state = fem.Function(
        fem.functionspace(domain, basix.ufl.mixed_element([element("RT", cell, 1), element("DG", cell, 0)]))
    )
    f = fem.Function(fem.functionspace(domain, ("RT", 1)))
    (s, u), (t, v) = ufl.split(state), ufl.TestFunctions(state.function_space)
    F = ((1 + inner(f, f) / 2) * inner(s, t) - u * div(t) - inner(f, t) + (div(s) - 1) * v) * dx
    return Problem(residual=F, state=state, controls=[f], name="mixed_poisson"), (inner(s, s) + u**2) * dx


def curl_curl(comm):
    """curl curl u + (1 + |m|²) u = m on tetrahedra, u and m in N1curl of degree 2."""
    V = fem.functionspace(meshes.unit_cube(1, comm=comm), ("N1curl", 2))
    u, m, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    F = (inner(curl(u), curl(v)) + (1 + inner(m, m)) * inner(u, v) - inner(m, v)) * dx
    return Problem(residual=F, state=u, controls=[m], name="curl_curl"), inner(u, u) ** 2 * dx


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("make", [mixed_poisson, curl_curl])
def test_controls_that_are_moments(make):
    """One control vector is one state, on any number of ranks: value, gradient, Hessian action, rows of all values."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        problem, form = make(comm)
        with ReducedMap(problem, Functional(form)) as G:
            n = problem.mesh.geometry.dim
            m = control_values(G, lambda x, n=n: np.stack([np.sin(x[0] + x[1]), x[0] - x[2], x[1] ** 2])[:n])
            d = np.cos(np.arange(G.size_in))
            if comm is COMM and COMM.size < 3:
                report = check_map(G, m)
                assert report.adjoint_gap < 1e-12
            with G.linearize(m + 0.1 * d) as lin:
                found.append([m, lin.value, lin.vjp([1.0]), lin.hvp([1.0], d), lin.jvp(d)])
                assert lin.vjp([1.0]) @ d == pytest.approx(lin.jvp(d)[0], rel=1e-12)
    for ours, alone in zip(*found, strict=True):
        everyone_has(ours)
        close(ours, alone, 1e-9)


def test_a_cell_without_an_orientation():
    """A hexahedron whose edge is a point: values of its moments have no sign."""
    x = np.array([[i, j, k] for k in (0, 1) for j in (0, 1) for i in (0, 1)], dtype=float)
    x[7] = x[6]
    cube = mesh.create_mesh(
        MPI.COMM_SELF, cells=np.arange(8)[None, :], x=x, e=element("P", "hexahedron", 1, shape=(3,))
    )
    V = fem.functionspace(cube, ("RT", 1))
    error = raised_everywhere(BadInput, lambda: SpaceLayout(V).gather(np.zeros(SpaceLayout(V).num_owned)))
    assert "layout='owned'" in str(error)
