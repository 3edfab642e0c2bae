"""A form and what is derived from it must be integrated by one rule."""

from __future__ import annotations

import numpy as np
import problems
import pytest
import ufl
from contract import COMM
from dolfinx import fem

from relax import Functional, ReducedMap, check_map, meshes
from relax.base import parallel
from relax.base.fem.quadrature import with_fixed_degrees
from relax.engine.residual import derived
from relax.observe import functional


@pytest.fixture
def steep():
    """-div(exp(m) grad u) = 1 on four cells, m from 0 to 3: an integrand that no rule integrates exactly."""
    problem = problems.diffusion_p2(meshes.unit_square(2))
    return problem, lambda: ReducedMap(problem, problems.field(problem))


def degrees(form):
    return [i.metadata().get("quadrature_degree") for i in form.integrals()]


def slope_gap(G, m):
    """How far the tangent is from a central difference, relative; the difference is exact to about 1e-9."""
    d = np.random.default_rng(1).standard_normal(G.size_in)
    with G.linearize(m) as lin:
        slope = lin.jvp(d)
    eps = 1e-4
    exact = (G(m + eps * d) - G(m - eps * d)) / (2 * eps)
    finer = (G(m + eps / 2 * d) - G(m - eps / 2 * d)) / eps
    exact = (4 * finer - exact) / 3
    return float(np.abs(slope - exact).max() / np.abs(exact).max())


def test_one_rule_makes_the_derivative_the_derivative(steep):
    problem, make = steep
    with make() as G:
        m = G.present_control()
        assert slope_gap(G, m) < 1e-8
        report = check_map(G, m)
        assert 2.9 < report.second_order < 3.1


def test_without_it_the_derivative_is_another_functions(steep, monkeypatch):
    """The negative control: UFL alone gives the derivative a rule of its own."""
    monkeypatch.setattr(derived, "with_fixed_degrees", lambda form: form)
    problem, make = steep
    with make() as G:
        m = G.present_control()
        assert slope_gap(G, m) > 1e-6


def test_the_form_itself_is_integrated_as_before(steep):
    problem, _ = steep
    F = problem.residual
    before, after = (fem.assemble_vector(fem.form(f)).array for f in (F, with_fixed_degrees(F)))
    np.testing.assert_array_equal(before, after)


def test_derivatives_keep_the_degrees(steep):
    problem, _ = steep
    F = with_fixed_degrees(problem.residual)
    (degree,) = set(degrees(F))
    derived = ufl.algorithms.expand_derivatives(ufl.derivative(F, problem.controls[0]))
    assert degree > 0 and set(degrees(derived)) == {degree}


@pytest.mark.parametrize("parts", [(1, 2), (2, 1)])
def test_integrals_of_one_kind_share_the_largest_degree(parts):
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    F = u**6 * v * ufl.dx(parts[0]) + u * v * ufl.dx(parts[1]) + u * v * ufl.ds
    assert sorted(degrees(with_fixed_degrees(F))) == [2, 7, 7]


def test_what_the_user_has_set_stays():
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    F = u * v * ufl.dx(degree=7) + ufl.exp(u) * v * ufl.dx + u * v * ufl.ds
    by_kind = {(i.integral_type(), i.metadata()["quadrature_degree"]) for i in with_fixed_degrees(F).integrals()}
    assert ("cell", 7) in by_kind and ("exterior_facet", 2) in by_kind
    lumped = u * v * ufl.dx(metadata={"quadrature_rule": "vertex"})
    assert "quadrature_degree" not in with_fixed_degrees(lumped).integrals()[0].metadata()


def test_functionals_have_one_rule_too(monkeypatch):
    """d/du of the integral of exp(u): with one rule a difference of the sum, without it not."""
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 2))
    u, d = fem.Function(V), fem.Function(V)
    d.interpolate(lambda x: np.sin(3 * x[0]) + x[1])

    def gap():
        B = Functional(ufl.exp(u) * ufl.dx)
        slopes = []
        for eps in (1e-3, 5e-4):
            sides = []
            for sign in (1.0, -1.0):
                u.interpolate(lambda x: 3 * x[0] + x[1] ** 2)
                u.x.array[:] += sign * eps * d.x.array
                sides.append(B.value(u)[0])
            slopes.append((sides[0] - sides[1]) / (2 * eps))
        exact = (4 * slopes[1] - slopes[0]) / 3
        u.interpolate(lambda x: 3 * x[0] + x[1] ** 2)
        return parallel.largest(COMM, abs(B.tangent(u, d)[0] - exact) / abs(exact))

    assert gap() < 1e-9
    monkeypatch.setattr(functional, "with_fixed_degrees", lambda form: form)
    assert gap() > 1e-7
