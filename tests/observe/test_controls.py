"""What is seen of the state and of controls: values and derivatives of y = B(u(m), m)."""

from __future__ import annotations

import numpy as np
import pytest
import ufl
from contract import CLOSE, close, raised_everywhere
from dolfinx import fem
from mpi4py import MPI
from ufl import dx, grad, inner

import relax
import relax.observe.of_form
from relax import AtSteps, Functional, PointValues, ReducedMap, Stack, TimeIntegral, check_map, meshes
from relax.base import parallel

pytestmark = pytest.mark.ranks(1, 2, 3)


def checked(G):
    report = check_map(G)
    assert report.adjoint_gap < 1e-12
    return report


def pointwise(domain):
    """u = m + a[0] a[1] at each node: the map of numbers is known."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, m, a = fem.Function(V, name="u"), fem.Function(V, name="m"), fem.Constant(domain, np.array([1.0, 2.0]))
    F = (u - m - a[0] * a[1]) * ufl.TestFunction(V) * dx
    return relax.Problem(residual=F, state=u, controls=[m, a], name="pointwise"), u, m, a


def diffusion(domain):
    """A coefficient that is a field, a source of two numbers, and a reaction."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, m, a = fem.Function(V, name="u"), fem.Function(V, name="m"), fem.Constant(domain, np.array([1.0, 0.5]))
    v, x = ufl.TestFunction(V), ufl.SpatialCoordinate(domain)
    F = (inner(ufl.exp(m) * grad(u), grad(v)) + u**3 * v - (a[0] + a[1] * x[0]) * v) * dx
    bcs = [relax.clamp_boundary(V)]
    return relax.Problem(residual=F, state=u, controls=[m, a], bcs=bcs, name="diffusion"), u, m, a


@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_a_closed_form(layout):
    """J = ∫ exp(m) u² + a1² u of constants m = c: (c + a0 a1)² exp(c) + a1² (c + a0 a1), and its derivatives."""
    problem, u, m, a = pointwise(meshes.unit_square(3))
    with ReducedMap(problem, Functional((ufl.exp(m) * u**2 + a[1] ** 2 * u) * dx), layout=layout) as G:
        c, p, q = 0.3, 1.5, -0.4
        point = relax.control_values(G, c, [p, q])
        ways = [relax.control_values(G, *way) for way in ((1.0, [0.0, 0.0]), (0.0, [1.0, 0.0]), (0.0, [0.0, 1.0]))]
        lin, e, w = G.linearize(point), np.exp(c), c + p * q
        close(lin.value, [e * w**2 + q**2 * w], CLOSE)
        du = np.array([1.0, q, p])
        gradient = (2.0 * e * w + q**2) * du + np.array([e * w**2, 0.0, 2.0 * q * w])
        hessian = 2.0 * e * np.outer(du, du)
        hessian[0, 0] += e * w**2
        hessian[0] += 2.0 * e * w * du
        hessian[:, 0] += 2.0 * e * w * du
        hessian[2] += 2.0 * q * du
        hessian[:, 2] += 2.0 * q * du
        hessian[2, 2] += 2.0 * w
        hessian[1, 2] += 2.0 * e * w + q**2
        hessian[2, 1] += 2.0 * e * w + q**2
        close([lin.jvp(way)[0] for way in ways], gradient, CLOSE)
        close([G.dot(lin.vjp([1.0]), way) for way in ways], gradient, CLOSE)
        close([[G.dot(lin.hvp([1.0], a), b) for a in ways] for b in ways], hessian, CLOSE)


@pytest.mark.parametrize("layout", ["replicated", "owned"])
def test_derivatives(layout):
    problem, u, m, a = diffusion(meshes.unit_square(3))
    energy = Functional(ufl.exp(m) * inner(grad(u), grad(u)) * dx + a[0] * a[1] * m**2 * ufl.ds)
    seen = Stack([energy, PointValues(u.function_space, [(0.4, 0.3)]), Functional(a[1] * u * dx)])
    with ReducedMap(problem, seen, layout=layout) as G:
        assert checked(G).hessian_gap < 1e-12


def test_the_same_numbers_as_on_one_rank():
    results = []
    for comm in (MPI.COMM_WORLD, MPI.COMM_SELF):
        problem, u, m, a = diffusion(meshes.unit_square(3, comm=comm))
        energy = Functional(ufl.exp(m) * inner(grad(u), grad(u)) * dx + a[0] * a[1] * m**2 * ufl.ds)
        with ReducedMap(problem, energy) as G:
            rng = np.random.default_rng(3)
            lin = G.linearize(rng.uniform(0.5, 1.0, G.size_in))
            way = rng.standard_normal(G.size_in)
            results.append([lin.value, lin.jvp(way), lin.vjp([1.0]), lin.hvp([1.0], way)])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


