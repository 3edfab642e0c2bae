"""States on parts of the mesh: multipliers on facets, fields in some cells, beside strong conditions and DOLFINx."""

from __future__ import annotations

import numpy as np
import plain_blocks
import pytest
import ufl
from contract import COMM, MapContract, close, everyone_has, raised_everywhere
from dolfinx import fem
from mesh_parts import halves, on_facets
from mpi4py import MPI
from ufl import dx, grad, inner

import relax
from relax import meshes
from relax.base.fem.forms import compiled
from relax.errors import BadInput, BadProblem

pytestmark = pytest.mark.ranks(1, 2, 3)
SIDES = ["left", "right", "bottom", "top"]


# -- multipliers on facets ---------------------------------------------------------------------------------------------


def test_the_multiplier_is_the_flux():
    """-Δu = 2 y, u = x (1 - x) at the top by a multiplier, else zero: u = x (1 - x) y, lam = -∂u/∂n = -x (1 - x)."""
    domain = meshes.unit_square(3)
    V = fem.functionspace(domain, ("Lagrange", 3))
    lam, ds = on_facets(domain, "top", ("Lagrange", 2))
    u, g = fem.Function(V, name="u"), fem.Function(lam.function_space)
    g.interpolate(lambda x: x[0] * (1.0 - x[0]))
    v, mu = ufl.TestFunctions(ufl.MixedFunctionSpace(V, lam.function_space))
    energy = (0.5 * inner(grad(u), grad(u)) - 2.0 * ufl.SpatialCoordinate(domain)[1] * u) * dx + lam * (u - g) * ds
    F = ufl.derivative(energy, [u, lam], [v, mu])
    problem = relax.Problem(residual=F, state=[u, lam], controls=[g], bcs=[relax.clamp(V, ["left", "right", "bottom"])])
    seen = [relax.Functional(lam * ds), relax.FieldValues(lam.function_space), relax.PointValues(V, [(0.4, 0.7)])]
    with relax.ReducedMap(problem, relax.Stack(seen)) as G:
        m = G.present_control()
        with G.linearize(m) as lin:
            x = seen[1].coordinates[:, 0]
            close(lin.value, [-1.0 / 6.0, *(-x * (1.0 - x)), 0.24 * 0.7], 1e-10)
            np.testing.assert_allclose(lam.x.array, -g.x.array, atol=1e-11)
            close(lin.jvp(m), _without_source(F, problem, seen)(m), 1e-9)


def _without_source(F, problem, seen):
    """The map of the problem but for its source, which is linear: that one is affine."""
    (u, lam), V = problem.state.blocks, problem.state.blocks[0].function_space
    v = ufl.TestFunctions(ufl.MixedFunctionSpace(V, lam.function_space))[0]
    F = F + 2.0 * ufl.SpatialCoordinate(V.mesh)[1] * v * dx
    clamped = [relax.clamp(V, ["left", "right", "bottom"])]
    linear = relax.Problem(residual=F, state=[u, lam], controls=problem.controls, bcs=clamped, name="linear")
    return relax.ReducedMap(linear, relax.Stack(seen))


