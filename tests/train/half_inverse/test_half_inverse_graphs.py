"""HalfInverse where the graph does not show how parameters meet samples: right all the same."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from half_inverse_cases import DTYPE, by_hand, data, flat, mlp, squares, step_of

from relax import HalfInverse, ReducedMap, SolutionLayer, meshes
from relax.engine.linearization import Linearization
from relax.errors import BadInput, NotConverged
from relax.observe import FieldValues
from relax.pdes import poisson

nn = torch.nn


class Made(nn.Module):
    """A function of a network's output, and of a parameter of its own."""

    def __init__(self, net, function, *shape):
        super().__init__()
        self.net = net
        self.own = nn.Parameter(torch.full(shape, 0.7, dtype=DTYPE)) if shape else None
        self.function = function

    def forward(self, x):
        y = self.net(x)
        return self.function(y) if self.own is None else self.function(y, self.own)


def transposed_twice(y, W):
    """A matrix is transposed once, and the transpose is used two times, the second time hardly."""
    T = W.t()
    return torch.tanh(y @ T) @ torch.eye(3, dtype=DTYPE) + 1e-3 * (y**2) @ T


class Numpy(torch.autograd.Function):
    """A function whose backward step leaves torch."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3.0 * x.detach().numpy() ** 2 * dy.numpy())


class Branch(nn.Module):
    """A residual network whose branch is small and normalised over the batch, 2 numbers to 2."""

    def __init__(self, scale, width):
        super().__init__()
        self.first, self.inner = nn.Linear(2, width), nn.Linear(width, width)
        self.norm, self.last = nn.BatchNorm1d(width), nn.Linear(width, 2)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(h + self.scale * torch.tanh(self.norm(self.inner(h))))


# Of each: a network from 4 numbers to 3.
GRAPHS = {
    "minus the mean over samples": lambda: Made(mlp(4, 6, 3), lambda y: y - y.mean(0)),
    "softmax over samples": lambda: Made(mlp(4, 6, 3), lambda y: torch.softmax(y, 0)),
    "a coupling of a thousandth": lambda: Made(mlp(4, 6, 3), lambda y: y + 1e-3 * y.mean(0)),
    "batch normalisation at the end": lambda: nn.Sequential(mlp(4, 6, 3), nn.BatchNorm1d(3)).to(DTYPE),
    "a transpose used twice": lambda: Made(mlp(4, 6, 3), transposed_twice, 3, 3),
    "a square of a matrix": lambda: Made(mlp(4, 6, 3), lambda y, W: y @ (W @ W + torch.eye(3, dtype=DTYPE)), 3, 3),
    "an exponential as long as the batch": lambda: Made(mlp(4, 6, 5), lambda y, c: (y * torch.exp(c))[:, :3], 5),
    "one of two outputs": lambda: Made(mlp(4, 6, 6), lambda y, c: (c * y).split(3, 1)[1], 6),
    "numpy in the backward step": lambda: Made(mlp(4, 6, 3), Numpy.apply),
}


@pytest.mark.parametrize("method", ["gram", "svd"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_step_is_right(name, method):
    x, target = data(5, 4, 3)
    torch.manual_seed(1)
    net = GRAPHS[name]()
    wanted = by_hand(net, x, squares(target), rcond=1e-4)
    optimizer = HalfInverse(net.parameters(), lr=0.01, method=method, rcond=1e-4)
    found = step_of(optimizer, net, x, squares(target))
    np.testing.assert_allclose(found, wanted, atol=1e-7 * np.abs(wanted).max())


@pytest.mark.parametrize("width", [5, 24], ids=["few parameters", "many"])
@pytest.mark.parametrize("method", ["gram", "svd"])
@pytest.mark.parametrize("scale", [3e-2, 1e-2, 1e-4])
def test_a_coupling_that_is_hardly_seen(scale, method, width):
    """Small singular values dominate the step, and small couplings are a large part of them."""
    torch.manual_seed(0)
    net = Branch(scale, width).double()
    x = torch.randn(32, 2, dtype=DTYPE)
    loss = squares(torch.sin(3.0 * x))
    wanted = by_hand(net, x, loss, rcond=1e-3)
    optimizer = HalfInverse(net.parameters(), lr=1e-3, rcond=1e-3, method=method)
    found = step_of(optimizer, net, x, loss)
    assert not optimizer.report.by_layers
    np.testing.assert_allclose(found, wanted, atol=1e-8 * np.abs(wanted).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_coupling_in_low_precision(dtype):
    """What comes to other samples is zero to the bit, or samples know of each other: rounding has no part in that."""
    for normalised in (False, True):
        torch.manual_seed(0)
        between = nn.BatchNorm1d(16) if normalised else nn.Identity()
        net = nn.Sequential(nn.Linear(2, 16), between, nn.Tanh(), nn.Linear(16, 3)).to(dtype)
        x = torch.randn(8, 2, dtype=dtype)
        exact = copy.deepcopy(net).double()
        wanted = by_hand(exact, x.double(), squares(0.0), rcond=1e-2)
        optimizer = HalfInverse(net.parameters(), lr=1.0, rcond=1e-2, method="gram")
        found = step_of(optimizer, net, x, squares(0.0))
        assert optimizer.report.by_layers != normalised
        unit = float(torch.finfo(dtype).eps)
        assert np.linalg.norm(found - wanted) < 30.0 * unit * np.linalg.norm(wanted)


def test_an_embedding_takes_no_sweep_for_each_row():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    words, target = torch.tensor([3, 1, 3, 6, 0]), data(5, 4, 3)[1]
    wanted = by_hand(net, words, squares(target))
    optimizer = HalfInverse(net.parameters(), lr=0.01)
    found = step_of(optimizer, net, words, squares(target))
    assert optimizer.report.by_layers
    np.testing.assert_allclose(found, wanted, atol=1e-9 * np.abs(wanted).max())


def test_the_parameter_itself_is_the_output():
    x = nn.Parameter(torch.ones(2, 3, dtype=DTYPE))
    HalfInverse([x], lr=0.1).step(lambda: (x, 0.5 * (x**2).sum()))
    # J is the identity: the step is that of gradient descent.
    np.testing.assert_allclose(x.detach(), 0.9, rtol=1e-12)


def test_a_size_of_batch_that_went_by_rows_does_not_slow_others():
    torch.manual_seed(1)
    net = nn.Sequential(mlp(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).to(DTYPE)
    optimizer = HalfInverse(net.parameters(), lr=0.01)
    x, target = data(6, 4, 3)
    for mode, count, by_layers in ((True, 6, False), (False, 5, True), (False, 6, False)):
        net.train(mode)
        step_of(optimizer, net, x[:count], squares(target[:count]))
        assert optimizer.report.by_layers == by_layers


def test_outputs_of_another_network():
    x, target = data(4, 4, 3)
    optimizer = HalfInverse(mlp(4, 9, 3).parameters())
    other = mlp(4, 9, 3)
    with pytest.raises(BadInput, match="depend on the parameters of this optimiser"):
        optimizer.step(lambda: (lambda y: (y, squares(target)(y)))(other(x)))
    frozen = mlp(4, 9, 3).requires_grad_(False)
    with pytest.raises(BadInput, match="parameters that require gradients, got none"):
        HalfInverse(frozen.parameters()).step(lambda: (lambda y: (y, squares(target)(y)))(other(x)))


def test_a_copy_after_a_scheduler_is_a_copy():
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    optimizer = HalfInverse(net.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    net_2, optimizer_2 = copy.deepcopy((net, optimizer))
    before = flat(net.parameters())
    optimizer_2.step(lambda: (lambda y: (y, squares(target)(y)))(net_2(x)))
    assert np.array_equal(flat(net.parameters()), before)
    assert not np.array_equal(flat(net_2.parameters()), before)


def test_all_settings_are_in_the_state():
    x, target = data(4, 4, 3)
    net, other = mlp(4, 9, 3), mlp(4, 9, 3)
    settings = {"method": "krylov", "krylov_steps": 3, "batch_invariant": True, "metric": [1.0, 2.0, 3.0]}
    optimizer, resumed = HalfInverse(net.parameters(), lr=0.1, **settings), HalfInverse(other.parameters())
    resumed.load_state_dict(optimizer.state_dict())
    for which, model in ((optimizer, net), (resumed, other)):
        step_of(which, model, x, squares(target))
    assert np.array_equal(flat(net.parameters()), flat(other.parameters()))


def test_the_largest_curvature_is_no_absolute_value():
    """L = -5/2 y_0² + 1/2 y_1²: the bound is that of 1."""
    x = nn.Parameter(torch.tensor([1.0, 1.0], dtype=DTYPE))
    signs = torch.tensor([-5.0, 1.0], dtype=DTYPE)
    optimizer = HalfInverse([x], lr=100.0, cap=1.0)
    with torch.no_grad():
        optimizer.step(lambda: (y := 4.0 * x[None], 0.5 * (signs * y**2).sum()))
    # s_max is 4.
    assert optimizer.report.lr == pytest.approx(2.0 / (1.0 * 2.0), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_curvature_of_a_saddle(seed):
    """L = Σ y_0² - y_1², as large downwards as upwards: 2."""
    torch.manual_seed(seed)
    x = nn.Parameter(torch.randn(8, 3 + seed, dtype=DTYPE))
    optimizer = HalfInverse([x], lr=100.0, cap=1.0)
    optimizer.step(lambda: (y := 1.0 * x, (y[:, 0] ** 2 - y[:, 1] ** 2).sum()))
    assert optimizer.report.lr == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_a_loss_that_curves_downwards_alone(seed):
    """1 - |<y, t>|²: rounding is no curvature, and gives no learning rate."""
    x, t = data(8, 4, 4, seed=seed)
    t = torch.nn.functional.normalize(t, dim=1)
    net = mlp(4, 9, 4, seed=seed)
    before = flat(net.parameters())
    optimizer = HalfInverse(net.parameters(), lr=np.inf, cap=0.5)
    with pytest.raises(BadInput, match="no curvature in y"):
        optimizer.step(lambda: (y := net(x), (1.0 - (y * t).sum(1) ** 2).sum()))
    assert np.array_equal(flat(net.parameters()), before)


def test_a_curvature_that_is_not_finite():
    """|y|^1.5 has a slope at zero, and no second derivative."""
    x = nn.Parameter(torch.tensor([0.0, 1.0], dtype=DTYPE))
    with pytest.raises(NotConverged, match="curvature of the loss in y"):
        HalfInverse([x], cap=0.5).step(lambda: (y := 1.0 * x[None], (y.abs() ** 1.5).sum()))


def test_weights_that_would_overflow():
    x = nn.Parameter(torch.ones(2))
    y = nn.Parameter(torch.ones(2))
    optimizer = HalfInverse([{"params": [x]}, {"params": [y], "lr": 1e39}], lr=1.0)
    with pytest.raises(NotConverged, match="weights would not be finite"):
        optimizer.step(lambda: (z := (x * y)[None], (z**2).sum()))
    assert x.tolist() == y.tolist() == [1.0, 1.0]


def test_learning_rates_of_groups_are_in_the_prediction():
    x, target = data(4, 4, 3)
    net = mlp(4, 9, 3)
    groups = [{"params": net[0].parameters(), "lr": 0.0}, {"params": net[2].parameters()}]
    optimizer = HalfInverse(groups, lr=1e-5, measure=True)
    optimizer.step(lambda: (lambda y: (y, squares(target)(y)))(net(x)))
    assert optimizer.report.predicted > 0.0
    assert optimizer.report.actual == pytest.approx(optimizer.report.predicted, rel=1e-3)


def test_krylov_takes_no_second_derivative_of_the_physics(monkeypatch):
    def refused(*_):
        raise AssertionError("a second derivative")

    monkeypatch.setattr(Linearization, "hvp", refused)
    problem = poisson.diffusion(meshes.unit_square(3), source=10.0)
    G = ReducedMap(problem, FieldValues(problem.state.function_space))
    net = mlp(2, 4, G.size_in)
    x, target = data(2, 2, G.size_out)
    layer = SolutionLayer(G)
    optimizer = HalfInverse(net.parameters(), lr=0.1, method="krylov", krylov_steps=5)
    optimizer.step(lambda: (lambda y: (y, squares(target)(y)))(layer(net(x))))
    # For each of two samples: four products with J, none after the last of five vectors.
    assert G.counts["tangent"] == 8 and optimizer.report.iterations == 5
