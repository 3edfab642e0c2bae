"""Functions in a space of one number, basix.ufl.real_element (DOLFINx 0.11): controls, states, no multipliers yet."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import COMM, LAYOUTS, close, everyone_has, raised_everywhere
from dolfinx import fem
from ufl import dx, exp, grad, inner

from relax import FieldValues, Functional, Problem, ReducedMap, check_map, clamp_boundary, meshes
from relax.errors import BadProblem


def number(domain):
    """A Function of one number, where DOLFINx has such."""
    try:
        return fem.Function(fem.functionspace(domain, basix.ufl.real_element(domain.basix_cell(), ())))
    except (NotImplementedError, TypeError) as cause:
        pytest.skip(f"a space of one number needs DOLFINx 0.11: {cause!r}")


def reaction(domain, c):
    """-Δu + u³ = e^c, u = 0 on the boundary."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    residual = (inner(grad(u), grad(v)) + u**3 * v - exp(c) * v) * dx
    return Problem(residual=residual, state=u, controls=[c], bcs=[clamp_boundary(V)])


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_control(layout):
    """The numbers of a Constant in its place."""
    domain = meshes.unit_square(3, comm=COMM)
    P, Q = (reaction(domain, c) for c in (number(domain), fem.Constant(domain, 0.0)))
    G, H = (ReducedMap(p, FieldValues(p.state.function_space), layout=layout) for p in (P, Q))
    with G, H:
        m, w = np.full(G.size_in, 0.5), np.cos(np.arange(G.size_out))
        assert check_map(G, m).failures == []
        assert G.size_in == H.size_in
        with G.linearize(m) as lin, H.linearize(m) as other:
            everyone_has(lin.value)
            close(lin.value, other.value)
            close(lin.jvp(m), other.jvp(m))
            close(lin.vjp(w), other.vjp(w))
            close(lin.hvp(w, m), other.hvp(w, m))


@pytest.mark.ranks(1, 2)
def test_a_state():
    """u³ + u = e^c for one number u, without a mesh's help: at e^c = 2 it is 1, and du/dc = 2 / 4."""
    domain = meshes.interval(5, comm=COMM)
    u, c = number(domain), fem.Constant(domain, 0.0)
    v = ufl.TestFunction(u.function_space)
    problem = Problem(residual=(u**3 + u - exp(c)) * v * dx, state=u, controls=[c])
    with ReducedMap(problem, Functional(u * dx)) as G:
        with G.linearize([np.log(2.0)]) as lin:
            close(lin.value, [1.0])
            close(lin.matrix(), [[0.5]])
        assert check_map(G, [np.log(2.0)]).failures == []


@pytest.mark.ranks(1, 2)
def test_a_multiplier_is_refused_with_the_way_around():
    """Of a mean by ∫ c v + ∫ u d: DOLFINx has it in blocks alone."""
    domain = meshes.interval(5, comm=COMM)
    c = number(domain)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, (v, d) = fem.Function(V), ufl.TestFunctions(ufl.MixedFunctionSpace(V, c.function_space))
    residual = (inner(grad(u), grad(v)) + c * v + u * d) * dx
    assert "nullspace=" in str(raised_everywhere(BadProblem, lambda: Problem(residual=residual, state=[u, c])))
