"""Blocks: what their Functions hold, and what follows from them: observables, networks, estimates, steps in time."""

from __future__ import annotations

import basix.ufl
import numpy as np
import pytest
import ufl
from contract import close
from dolfinx import fem, la
from ufl import div, dx, grad, inner

import relax
from relax.errors import BadProblem


def test_first_guess_and_what_is_held():
    """u² = 4, p = u: the guess is what u holds when a map is made, or its part of the whole, written later."""
    domain = relax.meshes.interval(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, p, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    problem = relax.Problem(residual=[(u**2 - 4.0) * v * dx, (p - u) * v * dx], state=[u, p])
    for guess, writes in ((3.0, u), (-3.0, u), (3.0, problem.state)):
        writes.x.array[:] = guess
        with relax.ReducedMap(problem, relax.Functional(u * p**2 * dx)) as G:
            close(G([]), [8.0 * np.sign(guess)])
        np.testing.assert_allclose([u.x.array, p.x.array], 2.0 * np.sign(guess), rtol=1e-10)


class OwnProduct(relax.Observable):
    """∫ u p dx, of the Functions of a user's, by a rule of the user's."""

    size = 1

    def __init__(self, u, p):
        self.form = fem.form(u * p * dx)
        self.slopes = [fem.form(other * ufl.TestFunction(one.function_space) * dx) for one, other in ((u, p), (p, u))]

    def value(self, u):
        return np.array([u.function_space.mesh.comm.allreduce(fem.assemble_scalar(self.form))])

    def adjoint(self, u, dy):
        dual = fem.Function(u.function_space)
        for slope, dofs in zip(self.slopes, u.dofs, strict=True):
            dual.x.array[dofs] = dy[0] * fem.assemble_vector(slope).array
        dual.x.scatter_reverse(la.InsertMode.add)
        return dual.x.array[: relax.base.fem.forms.num_owned(u.function_space)]

    def tangent(self, u, du):
        slope = self.adjoint(u, np.ones(1))
        return np.array([u.function_space.mesh.comm.allreduce(slope @ du.x.array[: len(slope)])])


@pytest.mark.ranks(1, 2)
def test_an_observable_of_ones_own():
    """It is handed the whole, and finds the blocks in their Functions, too, at whatever point is asked for."""
    domain = relax.meshes.interval(4)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, p, m, v = fem.Function(V, name="u"), fem.Function(V, name="p"), fem.Function(V), ufl.TestFunction(V)
    problem = relax.Problem(residual=[(u + u**3 - m) * v * dx, (p - u * m) * v * dx], state=[u, p], controls=[m])
    with relax.ReducedMap(problem, OwnProduct(u, p)) as G:
        relax.check_map(G)
        lin = G.linearize(np.full(G.size_in, 10.0))  # u = 2, p = 20
        close(lin.value, [40.0])
        gradient = lin.vjp([1.0])
        close(G(np.full(G.size_in, 2.0)), [2.0])  # u = 1, p = 2
        close(lin.vjp([1.0]), gradient)
        # d(u² m)/dm = u² + 2 u m / (1 + 3 u²)
        assert gradient.sum() == pytest.approx(4.0 + 40.0 / 13.0)


def test_a_network_of_another_block():
    """A conductivity that is learnt as a function of the other block is followed into the derivatives."""
    torch = pytest.importorskip("torch")
    domain = relax.meshes.interval(4)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, p, v = fem.Function(V, name="u"), fem.Function(V, name="p"), ufl.TestFunction(V)
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1), torch.nn.Softplus())
    k = relax.LearnedCoefficient(network.double(), [p])
    equations = [(k * u.dx(0) * v.dx(0) - v) * dx, (p.dx(0) * v.dx(0) + (p - u**2) * v) * dx]
    on_both = fem.dirichletbc(0.0, fem.locate_dofs_geometrical(V, lambda x: np.isclose(x[0], 0.0)), V)
    problem = relax.Problem(residual=equations, state=[u, p], controls=[k], bcs=[on_both], name="learnt")
    with relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space)) as G:
        assert relax.check_map(G).adjoint_gap < 1e-12


def test_one_state_in_a_list():
    """It is as without brackets."""
    V = fem.functionspace(relax.meshes.interval(2), ("Lagrange", 1))
    u, v = fem.Function(V), ufl.TestFunction(V)
    for test in (v, ufl.TestFunctions(ufl.MixedFunctionSpace(V))[0]):
        problem = relax.Problem(residual=[(u - 3.0) * test * dx], state=[u])
        assert problem.state is u
        with relax.ReducedMap(problem, relax.FieldValues(V)) as G:
            np.testing.assert_allclose(G([]), 3.0)


