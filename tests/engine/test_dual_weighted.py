"""The estimated error of a functional, against the error itself: the same problem on a mesh that is much finer."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import close, raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI

import relax
from relax.base import parallel

pytestmark = pytest.mark.ranks(1, 2, 3)

POINT = np.array([[0.37, 0.41]])


def reaction(domain, order):
    """A non-linear equation with conditions on two sides; what is seen is not linear either."""
    V = fem.functionspace(domain, ("Lagrange", order))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 20.0)
    x = ufl.SpatialCoordinate(domain)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) + u**3 * v - f * ufl.exp(x[0]) * v) * ufl.dx
    bcs = [relax.clamp(V, "left", 0.0), relax.clamp(V, "bottom", 0.0)]
    problem = relax.Problem(residual=F, state=u, controls=[f], bcs=bcs)
    return problem, relax.Stack([relax.Functional(u**2 * ufl.dx), relax.PointValues(V, POINT)])


def energy(domain, order):
    """A linear equation, of which its own energy is seen: to first order it has no error at all."""
    V = fem.functionspace(domain, ("Lagrange", order))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 5.0)
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - f * ufl.exp(ufl.SpatialCoordinate(domain)[0]) * v) * ufl.dx
    problem = relax.Problem(residual=F, state=u, controls=[f], bcs=[relax.clamp_boundary(V)])
    return problem, relax.Functional(ufl.inner(ufl.grad(u), ufl.grad(u)) * ufl.dx)


def bending(domain, order):
    """A diffusion that grows with the gradient: the operator of the error is that half way."""
    V = fem.functionspace(domain, ("Lagrange", order))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 20.0)
    slope = ufl.grad(u)
    F = ((1.0 + ufl.inner(slope, slope)) * ufl.inner(slope, ufl.grad(v)) - f * v) * ufl.dx
    problem = relax.Problem(residual=F, state=u, controls=[f], bcs=[relax.clamp_boundary(V)])
    return problem, relax.Functional(u * ufl.dx)


def heat(domain, order):
    """What is seen on the way and integrated; u_0 is not one of the mesh."""
    V = fem.functionspace(domain, ("Lagrange", order))
    u, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 0.5)
    F = k * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    evolution = relax.theta_evolution(
        F, u, initial=lambda x: np.sin(np.pi * x[0]) * np.exp(x[1]), dt=0.02, num_steps=5, controls=[k],
        bcs=[relax.clamp(V, "left", 0.0), relax.clamp(V, "right", 0.0)],
    )  # fmt: skip
    at = relax.PointValues(V, POINT)
    return evolution, relax.Stack([relax.AtSteps(at, [2, 5]), relax.TimeIntegral(relax.Functional(u * ufl.dx), 0.02)])


def burgers(domain, order):
    """A control in each step, a non-linear step."""
    V = fem.functionspace(domain, ("Lagrange", order))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 0.0)
    F = (0.1 * ufl.inner(ufl.grad(u), ufl.grad(v)) + u * u.dx(0) * v - c * v) * ufl.dx
    evolution = relax.theta_evolution(
        F, u, initial=0.0, dt=0.1, num_steps=3, controls=[c], per_step=[c], bcs=[relax.clamp(V, "left", 0.0)]
    )
    return evolution, relax.Functional(u**2 * ufl.dx)


def stokes(domain, order):
    """A mixed state, of which one field is seen."""
    velocity = basix.ufl.element("Lagrange", domain.basix_cell(), order + 1, shape=(2,))
    pressure = basix.ufl.element("Lagrange", domain.basix_cell(), order)
    W = fem.functionspace(domain, basix.ufl.mixed_element([velocity, pressure]))
    w, f = fem.Function(W), fem.Constant(domain, 1.0)
    (u, p), (v, q) = ufl.split(w), ufl.split(ufl.TestFunction(W))
    x = ufl.SpatialCoordinate(domain)
    force = f * ufl.as_vector([ufl.sin(3.0 * x[1]), ufl.cos(2.0 * x[0])])
    F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - p * ufl.div(v) - q * ufl.div(u) - ufl.inner(force, v)) * ufl.dx
    bcs = [relax.clamp(W.sub(0), side, (0.0, 0.0)) for side in ("left", "top", "bottom")]
    problem = relax.Problem(residual=F, state=w, controls=[f], bcs=bcs)
    return problem, relax.Functional((u[0] ** 2 + u[1] + x[0] * p) * ufl.dx)


# What makes it, the orders of mesh and reference, cells along a side, how far the estimate may be off.
CASES = {
    "reaction": (reaction, 1, 2, 8, 0.1),
    "reaction, P2": (reaction, 2, 3, 8, 0.1),
    "energy": (energy, 1, 2, 8, 0.05),
    "bending": (bending, 1, 2, 8, 0.1),
    "heat": (heat, 1, 2, 8, 0.1),
    "burgers": (burgers, 1, 2, 8, 0.1),
    "stokes": (stokes, 1, 2, 4, 0.2),
}


def at(make, domain, order, m=None):
    problem, observable = make(domain, order)
    G = relax.ReducedMap(problem, observable)
    lin = G.linearize(G.present_control() if m is None else m)
    return lin


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_the_error(name):
    make, order, better, n, off = CASES[name]
    fine = at(make, relax.meshes.unit_square(4 * n), better)
    m = 1.0 + np.cos(np.arange(fine.map.size_in)) if name == "burgers" else None
    exact = at(make, fine.map.problem.mesh, better, m).value
    lin = at(make, relax.meshes.unit_square(n), order, m)
    for i in range(len(exact)):
        estimate = relax.dual_weighted_residual(lin, np.eye(len(exact))[i])
        assert estimate.total == pytest.approx(exact[i] - lin.value[i], rel=off)
        owned = estimate.cells.x.array[: estimate.cells.function_space.dofmap.index_map.size_local]
        close(parallel.sum_over_ranks(fine.map.comm, np.array([owned.sum()]))[0], estimate.total)
        if i == 0 and name.startswith("reaction"):
            moduli = parallel.sum_over_ranks(fine.map.comm, np.array([np.abs(owned).sum()]))[0]
            assert moduli <= 1.5 * abs(estimate.total), "cells cancel each other"
        if estimate.steps is not None:
            close(estimate.steps.sum(), estimate.total)
            assert estimate.steps[0] == 0.0 or name == "heat"


def test_cells_are_marked_where_the_error_comes_from():
    """The fewest that make the fraction, the same number on any number of ranks; more for more."""
    lin = at(reaction, relax.meshes.unit_square(6), 1)
    estimate = relax.dual_weighted_residual(lin, [0.0, 1.0])
    comm = lin.map.comm
    sizes = np.abs(estimate.cells.x.array[: estimate.cells.function_space.dofmap.index_map.size_local])
    every = np.sort(np.concatenate(comm.allgather(sizes)))[::-1]
    for fraction in (0.3, 0.8):
        count = parallel.sum_over_ranks(comm, np.array([len(estimate.marked(fraction))]))[0]
        assert count == np.searchsorted(np.cumsum(every), fraction * every.sum()) + 1
    assert parallel.sum_over_ranks(comm, np.array([len(estimate.marked(1.0))]))[0] == np.count_nonzero(every)
    error = raised_everywhere(relax.BadInput, lambda: estimate.marked(0.0))
    assert "fraction" in str(error)
    estimate.cells.x.array[:] = 0.0
    assert len(estimate.marked(0.5)) == 0, "no error, nothing to refine"


def test_values_of_the_field():
    """Nodal values, of which some lie between those of the richer space: as values at the same points."""
    problem, _ = reaction(relax.meshes.unit_square(3), 2)
    V = problem.state.function_space
    values = relax.FieldValues(V)
    seed = np.cos(np.arange(values.size))
    by_field, at_points = (
        relax.dual_weighted_residual(relax.ReducedMap(problem, B).linearize([20.0]), seed).total
        for B in (values, relax.PointValues(V, values.coordinates[:, :2]))
    )
    assert by_field == pytest.approx(at_points, rel=1e-7)


def test_values_of_one_field_of_several():
    """A component of the velocity, as the value at the node."""
    problem, _ = stokes(relax.meshes.unit_square(2), 1)
    V = problem.state.function_space.sub(0)
    values = relax.FieldValues(V)
    node = int(np.argmin(np.linalg.norm(values.coordinates - [0.5, 0.5, 0.0], axis=1)))
    lin = relax.ReducedMap(problem, relax.Stack([values, relax.PointValues(V, [[0.5, 0.5]])])).linearize([1.0])
    seed = np.zeros(values.size + 2)
    seed[[node, values.size]] = 1.0, -1.0
    assert lin.value @ seed == pytest.approx(0.0, abs=1e-10)
    first = relax.dual_weighted_residual(lin, np.eye(len(seed))[node]).total
    assert abs(first) > 1e-6
    assert relax.dual_weighted_residual(lin, seed).total == pytest.approx(0.0, abs=1e-8 * abs(first))


def test_a_point_keeps_what_the_map_was_made_with():
    """The weights of an integral, and the initial state: what stood in them has changed since."""
    domain = relax.meshes.unit_square(3)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 0.5)
    dt, size, x = fem.Constant(domain, 0.02), fem.Constant(domain, 1.0), ufl.SpatialCoordinate(domain)
    evolution = relax.theta_evolution(
        k * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx, u, initial=size * ufl.exp(x[0]), dt=dt, num_steps=2,
        controls=[k], bcs=[relax.clamp_boundary(V)],
    )  # fmt: skip
    lin = relax.ReducedMap(evolution, relax.TimeIntegral(relax.Functional(u * ufl.dx), dt)).linearize([0.5])
    before = relax.dual_weighted_residual(lin, [1.0]).total
    dt.value = 0.1
    close(relax.dual_weighted_residual(lin, [1.0]).total, before)
    assert dt.value == 0.1
    size.value = 2.0
    error = raised_everywhere(relax.BadInput, lambda: relax.dual_weighted_residual(lin, [1.0]))
    assert "initial" in str(error)
    assert dt.value == 0.1


def test_discontinuous_elements():
    """Upwinding: facets within the mesh, nothing clamped."""

    def make(domain, order):
        V = fem.functionspace(domain, ("DG", order))
        u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
        n, x, b = ufl.FacetNormal(domain), ufl.SpatialCoordinate(domain), ufl.as_vector([1.0, 0.5])
        out = 0.5 * (ufl.dot(b, n) + abs(ufl.dot(b, n)))
        F = (u * v - u * ufl.dot(b, ufl.grad(v)) - f * ufl.sin(3.0 * x[0]) * v) * ufl.dx + out * u * v * ufl.ds
        F += (out("+") * u("+") - out("-") * u("-")) * (v("+") - v("-")) * ufl.dS
        return relax.Problem(residual=F, state=u, controls=[f]), relax.Functional(x[1] * u * ufl.dx)

    # Cells of which no side is along the flow.
    coarse, fine = (
        mesh.create_unit_square(MPI.COMM_WORLD, n, n, ghost_mode=mesh.GhostMode.shared_facet) for n in (8, 32)
    )
    lin = at(make, coarse, 1)
    error = at(make, fine, 2).value[0] - lin.value[0]
    assert relax.dual_weighted_residual(lin, [1.0]).total == pytest.approx(error, rel=0.2)


def test_what_it_cannot_be_done_for():
    domain = relax.meshes.unit_square(3)

    class Own(relax.Functional):
        """It may have other values than what it is made of."""

    class OwnPoints(relax.PointValues):
        pass

    problem, _ = reaction(domain, 1)
    u = problem.state
    for own in Own(u * ufl.dx), OwnPoints(u.function_space, POINT):
        lin = relax.ReducedMap(problem, own).linearize([20.0])
        error = raised_everywhere(relax.BadInput, lambda lin=lin: relax.dual_weighted_residual(lin, [1.0]))
        assert "Own" in str(error) and "`on(state, other)`" in str(error)
        lin.vjp([1.0])
    point = relax.ReducedMap(problem, relax.Functional(u * ufl.dx)).linearize([20.0])
    error = raised_everywhere(relax.BadInput, lambda: relax.dual_weighted_residual(point, [1.0, 2.0]))
    assert "cotangent" in str(error)
    error = raised_everywhere(relax.BadInput, lambda: relax.dual_weighted_residual(point, [[1.0]]))
    assert "expected one" in str(error)
    point.close()
    error = raised_everywhere(relax.BadInput, lambda: relax.dual_weighted_residual(point, [1.0]))
    assert "closed" in str(error)
    evolution = relax.pdes.hamilton_jacobi.viscous_evolution(
        domain, lambda x: x[0] ** 2, beta=2.0, t=0.1, num_steps=2, route="cole_hopf"
    )
    G = relax.ReducedMap(evolution, relax.Functional(evolution.state * ufl.dx))
    error = raised_everywhere(
        relax.BadInput, lambda: relax.dual_weighted_residual(G.linearize(G.present_control()), [1.0])
    )
    assert "substitution" in str(error)
    bubble = basix.ufl.enriched_element(
        [basix.ufl.element("Lagrange", "triangle", 1), basix.ufl.element("Bubble", "triangle", 3)]
    )
    for element, why in (bubble, "of each order"), (basix.ufl.element("CR", "triangle", 1), "of one order more"):
        V = fem.functionspace(domain, element)
        u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.0)
        F = (ufl.inner(ufl.grad(u), ufl.grad(v)) - f * v) * ufl.dx + u * v * ufl.ds
        G = relax.ReducedMap(relax.Problem(residual=F, state=u, controls=[f]), relax.Functional(u * ufl.dx))
        error = raised_everywhere(relax.BadInput, lambda G=G: relax.dual_weighted_residual(G.linearize([1.0]), [1.0]))
        assert why in str(error)
