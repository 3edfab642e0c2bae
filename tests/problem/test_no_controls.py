"""Problems without controls: the solution alone, and derivatives of no columns."""

import numpy as np
import pytest
import torch
import ufl
from contract import raised_everywhere
from dolfinx import fem
from mpi4py import MPI

import relax
from relax.errors import BadInput

pytestmark = pytest.mark.ranks(1, 2, 3)

COMM = MPI.COMM_WORLD
LAYOUTS = ["replicated", "owned"]
DT, STEPS = 0.1, 3


def equation():
    """(F, u, f, bcs) of -u'' + u³ = f, u = 0 at the ends."""
    V = fem.functionspace(relax.meshes.interval(4, (0.0, 1.0)), ("Lagrange", 1))
    u, v, f = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    f.x.array[:] = 10.0
    return (ufl.inner(ufl.grad(u), ufl.grad(v)) + (u**3 - f) * v) * ufl.dx, u, f, [relax.clamp_boundary(V)]


def steady():
    F, u, _, bcs = equation()
    return relax.Problem(residual=F, state=u, bcs=bcs, name="alone")


def steps():
    F, u, _, bcs = equation()
    initial = lambda x: x[0] * (1.0 - x[0])  # noqa: E731
    return relax.theta_evolution(F, u, initial=initial, dt=DT, num_steps=STEPS, bcs=bcs, name="alone_in_time")


def seen(problem, layout="replicated"):
    return relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space), layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [steady, steps])
def test_the_solution_alone(make, layout):
    """The empty vector is the control, one sample or several, and derivatives have no columns and cost no solve."""
    with seen(make(), layout) as G:
        assert G.size_in == 0 and G.problem.controls == ()
        y = G([])
        assert np.abs(y).max() > 0.01
        np.testing.assert_array_equal(G(np.empty((2, 0))), [y, y])
        assert G(np.empty((0, 0))).shape == (0, G.size_out)
        for m in (G.present_control(), relax.control_values(G)):
            assert m.shape == (0,)
        with G.linearize(G.present_control()) as lin:
            before = dict(G.counts)
            np.testing.assert_array_equal(lin.value, y)
            np.testing.assert_array_equal(lin.jvp(np.empty((2, 0))), np.zeros((2, G.size_out)))
            assert lin.vjp(y).shape == (0,) and lin.vjp([y, y]).shape == (2, 0)
            assert lin.hvp([y, y], []).shape == (2, 0) and lin.hvp(y, np.empty((3, 0))).shape == (3, 0)
            assert lin.matrix().shape == (G.size_out, 0)
            assert G.counts == before
        assert [len(lin.value) for lin in G.linearize_each(np.empty((2, 0)))] == [G.size_out] * 2
        raised_everywhere(BadInput, lambda: G([1.0]))


def test_the_same_as_with_controls():
    """A source and an initial state that are controls, at the same values."""
    F, u, f, bcs = equation()
    alone = relax.Problem(residual=F, state=u, bcs=bcs, name="both")
    with seen(alone) as G, seen(relax.Problem(residual=F, state=u, controls=[f], bcs=bcs, name="both")) as H:
        np.testing.assert_allclose(G([]), H(H.present_control()), rtol=1e-12)
        # A Function that is no control stays the user's: what it holds when a run begins counts.
        f.x.array[:] *= 2.0
        np.testing.assert_allclose(G([]), H(H.present_control()), rtol=1e-12)


def test_initial_states():
    """A Function is a control, unless it is fixed; a number, a function of x and an expression are none."""
    V = fem.functionspace(relax.meshes.interval(4, (0.0, 1.0)), ("Lagrange", 1))
    u, v, bump = fem.Function(V), ufl.TestFunction(V), fem.Function(V)
    bump.interpolate(lambda x: x[0] * (1.0 - x[0]))
    (x,) = ufl.SpatialCoordinate(V.mesh)
    F = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx
    ends = {}
    given = {"free": bump, "fixed": bump, "of x": lambda x: x[0] * (1.0 - x[0]), "ufl": x * (1 - x), "number": 0.0}
    for name, initial in given.items():
        evolution = relax.theta_evolution(
            F, u, initial=initial, initial_is_fixed=name == "fixed", dt=DT, num_steps=STEPS, name="started"
        )
        assert evolution.controls == ((bump,) if name == "free" else ())
        assert evolution.single_step.controls == (evolution.previous,)
        with seen(evolution) as G:
            ends[name] = G(G.present_control())
    for name in ("fixed", "of x", "ufl"):
        np.testing.assert_allclose(ends[name], ends["free"], rtol=1e-12)
    np.testing.assert_allclose(ends["number"], 0.0, atol=1e-14)


def test_a_trajectory():
    with seen(steps()) as G:
        path = [(n, t, np.abs(G.problem.state.x.array).max(initial=0.0)) for n, t in G.trajectory([])]
        assert [n for n, _, _ in path] == [0, 1, 2, 3]
        np.testing.assert_allclose([t for _, t, _ in path], [0.0, 0.1, 0.2, 0.3])
        assert max(COMM.allgather(path[-1][2])) == pytest.approx(np.abs(G([])).max())
        # How the end depends on each state needs no control.
        with G.linearize([]) as lin:
            assert [(n, len(p)) for n, p in lin.momenta(np.ones(G.size_out))] == [(n, G.size_out) for n in (3, 2, 1, 0)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_torch(layout):
    """A layer of no inputs: values, gradients, Jacobians both ways and a Hessian, of no entries."""
    with seen(steady(), layout) as G:
        layer = relax.SolutionLayer(G)
        m = torch.empty((2, 0), dtype=torch.float64, requires_grad=True)
        y = layer(m)
        np.testing.assert_array_equal(y.detach().numpy(), [G([])] * 2)
        (gradient,) = torch.autograd.grad((y**2).sum(), m, create_graph=True)
        assert gradient.shape == (2, 0)
        assert torch.autograd.grad(gradient.sum(), m)[0].shape == (2, 0)
        none = m.detach()[0]
        for jacobian in (torch.func.jacrev, torch.func.jacfwd):
            assert jacobian(layer)(none).shape == (G.size_out, 0)
        assert torch.func.hessian(lambda z: layer(z).sum())(none).shape == (0, 0)
        loss = relax.ResidualLoss(G.problem, riesz="h1")
        assert float(loss(none, torch.as_tensor(G([])))) < 1e-12


def test_what_there_is_nothing_to_do_with():
    """Said in words by what checks derivatives, looks for a control, or corrects one."""
    with seen(steady()) as G:
        data, prior = np.ones(G.size_out), relax.IdentityPrior(G, std=1.0)
        for action, words in (
            (lambda: relax.check_map(G), "check_map: G: the problem has no controls, so there is nothing to check"),
            (lambda: relax.gauss_newton(G, data, noise=1.0, prior=prior), "so there is nothing to look for"),
            (lambda: relax.lbfgs(G, data, noise=1.0, prior=prior), "so there is nothing to look for"),
            (lambda: relax.gauss_newton_inverse(G, noise=1.0, prior=prior), "so there is nothing to correct"),
            (lambda: relax.control_values(G, 1.0), "so there is nothing to give values to"),
        ):
            assert words in str(raised_everywhere(BadInput, action))
