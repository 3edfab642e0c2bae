"""Functions in a space of one number, basix.ufl.real_element (DOLFINx 0.11): controls, states, multipliers."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import COMM, LAYOUTS, close, everyone_has, raised_everywhere
from dolfinx import fem
from ufl import avg, dS, dx, exp, grad, inner

from relax import (
    Evolution,
    FieldValues,
    Functional,
    Problem,
    ReducedMap,
    ResidualLoss,
    Stack,
    check_map,
    clamp_boundary,
    meshes,
)
from relax.base.fem.numbers import numbers
from relax.errors import BadProblem


def number(domain, shape=()):
    """A Function of one number; where DOLFINx has no such element one of the same dofmap, which takes one rank."""
    try:
        return fem.Function(fem.functionspace(domain, basix.ufl.real_element(domain.basix_cell(), shape)))
    except (NotImplementedError, TypeError) as cause:
        if COMM.size == 1:
            return fem.Function(numbers(domain, shape))
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


@pytest.mark.ranks(1, 2, 3)
def test_a_multiplier_for_a_mean():
    """-Δu = f - c, ∂u/∂n = 0, mean a of u on facets inside: c is the mean of f, and u that of ``nullspace``, moved."""
    domain = meshes.unit_square(4)
    c, a = number(domain), fem.Constant(domain, 0.4)
    c.name = "c"
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, f, (v, d) = fem.Function(V), fem.Function(V), ufl.TestFunctions(ufl.MixedFunctionSpace(V, c.function_space))
    f.interpolate(lambda x: np.exp(x[0]) * x[1])
    residual = (inner(grad(u), grad(v)) + (c - f) * v) * dx + (avg(u) - a) * avg(d) * dS
    means = fem.Constant(domain, 0.0)
    alone = ufl.TestFunction(V)
    w = fem.Function(V)
    plain = Problem(residual=(inner(grad(w), grad(alone)) + (means - f) * alone) * dx, state=w, nullspace="constants")
    problem = Problem(residual=residual, state=[u, c], controls=[f, a], name="mean")
    c.x.array[:] = 7.0
    with ReducedMap(problem, Stack([FieldValues(c.function_space), Functional(u * f * dx + c**2 * dx)])) as G:
        m = G.present_control()
        value = G(m)
        assert check_map(G, m).failures == []
        with G.linearize(m) as lin:
            everyone_has(lin.value)
            (gradient,) = lin.vjp([[1.0, 0.0]])
            close(G.dot(gradient, m), value[0])
    close(c.x.array, np.full(1, value[0]))
    means.value = value[0]
    one = fem.Constant(domain, 1.0)
    seen = [w * f * dx + means**2 * dx, f * dx, (avg(w) - a) * dS, one * dS]
    with ReducedMap(plain, Stack([Functional(form) for form in seen[::2]])) as H:
        product, moved = H([])
    total, length = (domain.comm.allreduce(fem.assemble_scalar(fem.form(form))) for form in seen[1::2])
    close(value[1], product - moved / length * total)


@pytest.mark.ranks(1, 2)
def test_a_vector_in_time():
    """u_t = c, c_t = -u for a vector c for all of the mesh, by the midpoint: norms stay, from (1, 0) and c = (0, 1)."""
    domain = meshes.unit_square(2)
    c = number(domain, (2,))
    c_n = fem.Function(c.function_space, name="c_n")
    V = fem.functionspace(domain, ("Lagrange", 1, (2,)))
    u, u_n = fem.Function(V, name="u"), fem.Function(V, name="u_n")
    v, d = ufl.TestFunctions(ufl.MixedFunctionSpace(V, c.function_space))
    k = 0.1
    residual = inner(u - u_n - k * (c + c_n) / 2, v) * dx + inner(c - c_n + k * (u + u_n) / 2, d) * dx
    step = Problem(residual=residual, state=[u, c], name="spin")
    spin = Evolution(
        step=step, previous=[u_n, c_n], initial=[fem.Constant(domain, (1.0, 0.0)), (0.0, 1.0)], num_steps=5
    )
    with ReducedMap(spin, Stack([Functional(u[0] * dx), Functional(c[1] * dx), Functional(inner(u, u) * dx)])) as G:
        angle = 2 * 5 * np.arctan(k / 2)
        close(G([]), [np.cos(angle), np.cos(angle), 1.0])


@pytest.mark.ranks(1, 2)
def test_what_a_number_is_not_for():
    domain = meshes.interval(5)
    c, V = number(domain), fem.functionspace(domain, ("Lagrange", 1))
    u, (v, d) = fem.Function(V), ufl.TestFunctions(ufl.MixedFunctionSpace(V, c.function_space))
    residual = (inner(grad(u), grad(v)) + c * v + u * d) * dx
    problem = Problem(residual=residual, state=[u, c])
    assert "a block that is one number" in str(raised_everywhere(BadProblem, lambda: ResidualLoss(problem)))
    held = fem.dirichletbc(fem.Function(c.function_space), np.zeros(1, dtype=np.int32))
    refused = raised_everywhere(BadProblem, lambda: Problem(residual=residual, state=[u, c], bcs=[held]))
    assert "expected a Constant in its place" in str(refused)
