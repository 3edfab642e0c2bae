"""The proxy loss of physical gradients: its gradient, its protocol, and the small problems with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import ufl
from contract import COMM, raised_everywhere
from dolfinx import fem

import relax
from relax.train.inverses.base import over_teams
from relax.train.inverses.gauss_newton import gauss_newton_inverse
from relax.train.inverses.lbfgs import lbfgs_inverse
from relax.train.inverses.poisson import poisson_inverse
from relax.train.physical import physical_gradient

F64 = torch.float64


def numbers(*shape, seed=0, dtype=F64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


# -- the loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradient_is_minus_the_correction_to_the_bit(dtype):
    """Also where dx is far smaller than the last digits of x."""
    x = (1e6 * numbers(5, 3, dtype=dtype)).requires_grad_()
    B, y, target = 1e-9 * numbers(3, 4, seed=1), numbers(5, 4, seed=2), numbers(5, 4, seed=3)
    dx = ((target - y) @ B.T).to(dtype)
    loss = physical_gradient(x, y, target, lambda r: r @ B.T)
    loss.backward()
    assert loss.dtype == dtype and loss.shape == ()
    assert torch.equal(x.grad, -dx)
    assert loss.item() == pytest.approx(
        0.5 * float((dx.double() ** 2).sum()), rel=1e-6 if dtype is torch.float32 else 1e-14
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """x of a network under autocast, float64 physics: -dx in the dtype of x, and a loss that does not overflow."""
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(3))
    G = relax.ReducedMap(problem, relax.PointValues(problem.state.function_space, [[0.4, 0.3], [0.6, 0.7]]))
    prior = relax.IdentityPrior(G, std=100.0)
    x = (100.0 * numbers(2, G.size_in)).to(dtype).requires_grad_()
    y, target = torch.zeros(2, G.size_out, dtype=F64), 3.0 * numbers(2, G.size_out, seed=1)
    for inverse in (
        gauss_newton_inverse(G, noise=1e-2, prior=prior),
        lbfgs_inverse(G, noise=1e-2, prior=prior, max_steps=2),
    ):
        dx = inverse.at(x.detach().double())(target).to(dtype)
        loss = physical_gradient(x, y, target, inverse)
        (g,) = torch.autograd.grad(loss, x)
        assert g.dtype == dtype and torch.equal(g, -dx)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(0.5 * float((dx.double() ** 2).sum()), rel=1e-6)
    assert physical_gradient(x, y, target, lambda r: np.full(x.shape, 300.0)).item() == 0.5 * 300.0**2 * x.numel()
    G.close()


def test_a_step_of_length_one_along_the_gradient_is_the_inverse():
    """Sign and size: x - dloss/dx solves a linear problem exactly."""
    A = numbers(3, 3) + 3.0 * torch.eye(3, dtype=F64)
    x, target = numbers(4, 3, seed=1).requires_grad_(), numbers(4, 3, seed=2)
    (g,) = torch.autograd.grad(physical_gradient(x, x @ A.T, target, lambda r: torch.linalg.solve(A, r.T).T), x)
    np.testing.assert_allclose(((x - g) @ A.T).detach(), target, rtol=0.0, atol=1e-13)


def test_the_batch_is_a_sum_and_the_network_gets_the_chain_rule():
    """d/dθ = - Σ dx · dx/dθ, against a central difference of Σ ½ |x - x̃|² with the targets x̃ held fixed."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    for seed, p in enumerate(net.parameters()):
        p.data = numbers(*p.shape, seed=seed)
    given, y, target = numbers(6, 2, seed=7), numbers(6, 3, seed=8), numbers(6, 3, seed=9)
    loss = physical_gradient(net(given), y, target, lambda r: 2.0 * r)
    whole = torch.autograd.grad(loss, net.parameters())
    ends = (net(given) + 2.0 * (target - y)).detach()
    for p, g in zip(net.parameters(), whole, strict=True):
        d = numbers(*p.shape, seed=11)
        sides = []
        for sign in (1.0, -1.0):
            p.data += sign * 1e-5 * d
            sides.append(0.5 * ((net(given) - ends) ** 2).sum().item())
            p.data -= sign * 1e-5 * d
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx((g * d).sum().item(), rel=1e-7)
    parts = [
        torch.autograd.grad(
            physical_gradient(net(given[i : i + 1]), y[i : i + 1], target[i : i + 1], lambda r: 2.0 * r),
            net.parameters(),
        )
        for i in range(6)
    ]
    for k, g in enumerate(whole):
        np.testing.assert_allclose(sum(part[k] for part in parts), g, rtol=1e-12, atol=1e-13)