def weakly(domain, name="weakly"):
    """-div((1 + u²) grad u) = 1, u = m on the boundary by a multiplier on its mesh; in the state and in u alone."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    lam, ds = on_facets(domain, SIDES, ("Lagrange", 1))
    u, m = fem.Function(V, name="u"), fem.Function(lam.function_space, name="m")
    v, mu = ufl.TestFunctions(ufl.MixedFunctionSpace(V, lam.function_space))
    F = ((1 + u**2) * inner(grad(u), grad(v)) - v) * dx + lam * v * ds + (u - m) * mu * ds
    return relax.Problem(residual=F, state=[u, lam], controls=[m], name=name), relax.Functional(u**2 * dx), ds


def strongly(domain):
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, m = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    F = ((1 + u**2) * inner(grad(u), grad(v)) - v) * dx
    problem = relax.Problem(residual=F, state=u, controls=[m], bcs=[relax.clamp_boundary(V, m)], name="strongly")
    return relax.ReducedMap(problem, relax.Functional(u**2 * dx))


def test_a_condition_by_a_multiplier_or_by_clamping():
    """The same map: value, tangent, gradient, Hessian action, at the boundary's nodes; ∫ lam ds = ∫ f dx."""
    domain = meshes.unit_square(3)
    problem, seen, ds = weakly(domain)
    (_, lam), smooth = problem.state.blocks, lambda x: 1.0 + x[0] * np.sin(x[1])
    with relax.ReducedMap(problem, seen) as G, strongly(domain) as H:
        m, M = (relax.control_values(K, smooth) for K in (G, H))
        d, D = (relax.control_values(K, lambda x: np.cos(3.0 * x[0])) for K in (G, H))
        X = relax.FieldValues(H.problem.controls[0].function_space).coordinates
        outer = (np.isclose(X, 0.0) | np.isclose(X, 1.0))[:, :2].any(axis=1)
        close(relax.FieldValues(lam.function_space).coordinates, X[outer], 1e-12)
        with G.linearize(m) as lin, H.linearize(M) as other:
            close(lin.value, other.value)
            close(relax.Functional(lam * ds).value(lam), [1.0])
            close(lin.jvp(d), other.jvp(D), 1e-9)
            close(lin.vjp([1.0]), other.vjp([1.0])[outer], 1e-9)
            close(lin.hvp([1.0], d), other.hvp([1.0], D)[outer], 1e-9)


def coupled(domain):
    """-Δu + u³ = 1, u - (lam + lam³) / 10 = m on the boundary, with lam given at two corners, by a number and by data.

    The number is a control, as is m, a field on the boundary.
    """
    V = fem.functionspace(domain, ("Lagrange", 1))
    lam, ds = on_facets(domain, SIDES, ("Lagrange", 2))
    M = lam.function_space
    u, m, g, a = fem.Function(V, name="u"), fem.Function(M, name="m"), fem.Function(M), fem.Constant(domain, 0.3)
    m.interpolate(lambda x: 1.0 + 0.3 * x[0] * x[1])
    g.x.array[:] = 0.7
    v, mu = ufl.TestFunction(V), ufl.TestFunction(M)
    equations = [
        (inner(grad(u), grad(v)) + u**3 * v - v) * dx + lam * v * ds,
        (u - 0.1 * (lam + lam**3) - m) * mu * ds,
    ]
    corners = [fem.locate_dofs_geometrical(M, lambda x, s=s: np.isclose(x[0] + x[1], s)) for s in (0.0, 2.0)]
    bcs = [fem.dirichletbc(a, corners[0], M), fem.dirichletbc(g, corners[1])]
    return relax.Problem(residual=equations, state=[u, lam], controls=[m, a], bcs=bcs, name="coupled")


def seen_of_coupled(problem):
    (u, lam), m = problem.state.blocks, problem.controls[0]
    domain = problem.mesh
    return relax.Stack([
        relax.Functional(ufl.exp(m) * lam**2 * u * meshes.ds(domain, SIDES)),
        relax.FieldValues(lam.function_space),
        relax.PointValues(u.function_space, [(0.31, 0.42)]),
    ])  # fmt: skip


class TestCoupled(MapContract):
    make = staticmethod(coupled)
    domain = staticmethod(lambda comm: meshes.unit_square(2, comm=comm))
    observe = staticmethod(seen_of_coupled)


@pytest.mark.ranks(1, 2)
def test_as_a_layer():
    torch = pytest.importorskip("torch")
    problem = coupled(meshes.unit_square(2))
    with relax.ReducedMap(problem, seen_of_coupled(problem)) as G:
        m = torch.tensor(G.present_control(), requires_grad=True)
        y = relax.SolutionLayer(G)(m)
        (gradient,) = torch.autograd.grad((y**2).sum(), m)
        with G.linearize(m.detach().numpy()) as lin:
            close(gradient.numpy(), lin.vjp(2.0 * lin.value))


