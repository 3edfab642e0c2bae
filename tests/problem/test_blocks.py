"""Blocks: Functions of several spaces solved for together, beside the mixed problem and DOLFINx's own blocks."""

from __future__ import annotations

import basix.ufl
import dolfinx
import numpy as np
import plain_blocks
import pytest
import ufl
from contract import MapContract, close
from dolfinx import fem, mesh
from mpi4py import MPI
from ufl import avg, div, dS, ds, dx, grad, inner, jump

import relax
from relax.base.fem import compat
from relax.base.la.options import STOKES
from relax.errors import BadInput, BadProblem

COMM = MPI.COMM_WORLD


def of_two_numbers(domain):
    """Functions that have one value in every other cell, and another in the rest."""
    V = fem.functionspace(domain, ("DG", 0))
    cells = np.arange(len(V.dofmap.list), dtype=np.int32).reshape(-1, 1) % 2
    pairs, index_map = dolfinx.cpp.graph.AdjacencyList_int32(cells), dolfinx.cpp.common.IndexMap(domain.comm, 2)
    return compat.with_dofmap(V, dolfinx.cpp.fem.DofMap(V.dofmap.dof_layout, index_map, 1, pairs, 1))


def convection(domain):
    """-div((1 + T²) grad u) = (T + a, m), -div(exp(m) grad T) + u · grad T = exp(-T) (dimensionless), in blocks.

    Boundary values: u is a vector number at the left, follows an expression at the bottom in its first component, and
    is a number at the top in its second; T is a field at the right.
    """
    V = fem.functionspace(domain, ("Lagrange", 2, (2,)))
    Q = fem.functionspace(domain, ("Lagrange", 1))
    u, T, m, g = (fem.Function(W, name=name) for W, name in ((V, "u"), (Q, "T"), (Q, "m"), (Q, "g")))
    a, b = fem.Constant(domain, (0.5, 0.7)), fem.Constant(domain, 1.0)
    for f, shift in ((m, 0.1), (g, 0.4)):
        f.interpolate(lambda x, shift=shift: shift + 0.3 * x[0] * x[1])
    v, s = ufl.TestFunctions(ufl.MixedFunctionSpace(V, Q))
    F = ((1 + T**2) * inner(grad(u), grad(v)) - (T + a[0]) * v[0] - m * v[1]) * dx
    F += (ufl.exp(m) * inner(grad(T), grad(s)) + inner(u, grad(T)) * s - ufl.exp(-T) * s) * dx
    bcs = [
        relax.clamp(V, "left", a),
        relax.clamp(V.sub(0), "bottom", a[1] * ufl.SpatialCoordinate(domain)[0] + b),
        relax.clamp(V.sub(1), "top", b),
        relax.clamp(Q, "right", g),
    ]
    return relax.Problem(residual=F, state=[u, T], controls=[m, a, g], bcs=bcs, name="convection")


def seen(problem):
    """A form in both blocks and in a control, an expression in one, spaces of blocks."""
    (u, T), (m, *_) = problem.state.blocks, problem.controls
    points = [(0.31, 0.42), (0.77, 0.18)]
    return relax.Stack([
        relax.Functional(ufl.exp(m * u[0]) * T**2 * dx),
        relax.PointValues(u.function_space, points),
        relax.PointValues(u.function_space.sub(1), points),
        relax.FieldValues(T.function_space),
        relax.ExpressionValues(grad(u)[0, 1], points),
        relax.FieldValues(problem.state.function_space.sub(0).sub(0)),
    ])  # fmt: skip


class TestConvection(MapContract):
    make = staticmethod(convection)
    domain = staticmethod(lambda comm: relax.meshes.unit_square(2, comm=comm))
    observe = staticmethod(seen)


def solved_in_blocks(F, states, bcs):
    """The solution by DOLFINx's own blocks, Newton's method and SciPy, from zero: local values, on one rank."""
    W = ufl.MixedFunctionSpace(*(u.function_space for u in states))
    rows = [fem.form(f) for f in ufl.extract_blocks(F)]
    matrix = ufl.extract_blocks(ufl.derivative(F, states, ufl.TrialFunctions(W)))
    matrix = [[None if a is None else fem.form(a) for a in row] for row in matrix]
    return plain_blocks.newton(rows, matrix, states, bcs)