def test_samples_that_share_a_solve():
    """Where the residual is affine the states of a batch come from one block solve: each is seen beside its control."""
    problem, u, m, a = pointwise(meshes.unit_square(2))
    linear = relax.Problem(residual=problem.residual, state=u, controls=[m], name="shared")
    with ReducedMap(linear, Functional(m * u * dx)) as G:
        rows = np.random.default_rng(5).standard_normal((3, G.size_in))
        close(G(rows), [G(row) for row in rows])
        points, seeds = G.linearize_each(rows), np.ones((2, 1))
        close([p.vjp(seeds) for p in points], [G.linearize(row).vjp(seeds) for row in rows])
        assert not points[0].is_everywhere_the_same
        checked(G)


class OwnEnergy(relax.Observable):
    """rate times the sum of the squares of the state, as a user might write it, without second derivatives."""

    size = 1

    def __init__(self, rate):
        self.rate = rate
        self.parameters = [rate]

    parameters = None

    def _square(self, u, v):
        n = u.function_space.dofmap.index_map.size_local
        return parallel.dot(u.function_space.mesh.comm, u.x.array[:n], v.x.array[:n])

    def value(self, u):
        return np.array([self.rate.value**2 * self._square(u, u)])

    def tangent(self, u, du):
        return np.array([2.0 * self.rate.value**2 * self._square(u, du)])

    def adjoint(self, u, dy):
        return 2.0 * self.rate.value**2 * dy[0] * u.x.array[: u.function_space.dofmap.index_map.size_local]

    def control_tangent(self, u, dm):
        return 2.0 * self.rate.value * dm[self.rate] * self._square(u, u)

    def control_adjoint(self, u, dy, control):
        return np.array([2.0 * self.rate.value * dy[0] * self._square(u, u)])


def test_an_observable_of_ones_own():
    """Two methods more, and the state and the control are as they were after the default for second derivatives."""
    domain = meshes.unit_square(3)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, v, rate = fem.Function(V), ufl.TestFunction(V), fem.Constant(domain, 1.5)
    F = (inner(grad(u), grad(v)) + rate * u * v - 3.0 * v) * dx
    problem = relax.Problem(residual=F, state=u, controls=[rate], bcs=[relax.clamp_boundary(V)], name="own")
    with ReducedMap(problem, Stack([OwnEnergy(rate), Functional(rate * u * dx)])) as G:
        checked(G)
        with G.linearize([0.7]) as lin:
            lin.hvp([1.0, 1.0], [1.0])
            assert rate.value == 0.7


# -- in time -----------------------------------------------------------------------------------------------------------


def growth(domain, power, *, per_step=True):
    """u_n = u_{n-1} + dt (f q_n - r u_n^power) at each node, with numbers q_n, and fields r and u_0."""
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, before, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    u0, r = fem.Function(V, name="u0"), fem.Function(V, name="r")
    q, t = fem.Constant(domain, 1.0), fem.Constant(domain, 0.0)
    u0.x.array[:], r.x.array[:] = 0.5, 0.2
    F = (u - before - 0.1 * (q - r * u**power)) * v * dx
    step = relax.Problem(residual=F, state=u, controls=[r, q], name=f"growth{power}")
    evolution = relax.Evolution(
        step=step, previous=before, num_steps=3, initial=u0, per_step=[q] if per_step else [], time=t, dt=0.1
    )
    seen = Functional(((1.0 + t) * q**2 * u + r**2 * u + (u - u0) ** 2) * dx)
    return evolution, Stack([TimeIntegral(seen, 0.1), AtSteps(seen, [0, 2])])


def told(u0, r, q, dt=0.1):
    """What ``growth`` shows for constants, steps that are linear."""
    states = [u0]
    for rate in q:
        states.append((states[-1] + dt * rate) / (1.0 + dt * r))
    beside = [q[0], *q]
    seen = [
        (1.0 + n * dt) * p**2 * u + r**2 * u + (u - u0) ** 2
        for n, (u, p) in enumerate(zip(states, beside, strict=True))
    ]
    return np.array([dt * (sum(seen) - 0.5 * (seen[0] + seen[-1])), seen[0], seen[2]])


def test_steps_see_the_controls_that_led_to_them():
    evolution, seen = growth(meshes.unit_square(2), 1)
    with ReducedMap(evolution, seen) as G:
        u0, r, q = 0.7, 0.3, np.array([1.0, -0.5, 2.0])
        lin = G.linearize(relax.control_values(G, u0, r, list(q)))
        close(lin.value, told(u0, r, q))
        for way in ((1.0, 0.0, [0.0, 0.0, 0.0]), (0.0, 1.0, [0.0, 0.0, 0.0]), (0.2, 0.1, [1.0, 2.0, -1.0])):
            # Polynomials in all but r, and close to one in it: complex steps are exact.
            du0, dr, dq = 1e-20j * way[0], 1e-20j * way[1], 1e-20j * np.array(way[2])
            slope = told(u0 + du0, r + dr, q + dq).imag / 1e-20
            dm = relax.control_values(G, way[0], way[1], list(way[2]))
            close(lin.jvp(dm), slope)
            close(lin.vjp(np.eye(3)) @ dm, slope)


