"""Legitimate input of an unusual kind: tiny units, changing data, jumps, ranks that disagree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import ufl
from dolfinx import fem
from mpi4py import MPI

import relax
from relax.base.la.linear import LinearSolver

COMM = MPI.COMM_WORLD
SENSORS = [[0.31, 0.42], [0.77, 0.23]]


def space(n=4):
    return fem.functionspace(relax.meshes.unit_square(n), ("Lagrange", 1))


def reaction(V, form, *, name="edge"):
    """A problem on V from a function (u, v, m) -> residual; m is a field that starts at zero."""
    u, m = fem.Function(V), fem.Function(V)
    residual = form(u, ufl.TestFunction(V), m)
    return relax.Problem(residual=residual, state=u, controls=[m], bcs=[relax.clamp_boundary(V)], name=name)


@pytest.mark.parametrize("scale", [1e-14, 1.0, 1e14])
def test_newton_does_not_depend_on_units(scale):
    """A residual in small units is not mistaken for a root."""
    V = space()
    cubic = reaction(V, lambda u, v, m: scale * (ufl.inner(ufl.grad(u), ufl.grad(v)) + (u**3 - m - 10) * v) * ufl.dx)
    plain = reaction(V, lambda u, v, m: (ufl.inner(ufl.grad(u), ufl.grad(v)) + (u**3 - m - 10) * v) * ufl.dx)
    with relax.ReducedMap(cubic, relax.FieldValues(V)) as G, relax.ReducedMap(plain, relax.FieldValues(V)) as H:
        zero = np.zeros(G.size_in)
        np.testing.assert_allclose(G(zero), H(zero), rtol=1e-9, atol=1e-12)


def test_newton_starts_well_from_the_root_itself():
    """A first guess that is the root already leaves nothing to reduce by ten digits, and is no failure."""
    V = space()
    form = lambda u, v, m: (ufl.inner(ufl.grad(u), ufl.grad(v)) + (u**3 - m - 10) * v) * ufl.dx  # noqa: E731
    problem = reaction(V, form)
    with relax.ReducedMap(problem, relax.FieldValues(V)) as G:
        root = G(np.zeros(G.size_in))
        again = relax.ReducedMap(problem, relax.FieldValues(V))
        np.testing.assert_allclose(again(np.zeros(G.size_in)), root, rtol=1e-12, atol=1e-14)
        again.close()


def test_data_of_a_functional_belong_to_the_point():
    """Backward passes after the data have changed use the data of their own forward pass, and give the user's back."""
    V = space()
    problem = relax.pdes.poisson.source(V.mesh)
    data = fem.Function(problem.state.function_space)
    G = relax.ReducedMap(problem, relax.Functional(0.5 * (problem.state - data) ** 2 * ufl.dx))
    layer = relax.SolutionLayer(G)
    controls = [torch.full((G.size_in,), float(k + 1), dtype=torch.float64, requires_grad=True) for k in range(2)]
    expected = []
    for k, m in enumerate(controls):
        data.x.array[:] = 10.0 * k
        expected.append(torch.autograd.grad(layer(m).sum(), m)[0])
    losses = []
    for k, m in enumerate(controls):
        data.x.array[:] = 10.0 * k
        losses.append(layer(m).sum())
    data.x.array[:] = -3.0
    for loss, m, gradient in zip(losses, controls, expected, strict=True):
        np.testing.assert_allclose(torch.autograd.grad(loss, m)[0], gradient, rtol=1e-12)
    assert (data.x.array == -3.0).all()
    G.close()


@pytest.mark.ranks(2, 3)
def test_ranks_that_hand_over_different_batches_are_told():
    """Else the broadcast of rank 0's array would never end."""
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(4))
    with relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, SENSORS)) as G:
        m = np.ones((2 + COMM.rank, G.size_in))
        if COMM.size == 1:
            assert G(m).shape == (2, 2)
        else:
            with pytest.raises(relax.BadInput, match="same number of vectors"):
                G(m)
            with pytest.raises(relax.BadInput, match="same number of vectors"):
                relax.SolutionLayer(G)(torch.as_tensor(m))


@pytest.mark.ranks(1, 2)
def test_a_batch_does_not_mix_the_digits_of_its_samples():
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(4))
    with relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, SENSORS)) as G:
        m = relax.control_values(G, lambda x: 1.0 + x[0])
        np.testing.assert_allclose(G(np.array([1e8 * m, m]))[1], G(m), rtol=1e-12)


@pytest.mark.parametrize("speed", [1e4, 1e6])
def test_a_small_advection_beside_a_large_diffusion_is_seen(speed):
    V = space()
    b = fem.Constant(V.mesh, speed)
    form = lambda u, v, m: (1e12 * ufl.inner(ufl.grad(u), ufl.grad(v)) + b * u.dx(0) * v - m * v) * ufl.dx  # noqa: E731
    G = relax.ReducedMap(reaction(V, form), relax.FieldValues(V))
    assert not G.residual.is_self_adjoint
    G.close()