def cavity(n=4):
    """Stokes flow under a moving lid: the residual, its states, conditions, source and viscosity."""
    domain = relax.meshes.unit_square(n)
    V, Q = (fem.functionspace(domain, e) for e in (("Lagrange", 2, (2,)), ("Lagrange", 1)))
    u, p = fem.Function(V, name="velocity"), fem.Function(Q, name="pressure")
    v, q = ufl.TestFunctions(ufl.MixedFunctionSpace(V, Q))
    f, nu = fem.Function(V), fem.Constant(domain, 0.5)
    F = (nu * inner(grad(u), grad(v)) - p * div(v) - q * div(u) - inner(f, v)) * dx
    walls = fem.locate_dofs_topological(V, 1, relax.meshes.facets(domain, ["left", "right", "bottom"]))
    lid = fem.Function(V)
    lid.interpolate(lambda x: np.array([x[0] * (1.0 - x[0]), 0.0 * x[0]]))
    on_lid = fem.locate_dofs_topological(V, 1, relax.meshes.facets(domain, "top"))
    bcs = [fem.dirichletbc(np.zeros(2), walls, V), fem.dirichletbc(lid, on_lid)]
    return F, [u, p], bcs, [f, nu]


def test_stokes_beside_the_mixed_element():
    """Values, gradients and Hessian actions of blocks are those of the mixed space, also with a null space."""
    F, (u, p), bcs, (f, nu) = cavity()
    f.interpolate(lambda x: np.array([x[1] ** 2, x[0]]))
    problem = relax.Problem(residual=F, state=[u, p], controls=[nu], bcs=bcs, name="cavity", nullspace="constants")
    domain = problem.mesh
    W = fem.functionspace(domain, basix.ufl.mixed_element([V.function_space.ufl_element() for V in (u, p)]))
    w = fem.Function(W)
    (u1, p1), (v, q) = ufl.split(w), ufl.TestFunctions(W)
    mixed = (nu * inner(grad(u1), grad(v)) - p1 * div(v) - q * div(u1) - inner(f, v)) * dx
    lid = relax.clamp(W.sub(0), "top", lambda x: np.array([x[0] * (1.0 - x[0]), 0.0 * x[0]]))
    held = [relax.clamp(W.sub(0), ["left", "right", "bottom"]), lid]
    other = relax.Problem(residual=mixed, state=w, controls=[nu], bcs=held, nullspace="constants")
    points = [(0.21, 0.83), (0.7, 0.4)]
    G = relax.ReducedMap(problem, relax.Stack([relax.PointValues(f.function_space, points) for f in (u, p)]))
    H = relax.ReducedMap(other, relax.Stack([relax.PointValues(W.sub(i), points) for i in (0, 1)]))
    y = np.random.default_rng(1).standard_normal(G.size_out)
    with G.linearize([0.3]) as lin, H.linearize([0.3]) as expected:
        close(lin.value, expected.value)
        close(lin.vjp(y), expected.vjp(y))
        close(lin.hvp(y, [1.0]), expected.hvp(y, [1.0]))
    assert relax.check_map(G).adjoint_gap < 1e-12


def test_stokes_beside_blocks_of_dolfinx():
    """The user's Functions hold the solution; a pressure that is fixed at a point; gradients beside differences.

    exp(p) is integrated to a degree that a mixed space, which counts as quadratic in both parts, would not choose.
    """
    F, (u, p), bcs, (f, nu) = cavity()
    F -= 0.1 * ufl.exp(p) * ufl.TestFunctions(ufl.MixedFunctionSpace(u.function_space, p.function_space))[1] * dx
    Q = p.function_space
    corner = fem.locate_dofs_geometrical(Q, lambda x: np.isclose(x[0], 0.0) & np.isclose(x[1], 0.0))
    bcs.append(fem.dirichletbc(0.0, corner, Q))
    f.interpolate(lambda x: np.array([x[1] ** 2, x[0]]))
    expected = solved_in_blocks(F, [u, p], bcs)
    for residual in (F, ufl.extract_blocks(F)):
        problem = relax.Problem(residual=residual, state=[u, p], controls=[nu], bcs=bcs, name="cavity")
        with relax.ReducedMap(problem, relax.Functional(p**2 * dx)) as G:
            G([0.5])
            close(u.x.array, expected[0])
            close(p.x.array, expected[1])
            (slope,) = G.linearize([0.5]).vjp([1.0])
    J, values = fem.form(p**2 * dx), []
    for nu.value in (0.5 + 1e-4, 0.5 - 1e-4):
        solved_in_blocks(F, [u, p], bcs)
        values.append(fem.assemble_scalar(J))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-6)


