"""The residual in a dual norm: the error in the energy, its derivatives, and what descent on it does."""

from __future__ import annotations

import copy
from dataclasses import replace

import dolfinx.fem.petsc as fem_petsc
import numpy as np
import pytest
import torch
import ufl
from contract import close, everyone_has, raised_everywhere
from dolfinx import fem
from mpi4py import MPI

from relax import (
    BadInput,
    BadProblem,
    FieldValues,
    Problem,
    ReducedMap,
    ResidualLoss,
    SolveFailed,
    Teams,
    clamp,
    control_values,
    meshes,
    pdes,
)
from relax.base import parallel
from relax.base.fem.layout import SpaceLayout

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD


def tensor(array):
    return torch.as_tensor(np.asarray(array)).requires_grad_()


def energy(problem, error):
    """½ eᵀ A e, A without boundary conditions, by plain DOLFINx."""
    V = problem.state.function_space
    A = fem_petsc.assemble_matrix(fem.form(ufl.derivative(problem.residual, problem.state)))
    A.assemble()
    x, y = A.createVecs()
    layout = SpaceLayout(V)
    x.array[:] = layout.spread(error)[: layout.num_owned]
    A.mult(x, y)
    return 0.5 * parallel.sum_over_ranks(V.mesh.comm, np.array([x.array_r @ y.array_r]))[0]


def field_near(G, m, size=0.3):
    """The solution, and a field that is off but where it is clamped."""
    solution = G(m)
    V = G.problem.state.function_space
    off = fem.Function(V)
    off.interpolate(lambda x: size * np.sin(np.pi * x[0]) * np.sin(np.pi * x[1]) * np.exp(x[0] - x[1]))
    return solution, solution + FieldValues(V).value(off)


@pytest.mark.parametrize("make", [pdes.poisson.source, pdes.poisson.diffusion])
def test_the_loss_is_the_error_in_the_energy(make):
    problem = make(meshes.unit_square(6), dirichlet={"left": 1.0, "right": 0.0, "bottom": 0.0, "top": 0.0})
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    m = control_values(G, lambda x: 1.0 + x[0] * x[1])
    solution, field = field_near(G, m)
    G(m)  # the controls' registers hold it for the witness
    loss = ResidualLoss(problem)
    found = loss(torch.as_tensor(m), tensor(field))
    close(found.item(), energy(problem, field - solution))
    everyone_has(found.detach().numpy())
    assert loss(torch.as_tensor(m), torch.as_tensor(solution)).item() < 1e-20


