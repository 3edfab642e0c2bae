"""Closed forms: known solutions are found, others are not claimed; the same on any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ufl
from contract import everyone_has, raised_everywhere
from dolfinx import fem
from dolfinx.mesh import locate_entities_boundary, meshtags
from ufl import dx, exp, grad, inner, pi, sin

from relax import meshes, symbolic
from relax.errors import BadInput, BadProblem

sympy = pytest.importorskip("sympy")

x, y, z = sympy.symbols("x y z", real=True)
t = sympy.Symbol("t", real=True)


def on(mesh: Any) -> tuple[Any, Any, Any]:
    """The unknown, a test function, coordinates."""
    V = fem.functionspace(mesh, ("Lagrange", 1))
    return symbolic.unknown(V), ufl.TestFunction(V), ufl.SpatialCoordinate(mesh)


def laplacian(u: Any, v: Any) -> Any:
    return inner(grad(u), grad(v))


def parabola() -> tuple[Any, ...]:
    u, v, _ = on(meshes.interval(8))
    return (laplacian(u, v) - v) * dx, {"boundary": 0.0}, {}, x * (1 - x) / 2


def heat() -> tuple[Any, ...]:
    u, v, at = on(meshes.interval(8))
    form = (u.dt * v + 0.37 * laplacian(u, v)) * dx
    return form, {"boundary": 0, "initial": sin(pi * at[0])}, {}, sympy.exp(-0.37 * sympy.pi**2 * t) * sympy.sin(pi * x)


def wave() -> tuple[Any, ...]:
    u, v, at = on(meshes.interval(8))
    form = (u.dt.dt * v + laplacian(u, v)) * dx
    given = {"boundary": 0, "initial": sin(pi * at[0]), "velocity": 0}
    return form, given, {}, sympy.cos(pi * t) * sympy.sin(pi * x)


def mode() -> tuple[Any, ...]:
    u, v, at = on(meshes.unit_square(6))
    form = (laplacian(u, v) - 2 * pi**2 * sin(pi * at[0]) * sin(pi * at[1]) * v) * dx
    return form, {"boundary": 0.0}, {}, sympy.sin(pi * x) * sympy.sin(pi * y)


def plane() -> tuple[Any, ...]:
    # By symmetry the one node inside has no error: the mesh of half the width and the next decide.
    u, v, at = on(meshes.unit_cube(2))
    form = laplacian(u, v) * dx
    return form, {"boundary": at[0] * at[1] - 3 * at[2]}, {}, x * y - 3 * z


def moving_boundary() -> tuple[Any, ...]:
    """u_t + u_x = 0 with the time in the boundary values, and in the source."""
    u, v, at = on(meshes.interval(8))
    time = fem.Constant(u.function_space.mesh, 0.7)
    form = (u.dt + u.dx(0) - 2.0 * time) * v * dx + 0.1 * laplacian(u, v) * dx
    return (
        form,
        {"boundary": 2 * at[0] + time**2 - 2 * time, "initial": 2 * at[0]},
        {"time": time},
        2 * x + t**2 - 2 * t,
    )


def layer() -> tuple[Any, ...]:
    """−u″/10 + u′ = 1: an affine function and an exponential, 4e-5 of it."""
    u, v, _ = on(meshes.interval(16))
    form = (0.1 * laplacian(u, v) + u.dx(0) * v - v) * dx
    return form, {"boundary": 0.0}, {}, x - (sympy.exp(10 * x) - 1) / (sympy.exp(10) - 1)


def right_end(mesh: Any) -> Any:
    """Tags: 1 at the facet where x = 1."""
    facets = locate_entities_boundary(mesh, mesh.topology.dim - 1, lambda at: np.isclose(at[0], 1.0))
    return meshtags(mesh, mesh.topology.dim - 1, facets, np.ones(len(facets), dtype=np.int32))


def flux() -> tuple[Any, ...]:
    """−u″ = 1, u = 0 on the left, u′ = 2 on the right."""
    u, v, _ = on(meshes.interval(8))
    ds = ufl.Measure("ds", subdomain_data=right_end(u.function_space.mesh))
    return (laplacian(u, v) - v) * dx - 2 * v * ds(1), {"boundary": 0.0}, {}, x * (6 - x) / 2


def robin() -> tuple[Any, ...]:
    """Δu = 0 and ∂u/∂n + 3 u = 3 + 3 x y + n · (y, x)."""
    u, v, at = on(meshes.unit_square(4))
    n = ufl.FacetNormal(u.function_space.mesh)
    data = 3 + 3 * at[0] * at[1] + n[0] * at[1] + n[1] * at[0]
    return laplacian(u, v) * dx + (3 * u - data) * v * ufl.ds, {}, {}, 1 + x * y


def insulated() -> tuple[Any, ...]:
    """u_t = u_xx/10, and nothing flows out."""
    u, v, at = on(meshes.interval(8))
    nothing = fem.Constant(u.function_space.mesh, 0.0)
    form = (u.dt * v + 0.1 * laplacian(u, v)) * dx + nothing * v * ufl.ds
    exact = sympy.exp(-(sympy.pi**2) * t / 10) * sympy.cos(sympy.pi * x)
    return form, {"initial": ufl.cos(pi * at[0])}, {}, exact


CASES = [parabola, heat, wave, mode, plane, moving_boundary, layer, flux, robin, insulated]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.ranks(1, 2, 3)
@pytest.mark.slow
def test_found(case):
    """Constants to 1e-6, and the same formula to the last letter on every rank."""
    form, conditions, more, exact = case()
    found = symbolic.solve(form, conditions, budget=60.0, **more)
    assert found.is_exact, str(found)
    assert found.residual < 1e-9
    gap = sympy.lambdify((x, y, z, t), found.expression - exact)
    rng = np.random.default_rng(0)
    assert max(abs(gap(*point)) for point in rng.random((20, 4))) < 1e-6
    everyone_has(str(found))
    assert "is the solution" in str(found)


@pytest.mark.slow
def test_quadratic_datum():
    """Hamilton and Jacobi with viscosity, on a part of the line: c x²/(2 (1 + c t)) + log(1 + c t)/(2 β)."""
    beta, c = 3.0, 1.5
    u, v, at = on(meshes.interval(8, (-2.0, 2.0)))
    form = (u.dt * v + 0.5 * inner(grad(u), grad(u)) * v + laplacian(u, v) / (2 * beta)) * dx
    found = symbolic.solve(form, {"initial": c * at[0] ** 2 / 2}, operators=("inv", "log", "square"), budget=60.0)
    assert found.is_exact, str(found)
    exact = c * x**2 / (2 * (1 + c * t)) + sympy.log(1 + c * t) / (2 * beta)
    assert float(abs((found.expression - exact).subs({x: 0.7, t: 0.4}))) < 1e-6


@pytest.mark.slow
@pytest.mark.ranks(1, 2)
def test_no_closed_form():
    """The best formula has an error, and is not called exact."""
    u, v, at = on(meshes.interval(8))
    form = (laplacian(u, v) + u**3 * v - exp(sin(5 * at[0])) * v) * dx
    found = symbolic.solve(form, {"boundary": 0.0}, budget=0.5)
    assert not found.is_exact and 0 < found.error < 0.2
    assert "no closed form" in str(found) and f"{found.error:.1e}" in str(found)
    sizes, misfits = [c.size for c in found.candidates], [c.misfit for c in found.candidates]
    assert sizes == sorted(set(sizes)) and misfits == sorted(misfits, reverse=True)


def fitted_first(form: Any, conditions: dict[str, Any], trees: Any) -> Any:
    """The first of these that solves the equation."""
    from relax.symbolic.equation import Equation
    from relax.symbolic.judge import Judge

    fit = Judge(Equation(form, conditions), 1.0).pointwise()
    return next(f for f in (fit.fitted(tree, 0) for tree in trees) if f.solves)


@pytest.mark.slow
def test_polynomials_about_centres():
    """x²(1−x)²y²(1−y)² in five constants, of 45 in powers; simplified, it is what it was."""
    from relax.symbolic.ansatz import possible
    from relax.symbolic.pointwise import in_sympy

    u, v, at = on(meshes.unit_square(6))
    exact = (at[0] * (1 - at[0]) * at[1] * (1 - at[1])) ** 2
    form = laplacian(u, v) * dx + ufl.div(grad(exact)) * v * dx
    likely_ones = (tree for tree in possible(2, (), 1) if str(tree).count("'middle'") == 2)
    found = fitted_first(form, {"boundary": 0.0}, likely_ones)
    assert len(found.constants) == 5
    said = in_sympy(found, (x, y))
    assert said == x**2 * y**2 * (x - 1) ** 2 * (y - 1) ** 2


@pytest.mark.slow
def test_beside_an_affine_function():
    """A layer that is a wave along its wall, beside x − 2 y."""
    from relax.symbolic.ansatz import possible

    u, v, at = on(meshes.unit_square(16))
    exact = at[0] - 2 * at[1] + exp(4 * (at[0] - 1)) * sin(2 * at[1])
    form = (laplacian(u, v) + u.dx(0) * v - v + 8 * exp(4 * (at[0] - 1)) * sin(2 * at[1]) * v) * dx
    some = (tree for tree in possible(2, ("exp", "sin"), 1) if tree[1][0] == "+" and str(tree).count("'sin'") == 1)
    assert len(fitted_first(form, {"boundary": exact}, some).constants) == 7


def test_verdicts():
    """A formula is the solution where nothing is left of it at points, on the mesh, and beside the finite elements."""
    from relax.symbolic.equation import Equation
    from relax.symbolic.judge import Judge
    from relax.symbolic.pointwise import Formula

    form, conditions, _, _ = parabola()
    judge = Judge(Equation(form, conditions), 1.0)
    z0 = ("z", 0)
    right = ("+", ("*", ("c", ("amplitude",)), z0), ("*", ("c", ("amplitude",)), ("square", z0)))
    assert judge(Formula(right, (0.5, -0.5), 0.0, True)).is_exact
    assert not judge(Formula(right, (0.5, -0.5), 1.0, False)).is_exact
    assert not judge(Formula(right, (0.5 + 1e-3, -0.5), 0.0, True)).is_exact
    assert judge(Formula(right, (0.5, -0.499), 0.0, True)).weak > 1e-4


def test_flux_that_is_wrong():
    """Right in the domain and where u is held, and wrong by 1 where the form has a flux."""
    from relax.symbolic.equation import Equation
    from relax.symbolic.judge import Judge
    from relax.symbolic.pointwise import Formula

    form, conditions, _, _ = flux()
    judge, z0 = Judge(Equation(form, conditions), 1.0), ("z", 0)
    tree = ("+", ("*", ("c", ("amplitude",)), z0), ("*", ("c", ("amplitude",)), ("square", z0)))
    assert judge(Formula(tree, (3.0, -0.5), 0.0, True)).is_exact
    wrong_one = judge(Formula(tree, (2.0, -0.5), 0.0, True))
    assert wrong_one.weak > 0.01 and wrong_one.error == pytest.approx(1.0) and not wrong_one.is_exact
    rows = judge.pointwise().rows(tree, False, [np.full((1, 1, 1), c) for c in (2.0, -0.5)])
    assert np.abs(rows).max() > 1e-3


def test_eigenvalues():
    """Where other solutions are known to be, none is called the solution, though finite elements have but one."""
    from relax.symbolic.equation import Equation
    from relax.symbolic.judge import Judge
    from relax.symbolic.pointwise import Formula

    nothing = Formula(("c", ("amplitude",)), (0.0,), 0.0, True)
    u, v, _ = on(meshes.interval(8))
    no_flux = fem.Constant(u.function_space.mesh, 0.0) * v * ufl.ds
    for square, unique in ((pi**2, False), (20.0, True)):
        form = (laplacian(u, v) - square * u * v) * dx
        for whole, conditions in ((form, {"boundary": 0.0}), (form + no_flux, {})):
            verdict = Judge(Equation(whole, conditions), 1.0)(nothing)
            assert verdict.error == 0.0 and verdict.is_exact == unique


def test_small_and_large_numbers():
    """A small number is not 0, and a large one no fraction; of two that say one thing, the sum is."""
    from relax.symbolic.pointwise import Formula, in_sympy, near_fraction

    assert float(near_fraction(5e-10)) == pytest.approx(5e-10, rel=1e-9)
    assert near_fraction(1e6 * np.pi) == 10**6 * sympy.pi
    sum_of_two = Formula(("+", ("c", ("phase",)), ("c", ("phase",))), (2.0 - np.sqrt(0.1), np.sqrt(0.1)), 0.0, True)
    assert in_sympy(sum_of_two, (x,)) == 2
    assert near_fraction(0.375) == sympy.Rational(3, 8) and near_fraction(0.0) == 0


def test_words():
    """What solves an equation that has other solutions is named, and not called the solution."""
    said = str(symbolic.SymbolicSolution(x, False, 1e-16, 0.3, (), 7, True))
    assert "solves the equation" in said and "3.0e-01" in said and "other solutions" in said


def wrong(name: str) -> tuple[Any, Any, dict[str, Any]]:
    form, conditions, _, _ = parabola()
    (u,) = form.coefficients()
    V = u.function_space
    v = ufl.TestFunction(V)
    evolving = (u.dt * v + laplacian(u, v)) * dx
    known, tagged = fem.Function(V), ufl.Measure("ds", subdomain_data=right_end(V.mesh))
    return {
        "no conditions": (form, {}, {}),
        "a word": (form, {"left": 0.0}, {}),
        "a function": (form, {"boundary": lambda at: at[0]}, {}),
        "a field": (form, {"boundary": known}, {}),
        "NaN": (form, {"boundary": np.nan}, {}),
        "a Constant of NaN": (fem.Constant(V.mesh, np.nan) * form, conditions, {}),
        "no start": (evolving, {"boundary": 0.0}, {}),
        "an unknown": (form, {"boundary": u}, {}),
        "infinite": (form, {"boundary": 1 / ufl.SpatialCoordinate(V.mesh)[0]}, {}),
        "operators": (form, conditions, {"operators": ["tan"]}),
        "budget": (form, conditions, {"budget": 0.0}),
        "size": (form, conditions, {"size": 0}),
        "t": (evolving, {"initial": 0.0}, {"t": -1.0}),
        "twice": (form + v * ufl.ds, conditions, {}),
        "half": (form + v * tagged(1), {}, {}),
        "no tags": (form + v * ufl.ds(1), conditions, {}),
        "other tags": (form + v * tagged(7), conditions, {}),
        "inner facets": (form + ufl.avg(v) * ufl.dS, conditions, {}),
        "a part of the domain": (form + v * dx(1), conditions, {}),
        "a slope of v": (form + v.dx(0) * tagged(1), conditions, {}),
        "nothing inside": (u * v * ufl.ds, {}, {}),
        "up to a constant": (form + fem.Constant(V.mesh, 0.0) * v * ufl.ds, {}, {}),
        "no unknown": (v * dx, conditions, {}),
        "two unknowns": (form + symbolic.unknown(V) * v * dx, conditions, {}),
        "a coefficient": (form + known * v * dx, conditions, {}),
        "third order in time": (form + u.dt.dt.dt * v * dx, conditions, {}),
        "time without u.dt": (form, conditions, {"time": fem.Constant(V.mesh, 0.0)}),
        "no form": (u, conditions, {}),
    }[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no conditions", "nothing else fixes u"),
        ("a word", "got 'left'"),
        ("a function", "a number or a UFL expression"),
        ("a field", "numbers at nodes have no formula"),
        ("NaN", "a number or a UFL expression"),
        ("a Constant of NaN", "expected finite numbers"),
        ("no start", "needs 'initial'"),
        ("an unknown", "the unknown"),
        ("infinite", "expected finite values"),
        ("operators", "got 'tan'"),
        ("budget", "budget: expected"),
        ("size", "size: expected"),
        ("t", "t: expected"),
        ("twice", 'leave out "boundary"'),
        ("half", "nothing else fixes u"),
        ("no tags", "a measure with facet tags"),
        ("other tags", "no facet of the boundary"),
        ("inner facets", "got cell, interior_facet"),
        ("a part of the domain", "of a part"),
        ("a slope of v", "no derivative of the test function"),
        ("nothing inside", "got exterior_facet"),
        ("up to a constant", "up to a constant only"),
        ("no unknown", "one relax.symbolic.unknown"),
        ("two unknowns", "one relax.symbolic.unknown"),
        ("a coefficient", "numbers at nodes have no formula"),
        ("third order in time", "at most u.dt.dt"),
        ("time without u.dt", "no derivative in time"),
        ("no form", "residual: expected a UFL form"),
    ],
)
@pytest.mark.ranks(1, 2)
def test_mistakes(name, words):
    form, conditions, more = wrong(name)
    error = raised_everywhere((BadInput, BadProblem), lambda: symbolic.solve(form, conditions, **more))
    assert words in str(error)


@pytest.mark.ranks(1, 2)
def test_quadrilaterals_and_vectors():
    u, v, _ = on(meshes.unit_square(2, cell="quadrilateral"))
    form = (laplacian(u, v) - v) * dx
    assert "triangles" in str(raised_everywhere(BadInput, lambda: symbolic.solve(form, {"boundary": 0.0})))
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1, (2,)))
    u, v = symbolic.unknown(V), ufl.TestFunction(V)
    vectors = laplacian(u, v) * dx
    assert "scalar" in str(raised_everywhere(BadProblem, lambda: symbolic.solve(vectors, {"boundary": 0.0})))