def test_mixed_poisson_beside_blocks_of_dolfinx():
    """Raviart–Thomas beside piecewise constants, with fluxes given on a part of the boundary and a control."""
    domain = relax.meshes.unit_square(4)
    S, Q = fem.functionspace(domain, ("RT", 2)), fem.functionspace(domain, ("DG", 1))
    sigma, u = fem.Function(S, name="sigma"), fem.Function(Q, name="u")
    tau, v = ufl.TestFunctions(ufl.MixedFunctionSpace(S, Q))
    m, k = fem.Function(Q), fem.Constant(domain, 2.0)
    m.interpolate(lambda x: 10.0 * np.exp(-((x[0] - 0.5) ** 2 + (x[1] - 0.5) ** 2) / 0.02))
    F = (inner(sigma, tau) / k + u * div(tau) + div(sigma) * v + m * v) * dx
    flux = fem.Function(S)
    flux.interpolate(lambda x: np.array([0.0 * x[0], np.sin(5.0 * x[0])]))
    facets = relax.meshes.facets(domain, ["top", "bottom"])
    bcs = [fem.dirichletbc(flux, fem.locate_dofs_topological(S, 1, facets))]
    expected = solved_in_blocks(F, [sigma, u], bcs)
    problem = relax.Problem(residual=F, state=[sigma, u], controls=[m, flux], bcs=bcs, name="poisson")
    observable = relax.Functional(inner(sigma, sigma) * dx)
    with relax.ReducedMap(problem, observable, layout="owned") as G:
        assert relax.check_map(G).adjoint_gap < 1e-12
        G(G.present_control())
        close(sigma.x.array, expected[0])
        close(u.x.array, expected[1])


def test_a_pair_in_one_space():
    """Two equations, each in a test function of the same space, with jumps between cells."""
    domain = relax.meshes.unit_square(3)
    V = fem.functionspace(domain, ("DG", 1))
    a, b, m = (fem.Function(V, name=name) for name in ("a", "b", "m"))
    v, n = ufl.TestFunction(V), ufl.FacetNormal(domain)
    m.interpolate(lambda x: 1.0 + x[0])

    def diffusion(w):
        jumps = 20.0 * inner(jump(w, n), jump(v, n)) - inner(avg(grad(w)), jump(v, n)) - inner(jump(w, n), avg(grad(v)))
        return inner(grad(w), grad(v)) * dx + jumps * dS + 20.0 * w * v * ds

    equations = [diffusion(a) + (ufl.exp(a * b) - m) * v * dx, diffusion(b) + (b / (2.0 + a**2) - m) * v * dx]
    problem = relax.Problem(residual=equations, state=[a, b], name="pair")
    part = relax.FieldValues(problem.state.function_space.sub(1))
    with relax.ReducedMap(problem, part) as G:
        close(G([]), relax.FieldValues(V).value(b))
    found = [a.x.array.copy(), b.x.array.copy()]
    # DOLFINx integrates each form by itself, to the degree of what stands in it.
    tests = ufl.TestFunctions(ufl.MixedFunctionSpace(V, V))
    F = sum(ufl.replace(equation, {v: test}) for equation, test in zip(equations, tests, strict=True))
    for ours, theirs in zip(found, solved_in_blocks(F, [a, b], []), strict=True):
        close(ours, theirs)
    with pytest.raises(BadProblem, match=r"'a' and 'b' have that space; say .*ExpressionValues\(a, points\)"):
        relax.ReducedMap(problem, relax.FieldValues(V))


