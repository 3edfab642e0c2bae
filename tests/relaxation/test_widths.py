"""How wide a minimum is: spectra against dense Hessians, widths and local entropies against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contract import close, everyone_has, raised_everywhere
from mpi4py import MPI

from relax import meshes
from relax.errors import BadInput, NotConverged
from relax.relaxation import RelaxedLandscape, cole_hopf, hessian_spectrum, local_entropy

COMM = MPI.COMM_WORLD


class Regression:
    """A network of 44 weights and 32 samples, of which this rank has some: the loss is the sum of all ranks' parts."""

    def __init__(self, comm=MPI.COMM_SELF):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
        self.x, self.y = torch.randn(32, 4).double(), torch.randn(32, 2).double()
        self.mine = slice(comm.rank, None, comm.size)

    def loss(self):
        return torch.nn.functional.mse_loss(self.model(self.x[self.mine]), self.y[self.mine], reduction="sum") / 64

    def eigenvalues(self):
        """By torch's own Hessian, dense."""
        names, params = zip(*self.model.named_parameters(), strict=True)

        def of(flat):
            pieces = flat.split([p.numel() for p in params])
            named = {n: q.view(p.shape) for n, p, q in zip(names, params, pieces, strict=True)}
            return torch.nn.functional.mse_loss(torch.func.functional_call(self.model, named, (self.x,)), self.y)

        flat = torch.nn.utils.parameters_to_vector(params).detach()
        return torch.linalg.eigvalsh(torch.autograd.functional.hessian(of, flat)).numpy()


def quadratic(curvatures, x=0.0, dtype=torch.float64):
    """(parameter, closure) of ½ Σ c x²."""
    c = torch.as_tensor(curvatures, dtype=dtype)
    p = torch.nn.Parameter(x + torch.zeros(len(c), dtype=dtype))
    return p, lambda: (0.5 * c * p**2).sum()


# -- spectra -----------------------------------------------------------------------------------------------------------


@pytest.mark.ranks(1, 2, 3)
def test_the_spectrum_of_a_network():
    """With as many products as weights every eigenvalue; with fewer the ends, and moments as the signs give them."""
    net = Regression(COMM)
    expected = net.eigenvalues()
    whole = hessian_spectrum(net.model, net.loss, num=60, comm=COMM)
    assert whole.nodes.shape == (4, 44)
    assert np.abs(whole.nodes - expected).max() < 1e-12
    few = hessian_spectrum(net.model.parameters(), net.loss, num=20, vectors=24, seed=1, comm=COMM)
    assert few.nodes.shape == (24, 20)
    assert abs(few.lambda_max - expected[-1]) < 1e-6 and abs(few.lambda_min - expected[0]) < 1e-4
    assert few.trace.agrees(expected.sum())
    assert few.average(np.square).agrees(np.mean(expected**2))
    assert few.width(0.3).agrees(np.mean(1.0 / (expected + 1.0 / 0.3)))
    assert 0.0 < few.trace.error < 0.4 * few.trace.mean
    everyone_has(few.nodes)
    assert all(p.grad is None for p in net.model.parameters())


@pytest.mark.ranks(2, 3)
def test_the_spectrum_is_that_of_one_rank():
    net, alone = Regression(COMM), Regression()
    found = hessian_spectrum(net.model, net.loss, num=10, comm=COMM)
    expected = hessian_spectrum(alone.model, alone.loss, num=10)
    close(found.nodes, expected.nodes, 1e-9)
    close(found.weights, expected.weights, 1e-9)


def test_a_diagonal_hessian_ends_early_and_its_trace_is_exact():
    curvatures = [0.0, 1.0, 1.0, 3.0, 3.0, 3.0, -2.0]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x, closure = quadratic(curvatures, dtype=dtype)
        found = hessian_spectrum([x], closure, num=7)
        assert found.nodes.shape[1] <= 5
        assert abs(found.trace.mean - 9.0) < 10 * tolerance and found.trace.error < 10 * tolerance
        assert abs(found.average(lambda e: np.abs(e) < 0.1).mean - 1 / 7) < tolerance
        assert abs(found.lambda_max - 3.0) < 10 * tolerance and abs(found.lambda_min + 2.0) < 10 * tolerance
    e = np.linspace(-4.0, 5.0, 901)
    bells = found.density(e, 0.1)
    assert abs(bells.sum() * 0.01 - 1.0) < 1e-6
    assert abs(bells[e > 2.0].sum() * 0.01 - 3 / 7) < 1e-3