def test_first_guess_and_data_are_live():
    """lam² = g² from the values that lam holds when a map is made, on every rank; a later g is seen."""
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    lam, ds = on_facets(domain, SIDES, ("Lagrange", 1))
    u, g = fem.Function(V), fem.Function(lam.function_space)
    v, mu = ufl.TestFunction(V), ufl.TestFunction(lam.function_space)
    g.interpolate(lambda x: 2.0 + x[0])
    held = fem.Function(lam.function_space)
    some = fem.locate_dofs_geometrical(lam.function_space, lambda x: x[0] < 0.75)
    equations = [
        (u - 1.0) * v * dx,
        (lam**2 - g**2) * mu * ds(metadata={"quadrature_rule": "vertex", "quadrature_degree": 1}),
    ]
    bcs = [fem.dirichletbc(held, some)]
    problem = relax.Problem(residual=equations, state=[u, lam], bcs=bcs)
    for sign in (1.0, -1.0):
        lam.x.array[:] = 3.0 * sign
        with relax.ReducedMap(problem, relax.FieldValues(lam.function_space)) as G:
            for held.x.array[:] in (-1.0, 5.0):
                expected = sign * g.x.array
                expected[some] = held.x.array[some]
                everyone_has(G([]))
                off = problem.state.x.array[problem.state.places[1][problem.state.extended[1].off]]
                assert all(COMM.allgather(np.allclose(lam.x.array, expected, atol=1e-9) and not off.any()))


def test_steps_in_time():
    """Heat with the boundary's values by a multiplier, or clamped: the last state and its gradient in what starts."""
    domain = meshes.unit_square(3)
    V = fem.functionspace(domain, ("Lagrange", 1))
    lam, ds = on_facets(domain, SIDES, ("Lagrange", 1))
    found = []
    for by_multiplier in (True, False):
        u, before, k = fem.Function(V, name="u"), fem.Function(V), fem.Constant(domain, 0.7)
        v, mu = ufl.TestFunctions(ufl.MixedFunctionSpace(V, lam.function_space))
        g = 1.0 + ufl.SpatialCoordinate(domain)[0]
        F = ((u - before) / 0.1 * v + k * inner(grad(u), grad(v))) * dx
        if by_multiplier:
            lam_before = fem.Function(lam.function_space)
            # Half of the flux is that of the step before.
            F += 0.5 * (lam + lam_before) * v * ds + (u - g) * mu * ds
            step = relax.Problem(residual=F, state=[u, lam], controls=[k], name="by_multiplier")
            start = fem.Function(lam.function_space)
            start.interpolate(lambda x: -1.0 * x[0])
            march = relax.Evolution(
                step=step, previous=[before, lam_before], initial=[0.0, start], initial_is_fixed=True, num_steps=3
            )
            seen = relax.Functional(u**2 * dx)
        else:
            F = ufl.replace(F, {v: ufl.TestFunction(V)})
            step = relax.Problem(residual=F, state=u, controls=[k], bcs=[relax.clamp_boundary(V, g)], name="clamped")
            march = relax.Evolution(step=step, previous=before, initial=0.0, num_steps=3)
            seen = relax.Functional(u**2 * dx)
        with relax.ReducedMap(march, seen) as G, G.linearize([0.7]) as lin:
            found.append((lin.value, lin.vjp([1.0]), lin.hvp([1.0], [1.0])))
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs, 1e-9)


# -- fields in some cells ----------------------------------------------------------------------------------------------


def joined(domain, name="joined"):
    """-div(k grad u) = 1 in two halves, u1 = u2 + m on the line between by a multiplier: states u1, u2 and lam.

    Seen are ∫ u1² dx + ∫ u2⁴ dx and ∫ lam² exp(m) over the line.
    """
    parts, over, line, dS = halves(domain)
    names = zip((*parts, line), ("u1", "u2", "lam"), strict=True)
    u1, u2, lam = states = [fem.Function(fem.functionspace(part, ("Lagrange", 2)), name=name) for part, name in names]
    v1, v2, mu = ufl.TestFunctions(ufl.MixedFunctionSpace(*(f.function_space for f in states)))
    k, m = fem.Constant(domain, (1.0, 3.0)), fem.Function(fem.functionspace(line, ("Lagrange", 1)), name="m")
    F = sum((k[i] * inner(grad(u), grad(v)) - v) * over(i + 1) for i, (u, v) in enumerate(((u1, v1), (u2, v2))))
    # Of what has one value on a facet a side need not be said, but of what is no state.
    F += (lam * (v1("+") - v2("-")) + mu("+") * (u1("+") - u2("-") - m("+"))) * dS
    held = relax.clamp(u1.function_space, lambda x: np.isclose(x[0], 0.0), lambda x: np.sin(x[1]))
    problem = relax.Problem(residual=F, state=states, controls=[k, m], bcs=[held], name=name)
    seen = [u1**2 * over(1) + u2**4 * over(2), lam("+") ** 2 * ufl.exp(m("+")) * dS]
    return problem, relax.Stack([relax.Functional(form) for form in seen])