TRIANGLE = "triangle"
ELEMENTS = {
    "symmetric": lambda: basix.ufl.element("Lagrange", TRIANGLE, 2, shape=(2, 2), symmetry=True),
    "edges": lambda: basix.ufl.element("N1curl", TRIANGLE, 2),
    "quadrature": lambda: basix.ufl.quadrature_element(TRIANGLE, (2,), degree=2),
    "mixed": lambda: basix.ufl.mixed_element(
        [basix.ufl.element("RT", TRIANGLE, 1), basix.ufl.element("DG", TRIANGLE, 0)]
    ),
}


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("name", ELEMENTS)
def test_every_element_that_a_mixed_one_takes(name):
    """u = g, p + |u|² = 1: whatever g holds, u holds, ghosts included."""
    domain = relax.meshes.unit_square(3)
    V, Q = fem.functionspace(domain, ELEMENTS[name]()), fem.functionspace(domain, ("DG", 0))
    u, g, p = fem.Function(V), fem.Function(V), fem.Function(Q)
    g.x.array[:] = np.random.default_rng(COMM.rank).standard_normal(len(g.x.array))
    g.x.scatter_forward()
    v, q = ufl.TestFunctions(ufl.MixedFunctionSpace(V, Q))
    measure = dx(metadata={"quadrature_degree": 2}) if name == "quadrature" else dx
    F = (inner(u - g, v) + (p + inner(u, u) - 1.0) * q) * measure
    problem = relax.Problem(residual=F, state=[u, p], name=name)
    with relax.ReducedMap(problem, relax.Functional((inner(u, u) + p) * measure)) as G:
        np.testing.assert_allclose(G([]), [1.0], rtol=1e-10)
    np.testing.assert_allclose(u.x.array, g.x.array, atol=1e-9)


@pytest.mark.ranks(1, 2)
def test_fieldsplit_by_name(caplog):
    """PETSc's options by the names of the Functions, and by number where they have none; the preset of Stokes."""
    F, (u, p), bcs, controls = cavity()
    make = {"residual": F, "state": [u, p], "controls": controls, "bcs": bcs, "nullspace": "constants"}
    dissipated = relax.Functional(inner(grad(u), grad(u)) * dx)
    with relax.ReducedMap(relax.Problem(**make, name="direct"), dissipated) as G:
        m = G.present_control()
        expected = G(m)
    for key, is_read in (("pressure", True), ("1", True), ("p", False)):
        options = {**STOKES, f"fieldsplit_{key}_ksp_max_it": 4, "mat_type": "nest"}
        caplog.clear()
        with relax.ReducedMap(relax.Problem(**make, name=f"by_{key}"), dissipated, options=options) as G:
            close(G(m), expected, 1e-7)
        assert is_read != ("nothing has read" in caplog.text)