def test_step_proxy_and_weight():
    x, y, target = numbers(4, 3).requires_grad_(), numbers(4, 3, seed=1), numbers(4, 3, seed=2)
    dx = 0.25 * (target - y)
    weights = torch.tensor([1.0, 2.0, 0.0], dtype=F64)
    samples = torch.tensor([[1.0], [0.5], [0.0], [3.0]], dtype=F64)

    def gradient(**options):
        return torch.autograd.grad(physical_gradient(x, y, target, lambda r: r, step=0.25, **options), x)[0]

    assert torch.equal(gradient(), -dx)
    assert torch.equal(gradient(proxy="l1"), -torch.sign(dx))
    assert torch.equal(gradient(weight=weights), -weights * dx)
    assert torch.equal(gradient(weight=samples), -samples * dx)
    for step in (np.float32(0.25), np.array(0.25), torch.tensor(0.25), torch.tensor(0.25, dtype=torch.bfloat16)):
        assert torch.equal(torch.autograd.grad(physical_gradient(x, y, target, lambda r: r, step=step), x)[0], -dx)
    value = physical_gradient(x, y, target, lambda r: r, step=0.25, proxy="l1")
    assert value.item() == pytest.approx(dx.abs().sum().item(), rel=1e-14)


def test_what_an_inverse_is_called_with():
    """x and the residual without graph, in their own precision; arrays are welcome back."""
    seen = []

    class Here:
        def at(self, x):
            seen.append(x)
            return lambda r: seen.append(r) or np.ones((2, 3))

    x = numbers(2, 3, dtype=torch.float32).requires_grad_()
    y = numbers(2, 4, seed=1).requires_grad_()
    target = np.zeros((2, 4))
    loss = physical_gradient(x, 2.0 * y, target, Here())
    loss.backward()
    assert [t.dtype for t in seen] == [torch.float32, torch.float64]
    assert not any(t.requires_grad for t in seen)
    assert torch.equal(seen[1], -2.0 * y.detach())
    assert torch.equal(x.grad, -torch.ones(2, 3)) and y.grad is None


def test_the_physics_is_never_differentiated():
    problem = relax.pdes.poisson.source(relax.meshes.unit_square(4))
    G = relax.ReducedMap(problem, relax.FieldValues(problem.state.function_space))
    layer, inverse = relax.SolutionLayer(G), poisson_inverse(G)
    x = numbers(3, G.size_in).requires_grad_()
    target = layer(numbers(3, G.size_in, seed=1)).detach()
    physical_gradient(x, layer(x), target, inverse).backward()
    assert x.grad is not None and G.counts["adjoint"] == G.counts["tangent"] == 0
    inverse.close()
    G.close()


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inverse": lambda r: r[:, :2]}, "shape of x, (4, 3), got (4, 2)"),
        ({"inverse": lambda r: None}, "NoneType"),
        ({"inverse": lambda r: torch.full((4, 3), math.nan)}, "12 of 12 entries of the correction"),
        ({"y": torch.zeros(4, 2)}, "one shape"),
        ({"target": torch.full((4, 3), math.inf)}, "target: 12 of 12"),
        ({"x": torch.full((4, 3), math.nan)}, "diverged"),
        ({"x": torch.zeros(4, 3, dtype=torch.int64)}, "int64"),
        ({"x": np.zeros((4, 3))}, "ndarray"),
        ({"step": 0.0}, "step"),
        ({"step": math.inf}, "step: expected"),
        ({"step": "a"}, "step: expected one finite number above 0, got 'a'"),
        ({"step": None}, "step"),
        ({"step": True}, "step"),
        ({"step": torch.ones(4, 1)}, "step: expected one finite number above 0, got shape (4, 1)"),
        ({"step": np.ones(1)}, "shape (1,)"),
        ({"inverse": lambda r: torch.full((4, 3), 1e39, dtype=F64)}, "infinite as torch.float32"),
        ({"proxy": "l3"}, "'l3'"),
        ({"weight": -torch.ones(3)}, "weight"),
        ({"weight": torch.ones(4)}, "weight"),
    ],
)
def test_what_does_not_fit_is_refused_on_every_rank(change, words):
    """One rank's mistake, the last one's, is everyone's error. A word that all ranks pass is wrong on all."""
    given = {"x": torch.zeros(4, 3), "y": torch.zeros(4, 3), "target": torch.zeros(4, 3), "inverse": lambda r: r}
    if COMM.rank == COMM.size - 1 or "proxy" in change:
        given |= change
    message = str(raised_everywhere(relax.BadInput, lambda: physical_gradient(**given, comm=COMM)))
    assert "expected" in message or "NaN" in message
    assert words in message


@pytest.mark.ranks(1, 2)
def test_an_inverse_of_ones_own_over_teams():
    """The samples are shared, fewer than there are teams, too; every rank has the whole gradient."""
    teams = relax.Teams(COMM, 1)
    for samples in (1, 5):
        x, y = numbers(samples, 3).requires_grad_(), numbers(samples, 4, seed=1)
        B, calls = numbers(3, 4, seed=2), []

        def mine(r, B=B, calls=calls):
            calls.append(len(r))
            return r @ B.T

        physical_gradient(x, y, torch.zeros_like(y), over_teams(mine, teams)).backward()
        np.testing.assert_allclose(x.grad, y @ B.T, rtol=1e-13, atol=1e-14)
        assert sum(COMM.allgather(sum(calls))) == samples
        message = str(
            raised_everywhere(
                relax.BadInput,
                lambda x=x, y=y: physical_gradient(x, y, 0 * y, over_teams(lambda r: r, teams)),
            )
        )
        assert "over_teams" in message
    teams.close()