def test_no_curvature_and_unused_parameters():
    x, _ = quadratic([1.0, 2.0])
    unused, frozen = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(5), requires_grad=False)
    found = hessian_spectrum([x, unused, frozen], lambda: 2.0 * x.sum())
    assert found.size == 5 and found.lambda_max == found.lambda_min == 0.0
    curved = hessian_spectrum([x, unused], lambda: (x[0] * x[1]).exp() + x.sum())
    assert curved.lambda_max == pytest.approx(1.0) and curved.lambda_min == pytest.approx(-1.0)


# -- the width of a minimum --------------------------------------------------------------------------------------------


def test_width_of_a_quadratic():
    """Without a spring the mean of 1/lambda, to which relaxing for a time t adds t; flat directions count as t."""
    c, t = np.array([0.5, 1.0, 4.0, 20.0]), 0.7
    x, closure = quadratic(c)
    found = hessian_spectrum([x], closure)
    assert found.width().mean == pytest.approx(np.mean(1.0 / c), rel=1e-12)
    assert found.width(t).mean == pytest.approx(np.mean(t / (1.0 + t * c)), rel=1e-12)
    # The relaxed loss by its own minimum: min over y of f(y) + |x - y|²/(2t), at y = x/(1 + t c).
    curvatures = torch.tensor(c)

    def envelope():
        y = x / (1.0 + t * curvatures)
        return (0.5 * curvatures * y**2 + (x - y) ** 2 / (2.0 * t)).sum()

    relaxed = hessian_spectrum([x], envelope)
    assert np.allclose(relaxed.nodes[0], c / (1.0 + t * c), rtol=1e-12)
    assert relaxed.width().mean == pytest.approx(found.width().mean + t, rel=1e-12)
    # The variance within a spring, by the closed form of the Gibbs measure: tr (D²u) = d/t - beta/t² tr Cov.
    assert found.width(t).mean == pytest.approx(t - t**2 * relaxed.trace.mean / 4, rel=1e-12)
    flat = hessian_spectrum([x], lambda: (0.5 * torch.tensor([0.0, 0.0, 1.0, 1.0]) * x**2).sum())
    assert flat.width(t).mean == pytest.approx(0.5 * t + 0.5 * t / (1 + t))


def test_the_hessian_of_a_relaxed_landscape():
    """The viscous equation on a mesh, through torch: lambda goes to lambda/(1 + t lambda)."""
    landscape = RelaxedLandscape(
        meshes.interval(120, (-4.0, 4.0)), lambda x: 1.5 * x[0] ** 2, beta=1.0, times=[0.1, 0.3], num_steps=8
    )
    x = torch.nn.Parameter(torch.tensor([[0.1]], dtype=torch.float64))
    found = hessian_spectrum([x], lambda: landscape.value(x, 0.3).sum())
    assert found.lambda_max == pytest.approx(3.0 / (1.0 + 0.3 * 3.0), rel=1e-3)


def test_where_there_is_no_width():
    x, closure = quadratic([-0.5, 1.0])
    saddle = hessian_spectrum([x], closure)
    assert saddle.width(1.0).mean == pytest.approx(0.5 * (1.0 / 0.5 + 1.0 / 2.0))
    for t in (math.inf, 2.0, 3.0):
        with pytest.raises(BadInput, match=r"try t below 2"):
            saddle.width(t)
    x, closure = quadratic([0.0, 1.0])
    with pytest.raises(BadInput, match="try a finite t"):
        hessian_spectrum([x], closure).width()
    for t in (0.0, -1.0, math.nan, "1"):
        with pytest.raises(BadInput, match="t: expected a time"):
            saddle.width(t)


# -- local entropy -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_local_entropy_of_a_quadratic():
    """Sum of c x²/(2 (1 + t c)) + log(1 + t c)/(2 beta), for stiff and flat directions at once."""
    c, at, beta = np.geomspace(1e-2, 30.0, 12), 0.2, 3.0
    for t in (0.5, 5.0):
        x, closure = quadratic(c, at)
        found = local_entropy([x], closure, t=t, beta=beta, chains=6, steps=16)
        expected = np.sum(c * at**2 / (2 * (1 + t * c)) + np.log1p(t * c) / (2 * beta))
        assert found.agrees(expected) and found.error < 0.1 * expected
        assert (x.detach() == at).all()


@pytest.mark.slow
def test_local_entropy_of_many_minima():
    """In one and two dimensions, against quadrature of the Cole–Hopf formula."""

    def f(x):
        return 0.3 * x[0] ** 2 + 0.4 * np.sin(3.0 * x[0]) + 0.5 * (x[-1] - x[0] ** 2) ** 2 * (len(x) - 1)

    for dim in (1, 2):
        x = torch.nn.Parameter(torch.full((dim,), 0.5, dtype=torch.float64))

        def closure(x=x, dim=dim):
            first, last = x[0], x[dim - 1]
            return 0.3 * first**2 + 0.4 * torch.sin(3.0 * first) + 0.5 * (last - first**2) ** 2 * (dim - 1)

        found = local_entropy([x], closure, t=0.5, beta=2.0, chains=6, steps=12)
        expected = cole_hopf.value(f, [[0.5] * dim], 0.5, beta=2.0)[0]
        assert found.agrees(expected) and found.error < 0.04