def nonlinear(mesh):
    """-div((1 + u²) grad u) + b · grad u = f, u = exp(c) on the left."""
    V = fem.functionspace(mesh, ("Lagrange", 2))
    u, v, f, c = fem.Function(V), ufl.TestFunction(V), fem.Function(V), fem.Constant(mesh, 0.2)
    F = (1 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + (u.dx(0) - f) * v * ufl.dx
    bcs = [clamp(V, "left", ufl.exp(c)), clamp(V, "right", 0.0)]
    return Problem(residual=F, state=u, controls=[f, c], bcs=bcs, name="dual")


def weighted(problem):
    V = problem.state.function_space
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    return (3.0 * ufl.inner(ufl.grad(u), ufl.grad(v)) + u * v) * ufl.dx


CASES = {
    "source": (lambda mesh: pdes.poisson.source(mesh), "operator"),
    "conductivity": (lambda mesh: pdes.poisson.diffusion(mesh), "operator"),
    "h1": (nonlinear, "h1"),
    "form": (nonlinear, weighted),
}


@pytest.mark.parametrize("case", CASES)
def test_derivatives(case):
    """Taylor order two in m and in u together."""
    make, riesz = CASES[case]
    problem = make(meshes.unit_square(4))
    loss = ResidualLoss(problem, riesz(problem) if callable(riesz) else riesz)
    rng = np.random.default_rng(2)
    m, u = rng.uniform(0.1, 1.0, loss.size_in), rng.uniform(-1.0, 1.0, loss.size_state)
    dm, du = rng.uniform(-1.0, 1.0, m.shape), rng.uniform(-1.0, 1.0, u.shape)
    given = tensor(m), tensor(u)
    value = loss(*given)
    value.backward()
    slope = float(given[0].grad.numpy() @ dm + given[1].grad.numpy() @ du)
    gaps = []
    for eps in (1e-2, 5e-3, 2.5e-3):
        moved = loss(torch.as_tensor(m + eps * dm), torch.as_tensor(u + eps * du)).item()
        gaps.append(abs(moved - value.item() - eps * slope))
    assert np.log2(gaps[1] / gaps[2]) == pytest.approx(2.0, abs=0.15)
    everyone_has(given[1].grad.numpy())


def test_a_step_along_the_representer_is_the_solution():
    """By metric="riesz" one step of length 1 ends descent, at any h."""
    problem = pdes.poisson.source(meshes.unit_square(32))
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    m = control_values(G, lambda x: 1.0 + x[0])
    solution, field = field_near(G, m)
    loss = ResidualLoss(problem, metric="riesz")
    u = tensor(field)
    loss(torch.as_tensor(m), u).backward()
    close((u - u.grad).detach().numpy(), solution)


@pytest.mark.parametrize("metric", ["euclidean", "riesz"])
def test_the_operator_is_what_its_form_is(metric):
    """Of the former more is known: no adjoint action, no second solve, no derivative in m where none is asked for."""
    problem = pdes.poisson.source(meshes.unit_square(4))
    V = problem.state.function_space
    form = ufl.inner(ufl.grad(ufl.TrialFunction(V)), ufl.grad(ufl.TestFunction(V))) * ufl.dx
    rng = np.random.default_rng(4)
    m, u = rng.uniform(-1.0, 1.0, (2, 3, FieldValues(V).size))
    found = []
    for riesz in ("operator", form):
        loss = ResidualLoss(problem, riesz, metric=metric)
        given, alone = (tensor(m), tensor(u)), tensor(u)
        values = loss(*given)
        values.sum().backward()
        loss(torch.as_tensor(m), alone).sum().backward()
        found.append(torch.cat([values[:, None], given[0].grad, given[1].grad, alone.grad], dim=1).detach().numpy())
    close(*found)
    close(given[1].grad.numpy(), alone.grad.numpy())


def test_a_batch_is_its_samples_one_by_one():
    """Where R is shared, and what it is applied to is not; the representer p of a derivative g has gᵀ p = pᵀ R p."""
    problem = nonlinear(meshes.unit_square(3))
    V = problem.state.function_space
    w, v, f = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    of_norm = Problem(
        residual=(ufl.inner(ufl.grad(w), ufl.grad(v)) + (w - f) * v) * ufl.dx, state=w, controls=[f], bcs=[]
    )
    losses = [ResidualLoss(problem, "h1", metric=metric) for metric in ("euclidean", "riesz")]
    rng = np.random.default_rng(5)
    m, u = (rng.uniform(0.1, 1.0, (3, size)) for size in (losses[0].size_in, losses[0].size_state))
    grads = []
    for loss in losses:
        together, alone = (tensor(m), tensor(u)), (tensor(m), tensor(u))
        loss(*together).sum().backward()
        for i in range(3):
            loss(alone[0][i], alone[1][i]).backward()
        for one, other in zip(together, alone, strict=True):
            close(one.grad.numpy(), other.grad.numpy())
        grads.append(together[1].grad.numpy())
    for g, p in zip(*grads, strict=True):
        close(0.5 * g @ p, energy(of_norm, p))


def test_batches_and_teams():
    problem = pdes.poisson.diffusion(meshes.unit_square(3))
    loss = ResidualLoss(problem)
    rng = np.random.default_rng(3)
    m, u = rng.uniform(-1.0, 1.0, (2, 1, loss.size_in)), rng.uniform(-1.0, 1.0, (3, loss.size_state))
    given = tensor(m), tensor(u)
    values = loss(*given)
    assert values.shape == (2, 3)
    values.sum().backward()
    each = np.array([[loss(torch.as_tensor(a[0]), torch.as_tensor(b)).item() for b in u] for a in m])
    close(values.detach().numpy(), each)
    teams = Teams(COMM, 1)
    shared = ResidualLoss(pdes.poisson.diffusion(meshes.unit_square(3, comm=teams.space)), teams=teams)
    again = tensor(m), tensor(u)
    shared(*again).sum().backward()
    for a, b in zip(given, again, strict=True):
        close(b.grad.numpy(), a.grad.numpy(), 1e-9)
    teams.close()


def test_what_does_not_fit_is_said():
    mesh = meshes.unit_square(3)
    problem = nonlinear(mesh)
    V = problem.state.function_space
    u, v = ufl.TrialFunction(V), ufl.TestFunction(V)
    assert "riesz='h1'" in str(raised_everywhere(BadProblem, lambda: ResidualLoss(problem)))
    for riesz, words in (
        ("h2", "'operator', 'h1' or a symmetric"),
        (u.dx(0) * v * ufl.dx, "symmetric form, got one that is not"),
        (v * ufl.dx, "a trial and a test function"),
    ):
        assert words in str(raised_everywhere(BadInput, lambda riesz=riesz: ResidualLoss(problem, riesz)))
    for moving in (1.0 + problem.controls[0] ** 2, 1.0 + problem.state**2, ufl.exp(problem.controls[1])):
        error = raised_everywhere(BadInput, lambda moving=moving: ResidualLoss(problem, moving * u * v * ufl.dx))
        assert "neither the state nor a control" in str(error)
    loss = ResidualLoss(problem, "h1")
    m, field = torch.zeros(loss.size_in, dtype=torch.float64), torch.zeros(loss.size_state, dtype=torch.float64)
    assert "u: expected" in str(raised_everywhere(BadInput, lambda: loss(m, field[:-1])))
    short = field[: len(field) - COMM.rank] if COMM.size > 1 else field[:-1]
    assert "u: expected" in str(raised_everywhere(BadInput, lambda: loss(m, short)))
    assert "floating point" in str(raised_everywhere(BadInput, lambda: loss(m, field.long())))
    assert "leading axes" in str(raised_everywhere(BadInput, lambda: loss(m.expand(2, -1), field.expand(3, -1))))
    u_once = tensor(field)
    (slope,) = torch.autograd.grad(loss(m, u_once), u_once, create_graph=True)
    assert "differentiable once" in str(raised_everywhere(BadInput, (slope.sum() + u_once.sum()).backward))
    close(torch.compile(lambda x: copy.deepcopy(loss)(m, x), backend="eager")(field).numpy(), loss(m, field).numpy())
    negative = ResidualLoss(problem, (u * v - ufl.inner(ufl.grad(u), ufl.grad(v))) * ufl.dx)
    assert "positive" in str(raised_everywhere(SolveFailed, lambda: negative(m, field)))
    helmholtz = pdes.poisson.source(mesh)
    u, v = helmholtz.state, ufl.TestFunction(helmholtz.state.function_space)
    indefinite = ResidualLoss(replace(helmholtz, residual=helmholtz.residual - 60.0 * u * v * ufl.dx))
    smooth = np.sin(np.arange(indefinite.size_state))
    assert "negative eigenvalues" in str(
        raised_everywhere(SolveFailed, lambda: indefinite(torch.zeros(indefinite.size_in), torch.as_tensor(smooth)))
    )
    loss.close()
    assert "closed" in str(raised_everywhere(BadInput, lambda: loss(m, field)))