def test_a_jump_with_the_state_is_no_linear_problem():
    V = space()
    jump = lambda u: ufl.conditional(ufl.gt(u, 0.03), 5.0, 1.0)  # noqa: E731
    form = lambda u, v, m: (ufl.inner(ufl.grad(u), ufl.grad(v)) + (jump(u) - m) * v) * ufl.dx  # noqa: E731
    G = relax.ReducedMap(reaction(V, form), relax.FieldValues(V))
    with pytest.raises(relax.BadProblem, match="looks linear"):
        G(np.full(G.size_in, 10.0))
    G.close()


def test_a_parameter_of_the_right_hand_side_costs_no_factorisation(monkeypatch):
    made = []
    factor = LinearSolver.factor
    monkeypatch.setattr(LinearSolver, "factor", lambda self, A: (made.append(1), factor(self, A))[1])
    V = space()
    s = fem.Constant(V.mesh, 1.0)
    form = lambda u, v, m: (ufl.inner(ufl.grad(u), ufl.grad(v)) - (m + s) * v) * ufl.dx  # noqa: E731
    with relax.ReducedMap(reaction(V, form), relax.FieldValues(V)) as G:
        values = []
        for k in range(4):
            s.value = float(k)
            values.append(G(np.zeros(G.size_in)))
        np.testing.assert_allclose(values[3], 3.0 * values[1], rtol=1e-12, atol=1e-15)
    assert len(made) == 1


def test_an_observable_of_ones_own_with_a_control_gives_its_derivative():
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(4))

    class Own(relax.FieldValues):
        parameters = problem.controls

    with pytest.raises(relax.BadProblem, match="depends on the control.* control_tangent"):
        relax.ReducedMap(problem, relax.Stack([Own(problem.state.function_space)]))
    rate = fem.Constant(problem.mesh, 1.0)
    controls = [*problem.controls, rate]
    F = problem.residual - rate * ufl.TestFunction(problem.state.function_space) * ufl.dx
    timed = relax.Problem(residual=F, state=problem.state, controls=controls, bcs=problem.bcs)
    with pytest.raises(relax.BadProblem, match="the dt of a TimeIntegral"):
        relax.ReducedMap(timed, relax.TimeIntegral(relax.Functional(problem.state * ufl.dx), rate))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"pc_type": "nonsense"}, "refuses"), ({"kps_type": "gmres"}, "ksp_type"), ("fast", "amg_cg")],
)
def test_options_that_petsc_does_not_know(options, words):
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(4))
    with pytest.raises(relax.BadInput, match=words):
        G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space), options=options)
        G(np.zeros(G.size_in))


def test_control_values_take_what_a_coefficient_may_be():
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(4))
    x = ufl.SpatialCoordinate(problem.mesh)
    with relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space)) as G:
        by_function = relax.control_values(G, lambda x: 1.0 + x[0])
        np.testing.assert_allclose(relax.control_values(G, 1.0 + x[0]), by_function, rtol=1e-14)
        np.testing.assert_array_equal(relax.control_values(G, lambda x: 2.0), np.full(G.size_in, 2.0))
        with pytest.raises(relax.BadInput, match="finite"):
            relax.control_values(G, lambda x: np.full(x.shape[1], np.nan))


@pytest.mark.ranks(2, 3)
def test_torch_func_on_a_rank_that_owns_nothing():
    """The constant of the owned layout lives on rank 0 alone; directions of the others have no length."""
    V = space()
    u, v, k = fem.Function(V), ufl.TestFunction(V), fem.Constant(V.mesh, 1.3)
    F = (ufl.exp(k) * ufl.inner(ufl.grad(u), ufl.grad(v)) - v) * ufl.dx
    problem = relax.Problem(residual=F, state=u, controls=[k], bcs=[relax.clamp_boundary(V)], name="constant")
    G = relax.ReducedMap(problem, relax.PointValues(V, SENSORS), layout="owned")
    m = torch.as_tensor(relax.control_values(G, 0.2))
    with G.linearize(m.numpy()) as lin:
        np.testing.assert_allclose(torch.func.jacrev(relax.SolutionLayer(G))(m), lin.matrix(), rtol=1e-12)
    directions = torch.ones(3, G.size_in, dtype=torch.float64)
    tangents = torch.func.vmap(lambda d: torch.func.jvp(relax.SolutionLayer(G), (m,), (d,))[1])(directions)
    with G.linearize(m.numpy()) as lin:
        # A block solve may round its columns differently from a single one.
        np.testing.assert_allclose(tangents, np.tile(lin.jvp(directions[0].numpy()), (3, 1)), rtol=1e-12)
    G.close()


@pytest.mark.ranks(2, 3)
def test_a_prior_on_a_rank_that_owns_nothing():
    domain = relax.meshes.interval(1, (0.0, 1.0))
    V = fem.functionspace(domain, ("Lagrange", 1))
    prior = relax.SmoothnessPrior(V, length=0.5, std=1.0, layout="owned")
    m = np.ones(prior.size)
    np.testing.assert_allclose(prior.covariance(prior.precision(m)), m, rtol=1e-10)
    prior.close()
