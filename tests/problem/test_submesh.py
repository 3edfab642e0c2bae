"""Controls on a part of the mesh, its boundary or some of its cells, against the same on the whole mesh."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import COMM, close, everyone_has, raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI
from ufl import dx, grad, inner

from relax import (
    FieldValues,
    Functional,
    Problem,
    ReducedMap,
    SmoothnessPrior,
    check_map,
    clamp,
    clamp_boundary,
    control_values,
    meshes,
    theta_evolution,
)
from relax.base.fem.layout import SpaceLayout
from relax.errors import BadInput, BadProblem

pytestmark = pytest.mark.ranks(1, 2, 3)


def top_of(domain):
    return meshes.submesh(domain, domain.topology.dim - 1, meshes.facets(domain, "top"))


def left_half(domain):
    """Its left half as a mesh, and dx of that."""
    cells = mesh.locate_entities(domain, domain.topology.dim, lambda x: x[0] < 0.51)
    tags = mesh.meshtags(domain, domain.topology.dim, cells, np.ones(len(cells), dtype=np.int32))
    return meshes.submesh(domain, domain.topology.dim, cells), ufl.dx(domain=domain, subdomain_data=tags)(1)


def steered(domain, kind, part, layout="replicated", name="part"):
    """-Δu + u³ (+ m² u in the left half) = 0, ∂u/∂n = exp(m) at the top; ∫ u² dx + ∫ m² u over the part is seen."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V, name="u"), ufl.TestFunction(V)
    F = (inner(grad(u), grad(v)) + u**3 * v) * ufl.dx(domain=domain)
    if kind == "boundary":
        m = fem.Function(fem.functionspace(top_of(domain) if part else domain, ("Lagrange", 2)))
        over = meshes.ds(domain, "top")
        F -= ufl.exp(m) * v * over
    else:
        half, over = left_half(domain)
        m = fem.Function(fem.functionspace(half if part else domain, ("Lagrange", 2)))
        F = compat_dx(F, over) + ((inner(m, m) + inner(grad(m), grad(m))) * u - 1) * v * over
    problem = Problem(residual=F, state=u, controls=[m], bcs=[clamp(V, "bottom", 0.1)], name=name)
    measure = ufl.dx(domain=domain, subdomain_data=over.subdomain_data()) if kind == "cells" else ufl.dx(domain=domain)
    return ReducedMap(problem, Functional(u**2 * measure + m**2 * u * over), layout=layout)


def compat_dx(form, over):
    """The integrals of a form with the tags of a measure: DOLFINx 0.9 wants them in all of one kind."""
    return ufl.Form([i.reconstruct(subdomain_data=over.subdomain_data()) for i in form.integrals()])


def smooth(x):
    return np.sin(2.0 * x[0]) + x[2] * x[0]


MESHES = {"boundary": meshes.unit_cube, "cells": meshes.unit_square}


@pytest.mark.parametrize("kind", ["boundary", "cells"])
def test_same_as_a_field_on_the_whole_mesh(kind):
    """And as on one rank: value, gradient, tangent, Hessian action. Orders and the adjoint gap by check_map."""
    n = 2 if kind == "boundary" else 4
    with steered(MESHES[kind](n), kind, True) as G, steered(MESHES[kind](n), kind, False, name="whole") as whole:
        alone = steered(MESHES[kind](n, comm=MPI.COMM_SELF), kind, True)
        m, M = control_values(G, smooth), control_values(whole, smooth)
        d, D = control_values(G, lambda x: np.cos(3.0 * x[0])), control_values(whole, lambda x: np.cos(3.0 * x[0]))
        if COMM.size < 3:
            report = check_map(G, m)
            assert report.failures == [] and report.adjoint_gap < 1e-12
        with G.linearize(m) as lin, whole.linearize(M) as all_, alone.linearize(m) as other:
            for ours, theirs in ((lin.vjp([1.0]), other.vjp([1.0])), (lin.hvp([1.0], d), other.hvp([1.0], d))):
                everyone_has(ours)
                close(ours, theirs, 1e-9)
            close(lin.value, other.value)
            close(lin.value, all_.value)
            close(lin.jvp(d), all_.jvp(D))
            # Entries inside are zero: what is left is the same numbers, in the same order.
            for ours, theirs in ((lin.vjp([1.0]), all_.vjp([1.0])), (lin.hvp([1.0], d), all_.hvp([1.0], D))):
                x, X = (FieldValues(f.problem.controls[0].function_space).coordinates for f in (G, whole))
                inside = X[:, 2] > 0.99 if kind == "boundary" else X[:, 0] < 0.51
                close(x, X[inside], 1e-12)
                close(ours, theirs[inside], 1e-9)
                close(theirs[~inside], 0.0 * theirs[~inside])
        alone.close()


@pytest.mark.ranks(1, 2)
def test_owned_layout():
    with steered(meshes.unit_cube(2), "boundary", True, layout="owned") as G:
        assert check_map(G, control_values(G, smooth)).failures == []