def test_what_does_not_fit_is_told():
    F, (u, p), bcs, (f, nu) = cavity(2)
    V, Q, domain = u.function_space, p.function_space, u.function_space.mesh
    F0, F1 = ufl.extract_blocks(F)
    W = fem.functionspace(domain, basix.ufl.mixed_element([V.ufl_element(), Q.ufl_element()]))
    line = mesh.create_submesh(domain, 1, relax.meshes.facets(domain, "top"))[0]
    lam = fem.Function(fem.functionspace(line, ("DG", 0)), name="lam")
    single = inner(u, ufl.TestFunction(V)) * dx
    one = of_two_numbers(domain)
    tied = fem.Function(one)
    for change, words in (
        ({"state": [p, u]}, "in the order of the spaces, got 'pressure' and 'velocity'"),
        ({"state": [u]}, r"a state for each space of the MixedFunctionSpace, state=\[u, p\], got 'velocity'"),
        ({"state": u}, r"a state for each space of the MixedFunctionSpace, state=\[u, p\], got 'velocity'"),
        (
            {"state": [u, tied], "residual": [F0, tied * ufl.TestFunction(one) * dx]},
            "degrees of freedom are tied together",
        ),
        ({"state": []}, "at least one Function"),
        ({"state": [u, u]}, r"state\[1\]: 'velocity' is an earlier one again"),
        ({"state": [u, fem.Function(W).sub(1)]}, "of a space of its own"),
        ({"state": [u, lam]}, "or on parts of one, got 'lam'"),
        ({"state": [u, "p"]}, r"state\[1\]: expected a dolfinx.fem.Function, got str"),
        ({"residual": [F0, None]}, r"residual\[1\]: .* None, which extract_blocks gives"),
        ({"residual": [F0]}, r"no term has a test function of the space of state\[1\] \('pressure'\)"),
        ({"residual": single}, "a form for each of 'velocity' and 'pressure'"),
        ({"residual": [F0, p * dx]}, r"residual\[1\]: expected a form in test functions alone, got 0"),
        ({"residual": [F0, inner(ufl.TrialFunction(Q), ufl.TestFunction(Q)) * dx]}, "not TrialFunctions"),
        ({"residual": ufl.replace(F, {p: fem.Constant(domain, 1.0)})}, r"state\[1\]: the Function 'pressure' does not"),
        ({"controls": [u]}, r"controls\[0\] \(velocity\) is one of the states"),
        ({"bcs": [fem.dirichletbc(u, bcs[1].dof_indices()[0][:1])]}, r"bcs\[0\]: the state stands in the value"),
        ({"bcs": [relax.clamp_boundary(W.sub(0))]}, r"bcs\[0\]: on none of the spaces of 'velocity' and 'pressure'"),
        ({"bcs": ["wall"]}, r"bcs\[0\]: expected Dirichlet conditions"),
        ({"nullspace": [fem.Function(Q)]}, r"nullspace\[0\]: expected a Function in its space, or None"),
    ):
        with pytest.raises(BadProblem, match=words):
            relax.Problem(**{"residual": F, "state": [u, p], "bcs": bcs, **change})
    problem = relax.Problem(residual=F, state=[u, p], bcs=bcs)
    for wrong, words in (
        (
            relax.Functional(inner(f, f) * dx),
            "expected a form or an expression in one or several of 'velocity', 'pressure'",
        ),
        (relax.PointValues(fem.functionspace(domain, ("DG", 0)), [(0.5, 0.5)]), "the space of one of them"),
        (relax.Functional(problem.state[0] * p * dx), "holds problem.state and a block of it"),
    ):
        with pytest.raises(BadProblem, match=words):
            relax.ReducedMap(problem, wrong)
    with pytest.raises(BadInput, match="mat_type nest: .*fieldsplit"):
        relax.ReducedMap(problem, relax.FieldValues(V), options={"mat_type": "nest"})
    C = fem.functionspace(domain, ("Lagrange", 1))
    c, before, w = fem.Function(C), fem.Function(C), ufl.TestFunction(C)
    carried = relax.Problem(residual=(c - before + inner(u, grad(c))) * w * dx, state=c)
    for step, previous, words in (
        (problem, [f], "previous: expected for each of 'velocity' and 'pressure'"),
        (problem, [p, None], "previous: expected a Function in the space of 'velocity'"),
        (problem, [fem.Function(V, name="u_n"), None], "'u_n' does not stand in the step's residual"),
        (problem, [f, None], "initial: Functions of 'velocity' and 'pressure' are data"),
        ([problem, carried], [None, before], r"step: .*got one of the blocks \(velocity, pressure\); beside"),
    ):
        with pytest.raises(BadProblem, match=words):
            relax.Evolution(step=step, previous=previous, initial=[fem.Function(V), 0.0], num_steps=2)
    with pytest.raises(BadProblem, match="expected a UFL form in one test function"):
        relax.theta_evolution(F, [u, p], initial=0.0, dt=0.1, num_steps=2)


def test_null_space_by_vectors():
    """Constants of the pressure alone, named by block."""
    F, (u, p), bcs, (f, _) = cavity()
    f.interpolate(lambda x: np.array([x[1] ** 2, x[0]]))
    one = fem.Function(p.function_space)
    one.x.array[:] = 3.0
    for named in ("constants", [[None, one]]):
        problem = relax.Problem(residual=F, state=[u, p], bcs=bcs, nullspace=named, name="walls")
        with relax.ReducedMap(problem, relax.FieldValues(p.function_space)) as G:
            if named == "constants":
                expected = G([])
            else:
                close(G([]), expected)