def test_halves_joined_by_a_multiplier():
    """The same as one field over both."""
    domain = meshes.unit_square(4)
    problem, seen = joined(domain)
    _, over, _, _ = halves(domain)
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, (1.0, 3.0))
    F = sum((k[i] * inner(grad(u), grad(v)) - v) * over(i + 1) for i in (0, 1))
    held = relax.clamp(V, "left", lambda x: np.sin(x[1]))
    one = relax.Problem(residual=F, state=u, controls=[k], bcs=[held], name="one")
    with (
        relax.ReducedMap(problem, seen) as G,
        relax.ReducedMap(one, relax.Functional(u**2 * over(1) + u**4 * over(2))) as H,
    ):
        m, d = np.array([1.2, 2.5]), np.array([0.3, -0.4])
        m0, d0 = np.zeros((2, G.size_in))
        m0[:2], d0[:2] = m, d
        with G.linearize(m0) as lin, H.linearize(m) as other:
            close(lin.value[:1], other.value)
            close(lin.vjp([1.0, 0.0])[:2], other.vjp([1.0]), 1e-9)
            close(lin.hvp([1.0, 0.0], d0)[:2], other.hvp([1.0], d), 1e-9)
        if COMM.size < 3:
            m0[2:] = 0.1 * np.cos(np.arange(G.size_in - 2))
            assert relax.check_map(G, m0).adjoint_gap < 1e-12


def test_data_in_time():
    """c_t = Δc in the left half, held at 1 + t y on its left side, which data say; u, on the whole, is c there."""
    domain = meshes.unit_square(2)
    (left, _), over, _, _ = halves(domain)
    spaces = [fem.functionspace(m, ("Lagrange", degree)) for m, degree in ((domain, 1), (left, 2))]
    u, c, c_n = (fem.Function(spaces[i]) for i in (0, 1, 1))
    g, (v, q) = fem.Function(spaces[1]), (ufl.TestFunction(V) for V in spaces)
    equations = [u * v * over(2) + (u - c) * v * over(1), ((c - c_n) / 0.1 * q + inner(grad(c), grad(q))) * over(1)]
    at_left = fem.locate_dofs_geometrical(spaces[1], lambda x: np.isclose(x[0], 0.0))
    step = relax.Problem(residual=equations, state=[u, c], bcs=[fem.dirichletbc(g, at_left)], name="data")
    data = {g: lambda t: lambda x: 1.0 + t * x[1]}
    march = relax.Evolution(
        step=step, previous=[None, c_n], initial=[0.0, lambda x: x[0]], num_steps=4, data=data, dt=0.1
    )
    seen = relax.FieldValues(spaces[1])
    with relax.ReducedMap(march, relax.AtSteps(seen, [0, 2, 4])) as G:
        x = seen.coordinates
        for t, values in zip((0.0, 0.2, 0.4), G([]).reshape(3, -1), strict=True):
            held = x[:, 0] == 0.0
            close(values[held], 1.0 + t * x[held, 1] if t > 0.0 else x[held, 0])
            assert np.ptp(values[~held]) > 0.0


def solved_by_dolfinx(equations, states, bcs):
    """Newton's method with blocks that DOLFINx assembles with its entity maps, from zero: on one rank."""
    rows = [compiled(F) for F in equations]
    trials = [ufl.TrialFunction(u.function_space) for u in states]
    slopes = [
        [compiled(a) if not (a := ufl.algorithms.expand_derivatives(ufl.derivative(F, u, t))).empty() else None
         for u, t in zip(states, trials, strict=True)]
        for F in equations
    ]  # fmt: skip
    return plain_blocks.newton(rows, slopes, states, bcs)