@pytest.mark.parametrize("element", [("DG", 1), ("DG", 0), ("Lagrange", 1)])
def test_order_on_a_part(element):
    """Several values at a vertex are told apart by the middle of their cell: those of a submesh have no numbers."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        V = fem.functionspace(top_of(meshes.unit_cube(2, comm=comm)), element)
        layout, x = SpaceLayout(V), fem.Function(V)
        cells = V.mesh.topology.index_map(2).size_local + V.mesh.topology.index_map(2).num_ghosts
        middle = mesh.compute_midpoints(V.mesh, 2, np.arange(cells, dtype=np.int32))
        dofs = V.dofmap.list
        x.interpolate(smooth)
        if element[0] == "DG":
            x.x.array[dofs] += middle @ [[1.0], [0.0], [np.sqrt(7.0)]]
        found.append(layout.gather(x.x.array[: layout.num_owned]))
    close(*found, 1e-12)


def test_prior_on_the_boundary():
    """Its own boundary is where it ends, not where two ranks meet."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        V = fem.functionspace(top_of(meshes.unit_square(8, comm=comm)), ("Lagrange", 1))
        prior = SmoothnessPrior(V, length=0.5, std=1.0)
        found.append(prior.precision(np.cos(np.arange(9.0))))
        held = clamp_boundary(V).dof_indices()
        assert comm.allreduce(held[1]) == 2
    close(*found)


def test_a_flux_per_step():
    """u_t = Δu, ∂u/∂n = q_n at the top, in each step another: the last state against one rank."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        domain = meshes.unit_square(3, comm=comm)
        V = fem.functionspace(domain, ("Lagrange", 1))
        u, v, q = fem.Function(V), ufl.TestFunction(V), fem.Function(fem.functionspace(top_of(domain), ("Lagrange", 1)))
        R = inner(grad(u), grad(v)) * dx - q * v * meshes.ds(domain, "top")
        steps = theta_evolution(
            R, u, controls=[q], per_step=[q], initial=0.0, num_steps=3, dt=0.1, bcs=[clamp(V, "bottom", 0.0)]
        )
        with ReducedMap(steps, FieldValues(V)) as G:
            m, seed = np.sin(np.arange(G.size_in)), np.cos(np.arange(G.size_out))
            if comm is COMM and COMM.size < 3:
                assert check_map(G, m).failures == []
            with G.linearize(m) as lin:
                found.append((lin.value, lin.vjp(seed)))
    for ours, alone in zip(*found, strict=True):
        close(ours, alone, 1e-9)


def test_a_part_that_dolfinx_has_made():
    domain = meshes.unit_square(3)
    domain.topology.create_connectivity(1, 2)
    part, entity_map, *_ = mesh.create_submesh(domain, 1, meshes.facets(domain, "top"))
    q = fem.Function(fem.functionspace(part, ("Lagrange", 1)))
    q.x.array[:] = 2.0
    form = q * meshes.ds(domain, "top")
    assert "relax.meshes.submesh" in str(raised_everywhere(BadProblem, lambda: Functional(form)))
    meshes.set_whole(part, domain, entity_map)
    u = fem.Function(fem.functionspace(domain, ("Lagrange", 1)))
    u.x.array[:] = 3.0
    close(Functional(q * u * meshes.ds(domain, "top")).value(u), [6.0])


def refused():
    domain, other = meshes.unit_square(3), meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    top = top_of(domain)
    q = fem.Function(fem.functionspace(top, ("Lagrange", 1)))
    stokes = inner(grad(u), grad(v)) * dx
    ds, over = meshes.ds(domain, "top"), meshes.ds(domain)
    foreign = fem.Function(fem.functionspace(other, ("Lagrange", 1)))
    half, _ = left_half(domain)
    in_half = fem.Function(fem.functionspace(half, ("Lagrange", 1)))
    surface = fem.Function(fem.functionspace(top, ("Lagrange", 1)))
    w = ufl.TestFunction(surface.function_space)

    def problem(more, state=u):
        return lambda: Problem(residual=(stokes if state is u else 0) + more, state=state)

    return {
        "outside it": problem(q * v * over),
        "over the boundary (ds)": problem(q * v * dx(domain)),
        "its values alone": problem(q.dx(0) * v * ds),
        '("+") there': problem(q * ufl.avg(v) * ufl.dS(domain)),
        "relax.interpolated": problem(foreign * v * dx(domain)),
        "are outside": problem(in_half * v * dx(domain)),
        "got one over interior_facet": problem(ufl.avg(in_half * v) * ufl.dS(domain)),
        "of the integral's own mesh": problem(ufl.SpatialCoordinate(top)[0] * v * ds),
        "on another mesh than its integral": problem((surface - u) * w * ufl.dx(top), surface),
    }


def test_refused():
    for words, make in refused().items():
        assert words in str(raised_everywhere(BadProblem, make))
    domain = meshes.unit_cube(1)
    for arguments, words in (
        ((domain, 1, [0]), "2 for facets"),
        ((domain, 2, [10**6]), "expected indices"),
        ((domain, 2, [0.5]), "expected indices"),
        ((domain, 2, []), "at least one"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda a=arguments: meshes.submesh(*a)))
    top = top_of(domain)
    error = raised_everywhere(BadInput, lambda: meshes.set_whole(top, domain, "left"))
    assert "create_submesh" in str(error)
