"""Layers whose weights are paths: their equation, their estimators, ranks that share their rows."""

from __future__ import annotations

import copy
import math

import pytest
from contract import close
from mpi4py import MPI

from relax.errors import BadInput

torch = pytest.importorskip("torch")
from relax.train import SDELayer  # noqa: E402

COMM = MPI.COMM_WORLD
ESTIMATORS = ("ckl", "fmc", "stl")


def layer_of(steps=8, **how):
    torch.manual_seed(5)
    return SDELayer(3, dtype=torch.float64, steps=steps, **how)


def stirred(layer):
    """A posterior that is not the prior."""
    with torch.no_grad():
        layer.weights.drift.net[-1].weight.normal_(0.0, 0.3)
    return layer


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_layer_begins_at_its_prior(estimator):
    layer, x = layer_of(estimator=estimator), torch.randn(4, 2, 3, dtype=torch.float64)
    h, log_ratio = layer(x)
    assert h.shape == x.shape and log_ratio.shape == () and float(log_ratio) == 0.0
    assert layer(x[:0])[0].shape == (0, 2, 3)
    h, log_ratio = layer(x, samples=5)
    assert h.shape == (5, *x.shape) and log_ratio.shape == (5,) and float(h.std(0).min()) > 0.0


def test_a_layer_is_its_equation():
    """By Euler's steps, written out; one draw of the weights and one log ratio, however many rows there are."""
    layer, x = stirred(layer_of(scheme="euler", estimator="fmc")), torch.randn(6, 3, dtype=torch.float64)
    torch.manual_seed(9)
    h, log_ratio = layer(x)
    torch.manual_seed(9)
    first, same = layer(x[:2])
    close(first.detach(), h[:2].detach(), 1e-12)
    assert float(same) == pytest.approx(float(log_ratio), rel=1e-12)
    torch.manual_seed(9)
    noise = torch.randn(8, 1, 12, dtype=torch.float64) / math.sqrt(8)
    w, ratio = layer.weights.start, 0.0
    for n in range(8):
        t = torch.tensor(n / 8.0, dtype=torch.float64)
        u = layer.weights.drift.net(torch.cat([w, t[None]])) / 0.2
        ratio = ratio + (0.5 * u @ u / 8.0 + u @ noise[n, 0])
        x = x + torch.tanh(x @ w[:9].reshape(3, 3) + w[9:]) / 8.0
        w = w + (0.2 * u - w) / 8.0 + 0.2 * noise[n, 0]
    close(h.detach(), x.detach(), 1e-12)
    assert float(log_ratio) == pytest.approx(float(ratio), rel=1e-12) and float(ratio) != 0.0


def test_estimators_of_a_layer_agree():
    x, means = torch.randn(4, 3, dtype=torch.float64), []
    for estimator in ESTIMATORS:
        layer = stirred(layer_of(estimator=estimator))
        torch.manual_seed(1)
        h, log_ratio = layer(x, samples=2000)
        loss = (h**2).mean((1, 2)) + log_ratio
        loss.mean().backward()
        slope = layer.weights.drift.net[0].bias.grad
        means.append((float(loss.mean()), float(loss.std()) / 2000**0.5, slope))
    for mean, error, slope in means[1:]:
        assert mean == pytest.approx(means[0][0], abs=3.0 * (error + means[0][1]))
        close(slope, means[0][2], 0.2)


def test_a_layer_compiled_copied_and_saved():
    layer, x = stirred(layer_of(3)), torch.randn(4, 3, dtype=torch.float64)
    torch.manual_seed(2)
    h, log_ratio = layer(x)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.manual_seed(2)
    again, ratio = compiled(x)
    close(again.detach(), h.detach(), 1e-12)
    assert float(ratio) == pytest.approx(float(log_ratio), rel=1e-10)
    (h.sum() - log_ratio).backward()
    expected = layer.weights.start.grad.clone()
    layer.zero_grad()
    (again.sum() - ratio).backward()
    close(layer.weights.start.grad, expected, 1e-10)
    other = layer_of(3)
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), other):
        torch.manual_seed(2)
        close(twin(x)[0].detach(), h.detach(), 1e-12)


@pytest.mark.ranks(1, 2)
def test_ranks_share_the_rows_of_a_layer():
    """Every rank draws the same weights; sums of gradients are the whole ones where the log ratio counts once."""
    layer, x = stirred(layer_of()), torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def slope(rows, part):
        layer.zero_grad()
        torch.manual_seed(7)
        h, log_ratio = layer(rows)
        ((h**2).sum() + part * log_ratio).backward()
        return torch.cat([p.grad.reshape(-1) for p in layer.parameters()]).numpy()

    summed = COMM.allreduce(slope(x[COMM.rank :: COMM.size], 1.0 / COMM.size))
    close(summed, slope(x, 1.0), 1e-12)


def test_doubtful_layers():
    layer = layer_of()
    for call, words in (
        (lambda: SDELayer(0), "features"),
        (lambda: SDELayer(2, widths=4), "widths"),
        (lambda: SDELayer(2, estimator="kl"), "estimator"),
        (lambda: SDELayer(2, activation="tanh"), "activation"),
        (lambda: SDELayer(2, sigma=-1.0), "sigma"),
        (lambda: layer(torch.zeros(4, 2, dtype=torch.float64)), "(..., 3)"),
        (lambda: layer(torch.zeros(4, 3)), "float64"),
        (lambda: layer(torch.zeros(4, 3, dtype=torch.float64), samples=0), "samples"),
    ):
        with pytest.raises(BadInput) as caught:
            call()
        assert words in str(caught.value)