@pytest.mark.parametrize("power", [1, 3])
def test_derivatives_in_time(power):
    evolution, seen = growth(meshes.unit_square(2), power)
    with ReducedMap(evolution, seen, layout="owned" if power == 3 else "replicated") as G:
        checked(G)


def test_runs_that_share_a_solve():
    """Affine steps of a batch, each run seen beside its own controls."""
    domain = meshes.unit_square(2)
    V = fem.functionspace(domain, ("Lagrange", 1))
    u, before, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    f, u0 = fem.Function(V), fem.Function(V)
    step = relax.Problem(residual=(u - before - f) * v * dx, state=u, controls=[f], name="together")
    evolution = relax.Evolution(step=step, previous=before, num_steps=2, initial=u0, per_step=[f])
    with ReducedMap(evolution, AtSteps(Functional((f * u + u0**2) * dx), [0, 1, 2])) as G:
        rows = np.random.default_rng(5).standard_normal((3, G.size_in))
        close(G(rows), [G(row) for row in rows])
        points, seeds = G.linearize_each(rows), np.eye(3)
        close([p.vjp(seeds) for p in points], [G.linearize(row).vjp(seeds) for row in rows])
        checked(G)


# -- elsewhere ---------------------------------------------------------------------------------------------------------


def test_the_error_of_the_mesh_sees_the_control():
    """J(u) times a number that is a control: so is its estimated error."""
    problem, u, m, a = diffusion(meshes.unit_square(3))
    estimates = []
    for J in (Functional(u * dx), Functional(a[0] * u * dx)):
        with ReducedMap(problem, J) as G, G.linearize(relax.control_values(G, 0.0, [3.0, 2.0])) as lin:
            a.value[...] = 7.0
            estimates.append(relax.dual_weighted_residual(lin, [1.0]).total)
    assert estimates[1] == pytest.approx(3.0 * estimates[0], rel=1e-6)


def test_a_layer():
    import torch

    problem, u, m, a = diffusion(meshes.unit_square(2))
    with ReducedMap(problem, Functional(a[1] * ufl.exp(m) * u * dx)) as G:
        control = torch.tensor(np.random.default_rng(1).uniform(0.5, 1.0, G.size_in), requires_grad=True)
        y = relax.SolutionLayer(G)(control)
        (gradient,) = torch.autograd.grad(y.sum(), control)
        close(gradient.numpy(), G.linearize(control.detach().numpy()).vjp([1.0]), 1e-12)


def test_a_value_needs_no_derivative(monkeypatch):
    """What cannot be differentiated has a value, and is told of when it is differentiated."""
    problem, u, m, a = diffusion(meshes.unit_square(2))

    def none(form, terminal, direction):
        raise NotImplementedError("no rule")

    J = Functional(ufl.exp(m) * u * dx)
    with ReducedMap(problem, J) as G:
        point = G.present_control()
        expected = G(point)
        monkeypatch.setattr(relax.observe.of_form, "derivative", none)
        close(G(point), expected)
        lin = G.linearize(point)
        close(lin.value, expected)
        for product in (lambda: lin.jvp(point), lambda: lin.vjp([1.0])):
            message = str(raised_everywhere(relax.BadProblem, product))
            assert "Functional: its derivative in u cannot be made" in message and "no rule" in message


@pytest.mark.ranks(1, 2)
def test_one_observable_of_two_maps():
    """What is the state of one map and a control of the other is either, whatever has been looked at before."""
    V = fem.functionspace(meshes.unit_square(2), ("Lagrange", 1))
    a, b, v = fem.Function(V), fem.Function(V), ufl.TestFunction(V)
    J = Functional((a**2 * b + b**3) * dx)
    problems = [
        relax.Problem(residual=(u - m + u**3) * v * dx, state=u, controls=[m]) for u, m in ((b, a), (a, b), (b, a))
    ]
    for problem in problems:
        G = ReducedMap(problem, J)
        G(np.ones(G.size_in))
        checked(G)


@pytest.mark.ranks(1)
def test_a_part_without_controls_beside_one_with():
    """It adds nothing to what controls do to the second derivative."""
    problem, u, m, a = pointwise(meshes.unit_square(1))
    checked(ReducedMap(problem, Stack([Functional(u * dx), Functional(ufl.exp(m) * a[0] * u**2 * dx)])))