@pytest.mark.ranks(1, 2, 3)
def test_local_entropy_of_shared_samples():
    net, alone = Regression(COMM), Regression()
    before = torch.nn.utils.parameters_to_vector(net.model.parameters()).detach().clone()
    how = {"t": 0.2, "beta": 50.0, "chains": 2, "steps": 4}
    found = local_entropy(net.model, net.loss, **how, comm=COMM)
    expected = local_entropy(alone.model, alone.loss, **how)
    # The same moves, but for rounding, as long as no chance is close to a draw.
    close(found.mean, expected.mean, 1e-6)
    everyone_has(found.mean)
    assert torch.equal(torch.nn.utils.parameters_to_vector(net.model.parameters()), before)


def test_chains_that_have_not_come_to_rest(caplog):
    x, closure = quadratic([1e5] * 40, 1.0)
    local_entropy([x], closure, t=1.0, beta=1.0, chains=4, steps=4)
    assert "Take more steps" in caplog.text


# -- what will not do --------------------------------------------------------------------------------------------------


def calls(closure, params=None, **change):
    x = quadratic([1.0, 2.0])[0]
    params = [x] if params is None else params
    yield lambda: hessian_spectrum(params, lambda: closure(x), comm=COMM)
    yield lambda: local_entropy(params, lambda: closure(x), t=1.0, beta=1.0, comm=COMM)


def with_backward(x):
    loss = (x**2).sum()
    loss.backward()
    return loss


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("closure", "kind", "message"),
    [
        (with_backward, BadInput, "does not call backward"),
        (lambda x: None, BadInput, "returns the loss"),
        (lambda x: float(x.sum()), BadInput, "returns the loss"),
        (lambda x: x**2, BadInput, "one number"),
        (lambda x: (x.detach() ** 2).sum(), BadInput, "depends on no parameter"),
        (lambda x: x.abs().sqrt().sum(), NotConverged, "finite"),
        (lambda x: (x**2).sum() * (math.nan if COMM.rank == 0 else 1.0), NotConverged, "the loss is nan"),
    ],
)
def test_closures_that_will_not_do(closure, kind, message):
    for call in calls(closure):
        assert message in str(raised_everywhere(kind, call))


@pytest.mark.ranks(1, 2)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (torch.nn.Parameter(torch.zeros(2)), "a model, or parameters"),
        ([], "require gradients"),
        ([torch.zeros(2)], "require gradients"),
        (["weights"], "require gradients"),
        (2 * [torch.nn.Parameter(torch.zeros(2))], "each parameter once"),
        ([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))], "real parameters"),
    ],
)
def test_parameters_that_will_not_do(params, message):
    for call in calls(lambda x: (x**2).sum(), params):
        assert message in str(raised_everywhere(BadInput, call))


def test_numbers_that_will_not_do():
    x, closure = quadratic([1.0, 2.0])
    for change in ({"num": 0}, {"vectors": 1}, {"seed": -1}, {"num": 2.0}):
        with pytest.raises(BadInput, match=f"hessian_spectrum: {next(iter(change))}"):
            hessian_spectrum([x], closure, **change)
    for change in ({"t": 0.0}, {"t": math.inf}, {"beta": -1.0}, {"chains": 1}, {"steps": 3}, {"seed": 0.5}):
        with pytest.raises(BadInput, match=f"local_entropy: {next(iter(change))}"):
            local_entropy([x], closure, **{"t": 1.0, "beta": 1.0, **change})
    with pytest.raises(BadInput, match="closure: expected a function"):
        hessian_spectrum([x], closure())
    with pytest.raises(BadInput, match="model.eval"):
        local_entropy([x], lambda: (torch.rand(()) * x**2).sum() + torch.rand(()), t=1.0, beta=1.0)


@pytest.mark.ranks(2)
def test_other_parameters_on_another_rank():
    x, closure = quadratic([1.0] * (2 + COMM.rank))
    assert "by rank: [2, 3]" in str(raised_everywhere(BadInput, lambda: hessian_spectrum([x], closure, comm=COMM)))
    x, closure = quadratic([1.0] * 2, float(COMM.rank))
    assert "same weights" in str(raised_everywhere(BadInput, lambda: hessian_spectrum([x], closure, comm=COMM)))
