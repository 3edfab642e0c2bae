"""Mixtures of experts: gates, derivatives, and the same loss and gradient on any number of ranks."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "papers" / "gated_pinn"))

torch = pytest.importorskip("torch")

import experts  # noqa: E402
import gated_pinn  # noqa: E402
from gated_pinn import harness  # noqa: E402

WIDTHS = (3, 7, 5, 2)


def points(num: int = 40) -> torch.Tensor:
    random = torch.Generator().manual_seed(5)
    return 5.8 * torch.rand(num, 3, generator=random, dtype=torch.float64) - 2.9


@pytest.mark.parametrize(("gate", "num"), [(experts.TopGate(5, 2, 1), 2), (experts.HatGate(2, -3.0, 3.0), 4)])
def test_gates_are_a_partition_of_unity(gate, num):
    gates = gate(experts.at_points(points()))
    np.testing.assert_allclose(gates[0].sum(-1).detach(), 1.0, rtol=0, atol=1e-15)
    assert ((gates[0] > 0).sum(-1) == num).all()
    # The derivatives of one vanish.
    assert gates[1:].sum(-1).abs().max() < 1e-13


def test_all_experts_are_the_dense_mixture():
    net, z = experts.Experts(4, WIDTHS, experts.TopGate(4, 4, 1), 0), points()
    u, gates = net(z)
    logits = net.gate.linear(experts.at_points(z))[0, ..., 0]
    torch.testing.assert_close(gates, torch.softmax(logits, -1), rtol=0, atol=1e-15)
    one_by_one = net.networks(experts.at_points(z))[0]
    torch.testing.assert_close(u[0], (gates[..., None] * one_by_one).sum(1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", gated_pinn.KINDS)
def test_derivatives(kind):
    """Against central differences, away from where gates switch."""
    net, z, h = gated_pinn.network(kind, 0), points(), 1e-4
    u = net(z)[0]
    for axis, first, second in ((2, experts.T, None), (0, experts.X, experts.XX), (1, experts.Y, experts.YY)):
        moved = torch.zeros(3, dtype=torch.float64)
        moved[axis] = h
        up, down = net(z + moved)[0][0], net(z - moved)[0][0]
        torch.testing.assert_close(u[first], (up - down) / (2 * h), rtol=0, atol=1e-6)
        if second is not None:
            torch.testing.assert_close(u[second], (up - 2 * u[0] + down) / h**2, rtol=0, atol=1e-5)


def test_coherent_state_solves_the_equation():
    """i ψ_t = −½ Δψ + ½ r² ψ by differences, and a norm of one."""
    x, t, h = np.random.default_rng(0).uniform(-2, 2, (2, 20)), 0.4, 1e-3
    at = gated_pinn.coherent
    rate = (at(x, t + h) - at(x, t - h)) / (2 * h)
    bent = sum(at(x + d[:, None], t) + at(x - d[:, None], t) - 2 * at(x, t) for d in h * np.eye(2)) / h**2
    np.testing.assert_allclose(1j * rate, -0.5 * bent + 0.5 * (x**2).sum(0) * at(x, t), rtol=0, atol=3e-6)


@pytest.mark.parametrize("kind", gated_pinn.KINDS)
@pytest.mark.ranks(1, 2)
def test_loss_and_gradients_on_any_number_of_ranks(kind):
    """Against all points on one rank, differentiated by torch."""
    net = gated_pinn.network(kind, 0)
    (batch,) = islice(gated_pinn.batches(0), 1)
    loss = gated_pinn.loss_and_gradients(net, batch)
    found = [p.grad.clone() for p in net.parameters()]
    whole = gated_pinn.loss_of(gated_pinn.sums(net, batch, slice), isinstance(net.gate, experts.TopGate))
    expected = torch.autograd.grad(whole, list(net.parameters()))
    assert loss == pytest.approx(float(whole), rel=1e-12)
    for mine, all_of_them in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, all_of_them, rtol=1e-12, atol=1e-12 * float(all_of_them.abs().max()))
    assert harness.COMM.allreduce(float(found[0].sum())) == harness.COMM.size * float(found[0].sum())