# -- y = (x1, x2²), L = |y|², from (3, 3) ------------------------------------------------------------------------------
# The step in x beside the diagonal, (dx1 + dx2) / |dx|, at most sqrt(2): 1.054 for gradient descent, 1.265 for Newton
# and 1.356 for the inverse of 0.3 of the way in y (Physics-based Deep Learning, chapter "Simple Example comparing
# Different Optimizers").


def parabola(x):
    return torch.stack([x[..., 0], x[..., 1] ** 2], dim=-1)


class Root:
    """Its inverse on the branch where x is."""

    def at(self, x):
        y = parabola(x)
        return lambda r: torch.stack(
            [r[..., 0], torch.sign(x[..., 1]) * torch.sqrt((y + r)[..., 1]) - x[..., 1]], dim=-1
        )


def closeness(dx):
    return (dx.sum() / dx.norm()).item()


def test_only_the_inverse_goes_straight():
    x = torch.tensor([[3.0, 3.0]], dtype=F64, requires_grad=True)
    y = parabola(x)
    loss = (y**2).sum()
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    H = torch.stack([torch.autograd.grad(g[0, i], x, retain_graph=True)[0][0] for i in range(2)])
    (pull,) = torch.autograd.grad(physical_gradient(x, y, torch.zeros_like(y), Root(), step=0.3), x)
    found = [closeness(d) for d in (g.detach(), torch.linalg.solve(H, g.detach()[0]), pull)]
    # Gradient (6, 108); Hessian diag(2, 108); the inverse of (3, 9) -> 0.7 (3, 9) is (0.7, sqrt(0.7)) 3.
    slope = (1.0 - math.sqrt(0.7)) / 0.3
    exact = [114.0 / math.sqrt(36.0 + 108.0**2), 4.0 / math.sqrt(10.0), (1.0 + slope) / math.hypot(1.0, slope)]
    np.testing.assert_allclose(found, exact, rtol=1e-13)
    np.testing.assert_allclose(found, [1.054, 1.265, 1.356], atol=5e-4)
    for k in range(1, 11):
        (g,) = torch.autograd.grad(physical_gradient(x, parabola(x), torch.zeros_like(y), Root(), step=0.3), x)
        x = (x - g).detach().requires_grad_()
        np.testing.assert_allclose(parabola(x).detach()[0], [3.0 * 0.7**k, 9.0 * 0.7**k], rtol=1e-13)


def test_numerical_inverses_go_the_same_way():
    """The same map by finite elements, u = x1 (1 - s) + x2² s seen at both ends: Gauss-Newton and L-BFGS against √."""
    mesh = relax.meshes.interval(2)
    V = fem.functionspace(mesh, ("Lagrange", 1))
    u, v, c = fem.Function(V), ufl.TestFunction(V), fem.Constant(mesh, (3.0, 3.0))
    s = ufl.SpatialCoordinate(mesh)[0]
    problem = relax.Problem(
        residual=(u - c[0] * (1.0 - s) - c[1] ** 2 * s) * v * ufl.dx, state=u, controls=[c], name="parabola"
    )
    G = relax.ReducedMap(problem, relax.PointValues(V, [[0.0], [1.0]]))
    wide = relax.IdentityPrior(G, std=1e4)
    x = torch.tensor([[3.0, 3.0], [1.0, -2.0]], dtype=F64, requires_grad=True)
    y = torch.from_numpy(G(x.detach().numpy()))
    np.testing.assert_allclose(y, parabola(x).detach(), rtol=1e-12)
    exact = torch.autograd.grad(physical_gradient(x, y, 0 * y, Root(), step=0.3), x)[0]
    # Newton's method for the root squares its error each step: 0.05, 1e-3, 1e-6, 1e-12. The prior moves x by
    # noise² / std², relative to x: 1e-12.
    for inverse in (
        gauss_newton_inverse(G, steps=5),
        gauss_newton_inverse(G, steps=5, noise=1e-2, prior=wide),
        lbfgs_inverse(G, noise=1e-2, prior=wide, max_steps=200, rtol=1e-12, atol=1e-12),
    ):
        (g,) = torch.autograd.grad(physical_gradient(x, y, 0 * y, inverse, step=0.3), x)
        np.testing.assert_allclose(g, exact, rtol=1e-7)
    # One step is Newton's for y: (r1, r2 / 2 x2).
    (g,) = torch.autograd.grad(physical_gradient(x, y, 0 * y, gauss_newton_inverse(G), step=0.3), x)
    np.testing.assert_allclose(-g, [[-0.9, -2.7 / 6.0], [-0.3, 1.2 / 4.0]], rtol=1e-12)
    G.close()