@pytest.mark.ranks(1)
def test_beside_blocks_of_dolfinx():
    """A vector field, a concentration in the left half with a value given by data, a vector multiplier at the right."""
    domain = meshes.unit_square(4)
    (left, _), over, _, _ = halves(domain)
    V = fem.functionspace(domain, ("Lagrange", 2, (2,)))
    C = fem.functionspace(left, ("Lagrange", 1))
    lam, ds = on_facets(domain, "right", ("Lagrange", 1, (2,)))
    u, c, g = fem.Function(V, name="u"), fem.Function(C, name="c"), fem.Function(C)
    g.interpolate(lambda x: 1.0 + x[1] ** 2)
    v, q, mu = (ufl.TestFunction(f.function_space) for f in (u, c, lam))
    x = ufl.SpatialCoordinate(domain)
    equations = [
        (inner(grad(u), grad(v)) + 0.1 * inner(u, u) * v[0]) * over - c * v[1] * over(1) + inner(lam, v) * ds,
        (inner(grad(c), grad(q)) + inner(u, grad(c)) * q + ufl.exp(-c) * q) * over(1),
        inner(u - ufl.as_vector([ufl.exp(x[1]), x[1]]), mu) * ds,
    ]
    at_left = fem.locate_dofs_geometrical(C, lambda x: np.isclose(x[0], 0.0))
    bcs = [relax.clamp(V, "left"), fem.dirichletbc(g, at_left)]
    expected = solved_by_dolfinx(equations, [u, c, lam], bcs)
    problem = relax.Problem(residual=equations, state=[u, c, lam], bcs=bcs)
    with relax.ReducedMap(problem, relax.Functional(inner(lam, u) * ds)) as G:
        G([])
        for f, values in zip((u, c, lam), expected, strict=True):
            close(f.x.array, values, 1e-10)


@pytest.mark.ranks(2, 3)
def test_same_numbers_as_on_one_rank():
    """Halves and the multiplier between them, with all that is handed to and fro."""
    found = []
    for comm in (COMM, MPI.COMM_SELF):
        problem, seen = joined(meshes.unit_square(4, comm=comm))
        with relax.ReducedMap(problem, seen) as G:
            m = np.array([1.0, 2.0, *np.sin(np.arange(G.size_in - 2))])
            with G.linearize(m) as lin:
                found.append((lin.value, lin.vjp([1.0, 0.5]), lin.hvp([1.0, 0.5], np.flip(m)), lin.jvp([m, m**2])))
    for ours, alone in zip(*found, strict=True):
        everyone_has(ours)
        close(ours, alone, 1e-9)


@pytest.mark.ranks(1, 2)
def test_a_constant_of_a_field_in_some_cells():
    """-Δa = 8 g (x - 1/4) in the left half with no flux, beside a field that has its own in the right one."""
    domain = meshes.unit_square(4)
    (left, right), cells, *_ = halves(domain)
    a, b = (fem.Function(fem.functionspace(part, ("Lagrange", 1)), name=n) for part, n in ((left, "a"), (right, "b")))
    va, vb = ufl.TestFunctions(ufl.MixedFunctionSpace(a.function_space, b.function_space))
    g, x = fem.Constant(domain, 1.0), ufl.SpatialCoordinate(domain)
    F = (inner(grad(a), grad(va)) - 8 * g * (x[0] - 0.25) * va) * cells(1)
    F += (inner(grad(b), grad(vb)) + b * vb - g * vb) * cells(2)
    one = fem.Function(a.function_space)
    one.x.array[:] = 1.0
    seen, found = relax.Functional(a**2 * cells(1) + b * cells(2)), []
    for nullspace in ("constants", [[one, None]]):
        problem = relax.Problem(residual=F, state=[a, b], controls=[g], nullspace=nullspace, name="half")
        with relax.ReducedMap(problem, seen) as G:
            assert relax.check_map(G).failures == []
            found.append(G([1.0]))
    close(*found, 1e-12)
    with relax.ReducedMap(relax.Problem(residual=F, state=[a, b], controls=[g], name="bare"), seen) as G:
        assert 'nullspace="constants"' in str(raised_everywhere(BadProblem, lambda: G([1.0])))


@pytest.mark.ranks(1, 2)
def test_error_estimates_are_refused():
    problem, seen, _ = weakly(meshes.unit_square(2))
    with relax.ReducedMap(problem, seen) as G, G.linearize(G.present_control() + 1.0) as lin:
        error = raised_everywhere(BadInput, lambda: relax.dual_weighted_residual(lin, [1.0]))
    assert "states on one mesh" in str(error)