def test_goal_oriented_error():
    """The estimate of the error of an integral over both blocks is that of the mixed problem."""
    domain = relax.meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, w = fem.Function(V, name="u"), fem.Function(V, name="w")
    v, z = ufl.TestFunctions(ufl.MixedFunctionSpace(V, V))
    F = (inner(grad(u), grad(v)) - w * v + inner(grad(w), grad(z)) - 1.0 * z) * dx
    # One condition on the space that they share holds for both.
    problem = relax.Problem(residual=F, state=[u, w], controls=(), bcs=[relax.clamp_boundary(V)])
    whole, estimates = problem.state, []
    for seen in (u * w * dx, whole[0] * whole[1] * dx):
        with relax.ReducedMap(problem, relax.Functional(seen)) as G, G.linearize([]) as lin:
            estimates.append(relax.dual_weighted_residual(lin, [1.0]))
    close(estimates[0].cells.x.array, estimates[1].cells.x.array)
    assert estimates[0].total == pytest.approx(estimates[1].total, rel=1e-9)


@pytest.mark.ranks(1, 2, 3)
def test_steps_of_blocks():
    """Flow that is set in motion: the same as by a mixed Function, derivatives included; blocks hold what is shown."""
    domain = relax.meshes.unit_square(3)
    V, Q = (fem.functionspace(domain, e) for e in (("Lagrange", 2, (2,)), ("Lagrange", 1)))
    u, u_n, p, f = fem.Function(V, name="u"), fem.Function(V), fem.Function(Q, name="p"), fem.Function(V)
    nu = fem.Constant(domain, 0.3)
    v, q = ufl.TestFunctions(ufl.MixedFunctionSpace(V, Q))
    f.interpolate(lambda x: np.array([1.0 + x[1], x[0]]))

    def flow(u, p, u_n, v, q):
        return (inner((u - u_n) / 0.1 + ufl.dot(u_n, ufl.nabla_grad(u)) - f, v) + nu * inner(grad(u), grad(v))
                - p * div(v) - q * div(u)) * dx  # fmt: skip

    walls = [relax.clamp(V, lambda x: np.isclose(x[1], 0) | np.isclose(x[1], 1))]
    step = relax.Problem(residual=flow(u, p, u_n, v, q), state=[u, p], controls=[nu, f], bcs=walls, name="flow")
    start = [lambda x: np.array([x[1] * (1 - x[1]), 0 * x[0]]), 0.0]
    march = relax.Evolution(step=step, previous=[u_n, None], initial=start, num_steps=3)
    points = [(0.3, 0.4), (0.9, 0.2)]
    looks = [relax.PointValues(V, points), relax.AtSteps(relax.Functional((p**2 + u[0] * p) * dx), [2, 3])]
    G = relax.ReducedMap(march, relax.Stack(looks))

    W = fem.functionspace(domain, basix.ufl.mixed_element([V.ufl_element(), Q.ufl_element()]))
    w, w_n, (a, b) = fem.Function(W), fem.Function(W), ufl.TestFunctions(W)
    (y, r), (y_n, _) = ufl.split(w), ufl.split(w_n)
    walls = [relax.clamp(W.sub(0), lambda x: np.isclose(x[1], 0) | np.isclose(x[1], 1))]
    one = relax.Problem(residual=flow(y, r, y_n, a, b), state=w, controls=[nu, f], bcs=walls, name="mixed")
    mixed = relax.Evolution(step=one, previous=w_n, initial=start, num_steps=3)
    looks = [relax.PointValues(W.sub(0), points), relax.AtSteps(relax.Functional((r**2 + y[0] * r) * dx), [2, 3])]
    H = relax.ReducedMap(mixed, relax.Stack(looks))
    m = G.present_control()
    close(G(m), H(m), 1e-11)
    seed, dm = np.arange(1.0, G.size_out + 1), np.linspace(-1.0, 1.0, G.size_in)
    with G.linearize(m) as lin, H.linearize(m) as other:
        close(lin.vjp(seed), other.vjp(seed), 1e-10)
        close(lin.hvp(seed, dm), other.hvp(seed, dm), 1e-10)
    for _ in G.trajectory(m):
        pass
    close(relax.PointValues(V, points).value(u), G(m)[:4], 1e-13)
    with pytest.raises(BadProblem, match="depends on `previous`"):
        relax.ReducedMap(march, relax.Functional(inner(u, u_n) * dx))
